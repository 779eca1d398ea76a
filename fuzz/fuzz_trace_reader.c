/* Feeds any bytes to the trace reader and checks what must hold of every answer: no over-read (the sanitizers' part),
 * time that never falls, indices within their tables, an error that says something and stays, and the same columns
 * whatever the capacity of the caller's arrays, which decides where the fast loop hands over to the careful one. What
 * is read goes through the converter to rows, where no handle may be given twice, with and without an allocation that
 * fails. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pymem_api.h"

enum { CAPACITY = 512 };

struct arrays {
    int64_t time[CAPACITY];
    uint64_t a[CAPACITY], b[CAPACITY];
    int64_t g[CAPACITY];
    int16_t p[CAPACITY];
    uint16_t c[CAPACITY];
    uint8_t kind[CAPACITY];
};

static void must(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

static uint64_t mix(uint64_t h, uint64_t x) { return (h ^ x) * UINT64_C(0x100000001b3) + (h >> 29); }

static void check_event(const trace_info *info, const struct arrays *c, int64_t i) {
    must(c->kind[i] < TRACE_NUM_KINDS, "a kind in range");
    must(c->time[i] >= 0, "a time after the start");
    must(c->p[i] >= -1, "a P, or none");
    if (c->kind[i] == TRACE_OBJECT_ALLOC || c->kind[i] == TRACE_OBJECT)
        must(c->b[i] < info->num_types, "a type index within the types");
    if (c->kind[i] == TRACE_STW_BEGIN || c->kind[i] == TRACE_GO_BLOCK || c->kind[i] == TRACE_GO_STOP)
        must(c->b[i] < info->num_strings, "a string index within the strings");
}

static uint64_t hash_event(uint64_t h, const struct arrays *c, int64_t i) {
    h = mix(mix(mix(h, (uint64_t)c->time[i]), c->a[i]), c->b[i]);
    return mix(mix(mix(mix(h, (uint64_t)c->g[i]), (uint64_t)c->p[i]), c->c[i]), c->kind[i]);
}

static void check_tables(trace_reader *r, const trace_info *info) {
    volatile uint8_t sum = 0;
    for (uint32_t i = 0; i < info->num_types; i++) {
        trace_type type;
        must(trace_get_types(r, i, 1, &type) == PYMEM_OK, "a type for its index");
        for (uint32_t j = 0; j < type.name_len; j++) sum += (uint8_t)type.name[j];
    }
    trace_type none;
    must(trace_get_types(r, info->num_types, 1, &none) == PYMEM_EINVAL, "no type beyond the last");
    for (uint32_t i = 0; i <= info->num_strings; i++) {
        uint32_t len;
        const char *bytes = trace_get_string(r, i, &len);
        for (uint32_t j = 0; j < len; j++) sum += (uint8_t)bytes[j];
    }
}

static void check_end(trace_reader *r, int status, const uint8_t *data, size_t size) {
    uint64_t offset;
    const char *message = trace_error(r, &offset);
    must((status != PYMEM_OK) == (message[0] != 0), "a sentence for an error, none without");
    must(offset <= size, "an offset within the file");
    trace_info info;
    trace_get_info(r, &info);
    must(info.incomplete_offset <= size && info.position <= size, "positions within the file");
    check_tables(r, &info);
    (void)data;
}

/* Reads everything; returns a hash of all columns. */
static uint64_t read_all(const uint8_t *data, size_t size, int64_t capacity, uint64_t mask) {
    static struct arrays arrays; /* the harness has one thread */
    const trace_columns columns = {arrays.time, arrays.a, arrays.b, arrays.g, arrays.p, arrays.c, arrays.kind};
    trace_reader *r;
    int status = trace_open(data, size, mask, NULL, &r);
    uint64_t hash = 0;
    int64_t last = 0;
    for (int done = 0; status == PYMEM_OK && !done;) {
        int64_t count;
        status = trace_next(r, &columns, capacity, &count, &done);
        must(count >= 0 && count <= capacity, "a count within the capacity");
        trace_info info;
        trace_get_info(r, &info);
        for (int64_t i = 0; i < count; i++) {
            check_event(&info, &arrays, i);
            must(arrays.time[i] >= last, "a time that never falls");
            last = arrays.time[i];
            hash = hash_event(hash, &arrays, i);
        }
        if (status != PYMEM_OK) must(trace_next(r, &columns, 1, &count, &done) == status, "an error that stays");
    }
    check_end(r, status, data, size);
    trace_close(r);
    return mix(hash, (uint64_t)status);
}

/* ---- rows ---- */

enum { ROWS = 64, PROCS = 3, MAX_HANDLES = 1 << 18, ARENA = 64 << 20 };

struct rows {
    int64_t time[ROWS];
    uint8_t kind[ROWS], flags[ROWS];
    int16_t proc[ROWS];
    uint32_t goroutine[ROWS], type[ROWS];
    uint64_t object[ROWS], size[ROWS], expect[ROWS];
};

struct conversion {
    trace_rows *rows;
    trace_rows_out out;
    struct rows *arrays;
    int64_t *faults;
    uint64_t hash;
    uint8_t live[MAX_HANDLES];
    int started;
};

/* What begins or ends with this row: 1, -1, or nothing that has a handle. */
static int life_of(const struct rows *a, uint64_t i) {
    switch (a->kind[i]) {
    case PYMEM_EV_ALLOC:
    case PYMEM_EV_START_OBJECT:
    case PYMEM_EV_MANUAL_ALLOC: return 1;
    case PYMEM_EV_START_SPAN: return a->type[i] ? 1 : 0;
    case PYMEM_EV_DEATH:
    case PYMEM_EV_MANUAL_FREE: return -1;
    default: return 0;
    }
}

