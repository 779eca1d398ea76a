/* A generation's tables and clock. Ids mean something within their generation only; types and the strings that events
 * name get indices that are the same in the whole trace. */
#include <stdlib.h>
#include <string.h>
#include "trace_reader.h"
#include "trace_wire.h"

static uint64_t offset_of(const trace_reader *r, const uint8_t *p) { return (uint64_t)(p - r->data); }

static int bad_table(trace_reader *r, struct trace_bytes b, const char *table) {
    return trace_fail(r, PYMEM_EFORMAT, offset_of(r, b.p), "the %s table is damaged here; record the trace again",
                      table);
}

/* Reads n numbers. 0 for good. */
static int read_numbers(struct trace_bytes *b, uint64_t *numbers, int n) {
    for (int i = 0; i < n; i++)
        if (trace_uvarint(b, &numbers[i]) != 0) return 1;
    return 0;
}

/* Reads n numbers behind a byte that must be type. 0 for good. */
static int read_entry(struct trace_bytes *b, uint8_t type, uint64_t *numbers, int n) {
    if (b->p == b->end || *b->p != type) return 1;
    b->p++;
    return read_numbers(b, numbers, n);
}

/* ---- strings ---- */

static int add_text(trace_reader *r, uint64_t id, const uint8_t *bytes, uint32_t len) {
    int status = trace_grow(r, (void **)&r->texts, &r->cap_texts, r->num_texts + 1, sizeof *r->texts);
    if (status != PYMEM_OK) return status;
    r->texts[r->num_texts] = (struct trace_text){(const char *)bytes, len, TRACE_NONE};
    return trace_map_put(r, &r->string_ids, id, r->num_texts++);
}

int trace_read_strings(trace_reader *r, struct trace_bytes b) {
    r->has_strings = 1;
    b.p++;
    while (b.p != b.end) {
        uint64_t head[2]; /* id, length */
        struct trace_bytes entry = b;
        if (read_entry(&b, EV_STRING, head, 2) != 0) return bad_table(r, entry, "string");
        if (head[1] > (uint64_t)(b.end - b.p)) return bad_table(r, entry, "string");
        int status = add_text(r, head[0], b.p, (uint32_t)head[1]);
        if (status != PYMEM_OK) return status;
        b.p += head[1];
    }
    return PYMEM_OK;
}

