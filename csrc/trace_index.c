/* First pass over a generation: from batch to batch by their lengths, so that only a few bytes in 64 KB are touched.
 * Batches with events are listed by M; tables are read on the way. A file that ends in the middle of a generation is
 * what a killed program leaves: all complete batches of it count. Bytes that no Go wrote are an error. */
#include <stdlib.h>
#include <string.h>
#include "trace_reader.h"
#include "trace_wire.h"

enum { OLDEST_VERSION = 22, NEWEST_VERSION = 27, SYNC_VERSION = 25, END_MARK_VERSION = 26 };

/* Ticks are 64 ns on every system with a clock of nanoseconds, which all of Linux and macOS have. */
static const uint64_t usual_frequency = 1000000000 / 64;

/* What a batch says about itself. */
struct batch_header {
    uint64_t start; /* byte where it begins */
    uint8_t type;
    uint8_t experiment; /* 0 for none */
    uint64_t generation, m, time;
    struct trace_bytes contents;
};

/* ---- the file's header ---- */

static int begins_with(const trace_reader *r, const char *bytes, size_t len) {
    return r->len >= len && memcmp(r->data, bytes, len) == 0;
}

static int not_a_trace(trace_reader *r) {
    if (r->len == 0)
        return trace_fail(r, PYMEM_EFORMAT, 0, "the file is empty; did the program stop its trace (trace.Stop)?");
    if (begins_with(r, "\x1f\x8b", 2))
        return trace_fail(r, PYMEM_EFORMAT, 0,
                          "this is gzip, not an execution trace: a pprof profile, or a trace to be unpacked by gunzip");
    return trace_fail(r, PYMEM_EFORMAT, 0,
                      "not a Go execution trace (it would begin with \"go 1.\"); record one with go test -trace, "
                      "runtime/trace or /debug/pprof/trace");
}

static int unknown_version(trace_reader *r, unsigned minor) {
    if (minor < OLDEST_VERSION)
        return trace_fail(r, PYMEM_EFORMAT, 5,
                          "a trace of Go 1.%u, which has another format; record it again with Go 1.%d or newer "
                          "(1.23 for allocations)",
                          minor, OLDEST_VERSION);
    return trace_fail(r, PYMEM_EFORMAT, 5,
                      "a trace of format go 1.%u, newer than this reader (1.%d to 1.%d); update pymem, or record it "
                      "with an older Go",
                      minor, OLDEST_VERSION, NEWEST_VERSION);
}

/* "go 1.NN trace" and zeros up to 16 bytes. */
int trace_read_header(trace_reader *r) {
    if (!begins_with(r, "go 1.", 5)) return not_a_trace(r);
    unsigned minor = 0;
    uint64_t i = 5;
    for (; i < r->len && i < 9 && r->data[i] >= '0' && r->data[i] <= '9'; i++) minor = minor * 10 + (r->data[i] - '0');
    if (i == 5 || r->len < i + 6 || memcmp(r->data + i, " trace", 6) != 0) return not_a_trace(r);
    if (minor < OLDEST_VERSION || minor > NEWEST_VERSION) return unknown_version(r, minor);
    if (r->len < TRACE_HEADER_SIZE || memcmp(r->data + i + 6, "\0\0\0", 3) != 0) return not_a_trace(r);
    r->info.version = minor;
    r->pos = TRACE_HEADER_SIZE;
    return PYMEM_OK;
}

/* ---- one batch ---- */

/* The file ends inside the batch that begins at offset, or lacks the mark of the generation's end there. */
static void cut_short(trace_reader *r, uint64_t offset) {
    r->info.incomplete = 1;
    r->info.incomplete_offset = offset;
    r->pos = r->len;
}

enum batch_result { BATCH_READ, BATCH_CUT, BATCH_ERROR };

static enum batch_result bad_batch(trace_reader *r, const struct batch_header *h, const char *what) {
    trace_fail(r, PYMEM_EFORMAT, h->start, "%s: the file is damaged here; record the trace again", what);
    return BATCH_ERROR;
}

static enum batch_result read_type(trace_reader *r, struct batch_header *h) {
    h->type = r->data[h->start];
    h->experiment = 0;
    h->contents = (struct trace_bytes){r->data + h->start + 1, r->data + r->len};
    if (h->type != EV_EVENT_BATCH && h->type != EV_EXPERIMENTAL_BATCH) {
        trace_fail(
            r, PYMEM_EFORMAT, h->start,
            "byte %u where a batch of events begins: the file is damaged at or before this place, or of a newer Go",
            h->type);
        return BATCH_ERROR;
    }
    if (h->type == EV_EVENT_BATCH) return BATCH_READ;
    if (h->contents.p == h->contents.end) return BATCH_CUT;
    h->experiment = *h->contents.p++;
    return BATCH_READ;
}

