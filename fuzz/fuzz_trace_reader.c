/* Feeds any bytes to the trace reader and checks what must hold of every answer: no over-read (the sanitizers' part),
 * time that never falls, indices within their tables, an error that says something and stays, and the same columns
 * whatever the capacity of the caller's arrays, which decides where the fast loop hands over to the careful one. */
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t all = read_all(data, size, CAPACITY, UINT64_MAX);
    must(read_all(data, size, 3, UINT64_MAX) == all, "the same columns at another capacity");
    read_all(data, size, 7, UINT64_C(1) << TRACE_GC_BEGIN | UINT64_C(1) << TRACE_STW_BEGIN);
    return 0;
}