/* Takes the rows out. */
static void take_rows(struct conversion *c) {
    const struct rows *a = c->arrays;
    must(c->out.n <= ROWS, "rows within their room");
    for (uint64_t i = 0; i < c->out.n; i++) {
        int life = life_of(a, i);
        must(a->proc[i] >= -1 && a->proc[i] < PROCS, "a proc, or none");
        c->hash = mix(mix(mix(c->hash, a->kind[i]), a->object[i]), a->expect[i]);
        if (!life) continue;
        must(a->object[i] < MAX_HANDLES && c->live[a->object[i]] == (life < 0), "a handle that is free, or in use");
        c->live[a->object[i]] = life > 0;
    }
    c->out.n = 0;
}

/* The cycle's deaths: of all the frees among these events. */
static int tell_deaths(struct conversion *c, const trace_columns *columns, uint64_t n, uint64_t at) {
    for (int status = PYMEM_OK; at < n;) {
        status = trace_rows_dead(c->rows, columns, n, &at, &c->out);
        if (status != PYMEM_OK) return status;
        take_rows(c);
    }
    return PYMEM_OK;
}

/* One step: whatever the converter stopped for, and on to the next stop. */
static int step(struct conversion *c, const trace_columns *columns, uint64_t n, uint64_t *at, int *stop) {
    if (*stop == TRACE_ROWS_CYCLE) {
        int status = tell_deaths(c, columns, n, *at);
        if (status != PYMEM_OK) return status;
        trace_rows_cycle(c->rows, n % 7);
    }
    *stop = TRACE_ROWS_FULL;
    int status = trace_rows_run(c->rows, columns, n, at, &c->out, stop);
    if (status != PYMEM_OK) return status;
    take_rows(c);
    if (*stop != TRACE_ROWS_START) return status;
    must(!c->started, "one start");
    trace_rows_started(c->rows, c->started = 1, &c->out);
    return status;
}

static void convert(struct conversion *c, const trace_columns *columns, uint64_t n) {
    uint64_t at = 0;
    for (int stop = TRACE_ROWS_FULL; stop != TRACE_ROWS_USED;) {
        int status = step(c, columns, n, &at, &stop);
        must(status == PYMEM_OK || *c->faults == 0, "memory for all that lives");
        if (status != PYMEM_OK) *c->faults = -1; /* and once more */
    }
}

/* The callers refuse spans at other addresses (check_spans). */
static int has_wild_span(const struct arrays *a, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if ((a->kind[i] == TRACE_SPAN || a->kind[i] == TRACE_SPAN_ALLOC) && (a->a[i] < ARENA || a->a[i] >> 47))
            return 1;
    return 0;
}

static struct conversion *conversion_new(struct rows *a, int64_t *faults) {
    struct conversion *c = calloc(1, sizeof *c);
    *c = (struct conversion){.arrays = a, .faults = faults};
    c->out = (trace_rows_out){a->time,   a->kind, a->flags,  a->proc, a->goroutine, a->type,
                              a->object, a->size, a->expect, 0,       ROWS};
    must(trace_rows_new(PROCS, 1, faults, &c->rows) == PYMEM_OK, "a converter");
    return c;
}

/* Converts everything up to the first error; returns a hash of all rows. A fault is the rows', not the reader's. */
static uint64_t convert_all(const uint8_t *data, size_t size, int64_t faults) {
    static struct arrays arrays;
    static struct rows rows;
    const trace_columns columns = {arrays.time, arrays.a, arrays.b, arrays.g, arrays.p, arrays.c, arrays.kind};
    struct conversion *c = conversion_new(&rows, &faults);
    trace_reader *r;
    int done = 0, status = trace_open(data, size, UINT64_MAX, NULL, &r);
    while (status == PYMEM_OK && !done) {
        int64_t count;
        status = trace_next(r, &columns, CAPACITY, &count, &done);
        if (has_wild_span(&arrays, count)) break;
        convert(c, &columns, (uint64_t)count);
    }
    uint64_t hash = c->hash;
    trace_close(r);
    trace_rows_free(c->rows);
    free(c);
    return hash;
}

/* A reader that runs out of memory says so, and can be closed. */
static void read_without_memory(const uint8_t *data, size_t size, int64_t faults) {
    static struct arrays arrays;
    const trace_columns columns = {arrays.time, arrays.a, arrays.b, arrays.g, arrays.p, arrays.c, arrays.kind};
    trace_reader *r;
    int64_t count;
    int done = 0, status = trace_open(data, size, UINT64_MAX, &faults, &r);
    while (status == PYMEM_OK && !done) status = trace_next(r, &columns, CAPACITY, &count, &done);
    must(status == PYMEM_OK || status == PYMEM_EFORMAT || (status == PYMEM_ENOMEM && faults == 0), "memory for tables");
    trace_close(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t all = read_all(data, size, CAPACITY, UINT64_MAX);
    must(read_all(data, size, 3, UINT64_MAX) == all, "the same columns at another capacity");
    read_all(data, size, 7, UINT64_C(1) << TRACE_GC_BEGIN | UINT64_C(1) << TRACE_STW_BEGIN);
    uint64_t rows = convert_all(data, size, -1);
    must(convert_all(data, size, 1 + (int64_t)(all % 24)) == rows, "the same rows where an allocation failed");
    read_without_memory(data, size, (int64_t)(all % 64));
    return 0;
}