/* Reads the batch's header at r->pos; pos moves behind its contents. */
static enum batch_result read_batch(trace_reader *r, struct batch_header *h) {
    h->start = r->pos;
    enum batch_result result = read_type(r, h);
    if (result != BATCH_READ) return result;
    uint64_t size = 0;
    uint64_t *fields[] = {&h->generation, &h->m, &h->time, &size};
    for (int i = 0; i < 4; i++) {
        int bad = trace_uvarint(&h->contents, fields[i]);
        if (bad == 1) return BATCH_CUT;
        if (bad == 2) return bad_batch(r, h, "a number in a batch's header is longer than 64 bits");
    }
    if (size > TRACE_MAX_BATCH) return bad_batch(r, h, "a batch says that it is larger than 64 KB");
    if (h->generation == 0) return bad_batch(r, h, "a batch of generation 0, which Go never writes");
    if (size > (uint64_t)(h->contents.end - h->contents.p)) return BATCH_CUT;
    h->contents.end = h->contents.p + size;
    r->pos = (uint64_t)(h->contents.end - r->data);
    return BATCH_READ;
}

/* ---- lists of batches ---- */

static int append_batch(trace_reader *r, const struct batch_header *h, uint32_t *first, uint32_t *last) {
    int status = trace_grow(r, (void **)&r->batches, &r->cap_batches, r->num_batches + 1, sizeof *r->batches);
    if (status != PYMEM_OK) return status;
    uint32_t index = r->num_batches++;
    r->batches[index] = (struct trace_batch){.time = h->time,
                                             .offset = (uint64_t)(h->contents.p - r->data),
                                             .size = (uint32_t)(h->contents.end - h->contents.p),
                                             .next = TRACE_NONE};
    if (*last == TRACE_NONE) *first = index;
    else r->batches[*last].next = index;
    *last = index;
    return PYMEM_OK;
}

/* Now and then Go 1.27 writes batches again in place of others, which are lost; its own tools do not read such a trace.
 * Two batches of an M do not begin at the same time. */
static int check_not_doubled(trace_reader *r, const struct batch_header *h) {
    uint64_t id = trace_hash_bytes(h->time, (const char *)&h->m, sizeof h->m);
    uint32_t same = trace_map_get(&r->batch_ids, id);
    if (same == TRACE_NONE) return trace_map_put(r, &r->batch_ids, id, r->num_batches);
    const struct trace_batch *b = &r->batches[same];
    uint64_t size = (uint64_t)(h->contents.end - h->contents.p);
    if (b->time != h->time || b->size != size || memcmp(r->data + b->offset, h->contents.p, size) != 0) return PYMEM_OK;
    return trace_fail(r, PYMEM_EFORMAT, h->start,
                      "a batch of generation %llu is there twice, and Go lost another in its place; record it again",
                      (unsigned long long)h->generation);
}

static int add_events(trace_reader *r, const struct batch_header *h) {
    uint32_t m;
    int status = check_not_doubled(r, h);
    if (status == PYMEM_OK) status = trace_find_m(r, h->m, h->start, &m);
    if (status == PYMEM_OK && r->ms[m].last_batch == TRACE_NONE) {
        status = trace_grow(r, (void **)&r->gen_ms, &r->cap_gen_ms, r->num_gen_ms + 1, sizeof *r->gen_ms);
        if (status == PYMEM_OK) r->gen_ms[r->num_gen_ms++] = m;
    }
    if (status != PYMEM_OK) return status;
    return append_batch(r, h, &r->ms[m].first_batch, &r->ms[m].last_batch);
}

static int add_batch(trace_reader *r, const struct batch_header *h) {
    struct trace_bytes b = h->contents;
    if (b.p == b.end) return PYMEM_OK;
    if (h->experiment == TRACE_EXPERIMENT_ALLOC_FREE) return trace_read_alloc_free(r, b);
    if (h->type == EV_EXPERIMENTAL_BATCH) return PYMEM_OK; /* another experiment: nothing of ours in it */
    uint8_t sync = r->info.version >= SYNC_VERSION ? EV_SYNC : EV_FREQUENCY;
    if (*b.p == sync) return trace_read_sync(r, h->time, b);
    switch (*b.p) {
    case EV_STRINGS: return trace_read_strings(r, b);
    case EV_STACKS: return append_batch(r, h, &r->first_stacks, &r->last_stacks);
    case EV_CPU_SAMPLES: return trace_read_cpu_samples(r, b);
    default: return add_events(r, h);
    }
}

/* ---- one generation ---- */

