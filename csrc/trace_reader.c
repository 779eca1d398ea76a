/* The execution trace reader's calls, its memory and its errors. How a trace is read: trace_reader.h. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fault.h"
#include "trace_reader.h"

/* Events decoded by one call of trace_next at most, so that it returns within a fraction of a second. */
enum { TRACE_BUDGET = 8 << 20 };

int trace_fail(trace_reader *r, int status, uint64_t offset, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(r->message, sizeof r->message, format, args);
    va_end(args);
    r->error_offset = offset;
    return r->status = status;
}

int trace_no_memory(trace_reader *r) {
    return trace_fail(r, PYMEM_ENOMEM, r->pos, "no memory left for the tables of generation %llu",
                      (unsigned long long)r->generation);
}

void *trace_realloc(trace_reader *r, void *p, size_t size) { return fault_due(r->faults) ? NULL : realloc(p, size); }

int trace_grow(trace_reader *r, void **items, uint32_t *capacity, uint32_t need, size_t size) {
    if (need <= *capacity) return PYMEM_OK;
    if (need > UINT32_MAX / 4) return trace_fail(r, PYMEM_EFORMAT, r->pos, "a table has more than %u entries", need);
    uint32_t wider = *capacity ? *capacity * 2 : 64;
    if (wider < need) wider = need;
    void *moved = trace_realloc(r, *items, wider * size);
    if (moved == NULL) return trace_no_memory(r);
    *items = moved;
    *capacity = wider;
    return PYMEM_OK;
}

/* Index 0 of both lists means "none". */
static int make_none_entries(trace_reader *r) {
    int status = trace_grow(r, (void **)&r->types, &r->cap_types, 1, sizeof *r->types);
    if (status == PYMEM_OK) status = trace_grow(r, (void **)&r->strings, &r->cap_strings, 1, sizeof *r->strings);
    if (status != PYMEM_OK) return status;
    r->types[0] = (trace_type){.name = ""};
    r->strings[0] = (struct trace_text){.bytes = ""};
    r->num_types = r->num_strings = 1;
    return PYMEM_OK;
}

int trace_open(const uint8_t *data, uint64_t len, uint64_t kind_mask, int64_t *faults, trace_reader **out) {
    trace_reader *r = *out = fault_due(faults) ? NULL : calloc(1, sizeof *r);
    if (r == NULL) return PYMEM_ENOMEM;
    r->faults = faults;
    r->data = data;
    r->len = len;
    r->kind_mask = kind_mask;
    r->first_stacks = r->last_stacks = TRACE_NONE;
    int status = make_none_entries(r);
    if (status == PYMEM_OK) status = trace_read_header(r);
    return status;
}

/* The next generation's events, ready to be merged. */
static int begin_generation(trace_reader *r) {
    int status = trace_next_generation(r);
    if (status != PYMEM_OK || r->finished) return status;
    status = trace_start_clock(r);
    return status == PYMEM_OK ? trace_start_merge(r) : status;
}

int trace_next(trace_reader *r, const trace_columns *columns, int64_t capacity, int64_t *count, int *done) {
    *count = 0;
    *done = 0;
    if (r->status != PYMEM_OK) return r->status;
    if (capacity < 1) return PYMEM_EINVAL;
    int64_t budget = TRACE_BUDGET;
    while (*count < capacity && budget > 0 && !r->finished) {
        int status = r->num_heap == 0 ? begin_generation(r) : trace_merge(r, columns, capacity, count, &budget);
        if (status != PYMEM_OK) return status;
        budget--; /* generations without an event are work too */
    }
    *done = r->finished;
    return PYMEM_OK;
}

void trace_get_info(const trace_reader *r, trace_info *out) {
    *out = r->info;
    out->num_types = r->num_types;
    out->num_strings = r->num_strings;
    out->threads = r->num_ms;
    out->position = r->pos;
    out->length = r->len;
    out->frequency = r->clock.frequency;
}

int trace_get_types(const trace_reader *r, uint32_t first, uint32_t count, trace_type *out) {
    if (first > r->num_types || count > r->num_types - first) return PYMEM_EINVAL;
    memcpy(out, r->types + first, count * sizeof *out);
    return PYMEM_OK;
}

const char *trace_get_string(const trace_reader *r, uint32_t index, uint32_t *len) {
    const struct trace_text *text = &r->strings[index < r->num_strings ? index : 0];
    *len = text->len;
    return text->bytes;
}

const char *trace_error(const trace_reader *r, uint64_t *offset) {
    *offset = r->error_offset;
    return r->message;
}

static void free_maps(trace_reader *r) {
    struct trace_map *maps[] = {&r->string_ids,  &r->type_ids,      &r->stack_tells, &r->m_ids,
                                &r->type_hashes, &r->string_hashes, &r->batch_ids};
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) trace_map_free(maps[i]);
}

void trace_close(trace_reader *r) {
    if (r == NULL) return;
    free_maps(r);
    free(r->batches);
    free(r->cursors);
    free(r->heap);
    free(r->gen_ms);
    free(r->texts);
    free(r->ms);
    free(r->types);
    free(r->strings);
    free(r);
}