static int same_text(const struct trace_text *a, const struct trace_text *b) {
    return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

/* Gives the text an index of the whole trace. Texts of equal hash take keys that follow each other. */
static int hand_out(trace_reader *r, struct trace_text *text) {
    uint64_t key = trace_hash_bytes(0, text->bytes, text->len);
    for (;; key++) {
        uint32_t index = trace_map_get(&r->string_hashes, key);
        if (index == TRACE_NONE) break;
        text->index = index;
        if (same_text(text, &r->strings[index])) return PYMEM_OK;
    }
    int status = trace_grow(r, (void **)&r->strings, &r->cap_strings, r->num_strings + 1, sizeof *r->strings);
    if (status != PYMEM_OK) return status;
    text->index = r->num_strings;
    r->strings[r->num_strings++] = *text;
    return trace_map_put(r, &r->string_hashes, key, text->index);
}

int trace_string_index(trace_reader *r, uint64_t id, uint32_t *index) {
    *index = 0;
    uint32_t i = id == 0 ? TRACE_NONE : trace_map_get(&r->string_ids, id);
    if (i == TRACE_NONE) return PYMEM_OK;
    int status = r->texts[i].index == TRACE_NONE ? hand_out(r, &r->texts[i]) : PYMEM_OK;
    *index = r->texts[i].index;
    return status;
}

/* ---- stacks ---- */

static bool is_named(const struct trace_text *text, const char *name) {
    size_t len = strlen(name);
    return text->len == len && memcmp(text->bytes, name, len) == 0;
}

static bool starts_with(const struct trace_text *text, const char *start) {
    size_t len = strlen(start);
    return text->len >= len && memcmp(text->bytes, start, len) == 0;
}

/* What a frame tells. outermost: the goroutine began in it; those that the runtime starts for itself and for its tracer
 * begin in functions of its packages, the program's main goroutine in runtime.main. Go: internal/trace's
 * IsSystemGoroutine
 */
static uint32_t frame_tells(const trace_reader *r, uint64_t string_id, bool outermost) {
    uint32_t i = trace_map_get(&r->string_ids, string_id);
    if (i == TRACE_NONE) return 0;
    const struct trace_text *name = &r->texts[i];
    uint32_t told = is_named(name, "runtime.GC") ? STACK_FORCES_GC : 0;
    bool own = starts_with(name, "runtime.") || starts_with(name, "runtime/trace.");
    return outermost && own && !is_named(name, "runtime.main") ? told | STACK_IS_RUNTIMES : told;
}

/* Innermost frames come first. All strings are known by now. */
int trace_read_stacks(trace_reader *r, struct trace_bytes b) {
    b.p++;
    while (b.p != b.end) {
        uint64_t head[2]; /* id, frames */
        struct trace_bytes entry = b;
        if (read_entry(&b, EV_STACK, head, 2) != 0) return bad_table(r, entry, "stack");
        uint32_t told = 0;
        for (uint64_t i = 0; i < head[1]; i++) {
            uint64_t frame[4]; /* pc, function, file, line */
            if (read_numbers(&b, frame, 4) != 0) return bad_table(r, entry, "stack");
            told |= frame_tells(r, frame[1], i + 1 == head[1]);
        }
        int status = told ? trace_map_put(r, &r->stack_tells, head[0], told) : PYMEM_OK;
        if (status != PYMEM_OK) return status;
    }
    return PYMEM_OK;
}

/* ---- CPU samples ---- */

/* Samples are counted and checked, not handed out: they say nothing about memory. */
int trace_read_cpu_samples(trace_reader *r, struct trace_bytes b) {
    b.p++;
    while (b.p != b.end) {
        uint64_t sample[5]; /* time, M, P, goroutine, stack */
        struct trace_bytes entry = b;
        if (read_entry(&b, EV_CPU_SAMPLE, sample, 5) != 0) return bad_table(r, entry, "CPU sample");
        r->info.cpu_samples++;
    }
    return PYMEM_OK;
}

/* ---- the clock ---- */

static int read_frequency(trace_reader *r, struct trace_bytes *b) {
    struct trace_bytes entry = *b;
    uint64_t frequency;
    if (read_entry(b, EV_FREQUENCY, &frequency, 1) != 0) return bad_table(r, entry, "clock");
    if (r->new_frequency != 0 || frequency == 0)
        return trace_fail(r, PYMEM_EFORMAT, offset_of(r, entry.p),
                          "a generation's clock has %s: the file is damaged here",
                          frequency ? "two frequencies" : "frequency 0");
    r->new_frequency = frequency;
    return PYMEM_OK;
}

/* Both clocks at one moment. The first snapshot of the trace dates all of it. */
static int read_snapshot(trace_reader *r, uint64_t time, struct trace_bytes *b) {
    struct trace_bytes entry = *b;
    uint64_t v[4]; /* ticks since time, monotonic ns, wall seconds, ns of the second */
    if (read_entry(b, EV_CLOCK_SNAPSHOT, v, 4) != 0) return bad_table(r, entry, "clock");
    if (r->has_snapshot) return PYMEM_OK;
    r->has_snapshot = 1;
    r->snapshot_ticks = time + v[0];
    r->snapshot_wall_ns = v[2] * 1000000000 + v[3];
    return PYMEM_OK;
}

int trace_read_sync(trace_reader *r, uint64_t time, struct trace_bytes b) {
    if (*b.p == EV_SYNC) b.p++;
    while (b.p != b.end) {
        int status = *b.p == EV_FREQUENCY ? read_frequency(r, &b) : read_snapshot(r, time, &b);
        if (status != PYMEM_OK) return status;
    }
    return PYMEM_OK;
}

/* ---- the alloc-free experiment: types, and where the heap is ---- */

static int same_type(const trace_type *a, const trace_type *b) {
    return a->address == b->address && a->name_len == b->name_len && memcmp(a->name, b->name, a->name_len) == 0;
}

/* *index: the type's index in the whole trace, by its address and name. */
static int merge_type(trace_reader *r, const trace_type *type, uint32_t *index) {
    uint64_t key = trace_hash_bytes(type->address, type->name, type->name_len);
    for (;; key++) {
        *index = trace_map_get(&r->type_hashes, key);
        if (*index == TRACE_NONE) break;
        if (same_type(type, &r->types[*index])) return PYMEM_OK;
    }
    int status = trace_grow(r, (void **)&r->types, &r->cap_types, r->num_types + 1, sizeof *r->types);
    if (status != PYMEM_OK) return status;
    *index = r->num_types;
    r->types[r->num_types++] = *type;
    return trace_map_put(r, &r->type_hashes, key, *index);
}

static int read_types(trace_reader *r, struct trace_bytes b) {
    while (b.p != b.end) {
        uint64_t v[5]; /* id, address, size, bytes with pointers, length of the name */
        struct trace_bytes entry = b;
        if (read_numbers(&b, v, 5) != 0 || v[4] > (uint64_t)(b.end - b.p)) return bad_table(r, entry, "type");
        trace_type type = {v[1], v[2], v[3], (const char *)b.p, (uint32_t)v[4]};
        b.p += v[4];
        uint32_t index;
        int status = merge_type(r, &type, &index);
        if (status == PYMEM_OK) status = trace_map_put(r, &r->type_ids, v[0], index);
        if (status != PYMEM_OK) return status;
        if (v[0] < TRACE_SMALL_TYPES && r->small_types[v[0]] == TRACE_NONE) r->small_types[v[0]] = index;
    }
    return PYMEM_OK;
}

static int is_size(uint64_t n) { return n != 0 && n <= 1 << 30 && (n & (n - 1)) == 0; }

static int read_heap_info(trace_reader *r, struct trace_bytes b) {
    struct trace_bytes entry = b;
    uint64_t v[4]; /* lowest heap address; bytes of a page; alignment of objects and of stacks */
    if (read_numbers(&b, v, 4) != 0 || b.p != b.end) return bad_table(r, entry, "heap information");
    if (!is_size(v[1]) || !is_size(v[2]) || !is_size(v[3]))
        return trace_fail(r, PYMEM_EFORMAT, offset_of(r, entry.p),
                          "page size %llu or alignment %llu or %llu is no power of two: the file is damaged here",
                          (unsigned long long)v[1], (unsigned long long)v[2], (unsigned long long)v[3]);
    r->info.has_heap_info = 1;
    r->info.min_heap_addr = v[0];
    r->info.page_size = v[1];
    r->info.heap_align = v[2];
    r->info.stack_align = v[3];
    return PYMEM_OK;
}

int trace_read_alloc_free(trace_reader *r, struct trace_bytes b) {
    uint8_t what = *b.p++;
    if (what == TRACE_ALLOC_FREE_TYPES) return read_types(r, b);
    if (what == TRACE_ALLOC_FREE_INFO) return read_heap_info(r, b);
    return trace_fail(r, PYMEM_EFORMAT, offset_of(r, b.p - 1),
                      "allocation data of kind %u, unknown up to Go 1.27: the trace is of a newer Go, or damaged here",
                      what);
}