static void forget_generation(trace_reader *r) {
    for (uint32_t i = 0; i < r->num_gen_ms; i++)
        r->ms[r->gen_ms[i]].first_batch = r->ms[r->gen_ms[i]].last_batch = TRACE_NONE;
    r->num_gen_ms = r->num_batches = r->num_cursors = r->num_heap = r->num_texts = 0;
    r->first_stacks = r->last_stacks = TRACE_NONE;
    r->new_frequency = 0;
    r->has_strings = 0;
    r->min_ticks = UINT64_MAX;
    trace_map_clear(&r->string_ids);
    trace_map_clear(&r->type_ids);
    memset(r->small_types, 0xff, sizeof r->small_types);
    trace_map_clear(&r->stack_tells);
    trace_map_clear(&r->batch_ids);
}

/* Whether the batch belongs to the generation that is being listed; *foreign is set where it begins the next one. */
static int check_generation(trace_reader *r, const struct batch_header *h, uint64_t *generation, int *foreign) {
    *foreign = 0;
    if (*generation == 0) *generation = h->generation;
    if (h->generation == *generation) return PYMEM_OK;
    *foreign = r->info.version < END_MARK_VERSION && h->generation == *generation + 1;
    if (*foreign) return PYMEM_OK;
    return trace_fail(
        r, PYMEM_EFORMAT, h->start,
        "a batch of generation %llu among those of generation %llu: part of the file is missing or doubled",
        (unsigned long long)h->generation, (unsigned long long)*generation);
}

/* Whether the file ended in the middle of the generation. Before 1.26 nothing marks a generation's end, but its strings
 * are what Go writes last. */
static int is_cut(const trace_reader *r, uint64_t generation) {
    if (r->pos < r->len) return 1;
    if (generation == 0) return 0;
    return r->info.version >= END_MARK_VERSION || !r->has_strings || r->new_frequency == 0;
}

/* The byte that ends a generation since 1.26. */
static int take_end_mark(trace_reader *r, uint64_t generation) {
    if (generation == 0)
        return trace_fail(r, PYMEM_EFORMAT, r->pos,
                          "the end of a generation without a beginning: part of the file is missing");
    r->pos++;
    return PYMEM_OK;
}

/* Takes in batches up to the generation's end. *generation: its number, 0 if there is none. */
static int list_batches(trace_reader *r, uint64_t *generation) {
    struct batch_header h;
    for (*generation = 0; r->pos < r->len;) {
        if (r->info.version >= END_MARK_VERSION && r->data[r->pos] == EV_END_OF_GENERATION)
            return take_end_mark(r, *generation);
        enum batch_result result = read_batch(r, &h);
        if (result == BATCH_ERROR) return r->status;
        if (result == BATCH_CUT) break;
        int foreign;
        int status = check_generation(r, &h, generation, &foreign);
        if (status != PYMEM_OK) return status;
        if (foreign) {
            r->pos = h.start;
            return PYMEM_OK;
        }
        if (h.time < r->min_ticks) r->min_ticks = h.time;
        status = add_batch(r, &h);
        if (status != PYMEM_OK) return status;
    }
    if (is_cut(r, *generation)) cut_short(r, r->pos);
    return PYMEM_OK;
}

/* Where the generation's own clock was lost, the one before it serves, and without that what Go uses everywhere. */
static int settle_frequency(trace_reader *r) {
    if (r->new_frequency != 0) return PYMEM_OK;
    if (!r->info.incomplete)
        return trace_fail(r, PYMEM_EFORMAT, r->pos,
                          "generation %llu, which ends here, has no clock: part of the file is missing",
                          (unsigned long long)r->generation);
    r->new_frequency = r->clock.frequency;
    if (r->new_frequency == 0) {
        r->new_frequency = usual_frequency;
        r->info.frequency_assumed = 1;
    }
    return PYMEM_OK;
}

static int read_stack_chain(trace_reader *r) {
    for (uint32_t i = r->first_stacks; i != TRACE_NONE; i = r->batches[i].next) {
        const uint8_t *p = r->data + r->batches[i].offset;
        int status = trace_read_stacks(r, (struct trace_bytes){p, p + r->batches[i].size});
        if (status != PYMEM_OK) return status;
    }
    return PYMEM_OK;
}

int trace_next_generation(trace_reader *r) {
    forget_generation(r);
    uint64_t start = r->pos;
    uint64_t generation;
    int status = list_batches(r, &generation);
    if (status != PYMEM_OK) return status;
    if (generation == 0) {
        r->finished = 1;
        if (start == TRACE_HEADER_SIZE) cut_short(r, start); /* a header and nothing more */
        return PYMEM_OK;
    }
    r->generation = generation;
    r->info.generations++;
    status = settle_frequency(r);
    return status == PYMEM_OK ? read_stack_chain(r) : status;
}
