/* Internals of the execution trace reader. What a file of Go 1.22 to 1.27 is:
 *
 *   header (16 bytes), then batches of at most 64 KB. A batch belongs to one generation (about a second of the
 *   program) and to one thread (M), and begins with a time. Most hold events, each a byte for the type, the ticks
 *   since the event before it, and further numbers; the others hold the generation's tables (strings, stacks, types)
 *   and its clock, and may come after the events that need them. So each generation is read in two passes:
 *
 *   trace_index.c   walks from batch to batch by their lengths and lists them
 *   trace_tables.c  reads the tables
 *   trace_order.c   merges the Ms' batches by time, follows who runs on which M, and fills the caller's columns
 *   trace_reader.c  the calls of pymem_api.h
 *   trace_map.c     hash maps from ids to indices
 *   trace_wire.h    numbers of the wire format, variable-length integers
 *
 * Memory is that of one generation's list and tables (at most 10 bytes for each byte of input, whatever the input
 * says about itself) and never grows with the events. Strings stay in the input.
 */
#ifndef TRACE_READER_H
#define TRACE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "pymem_api.h"

enum {
    TRACE_NONE = 0xffffffff, /* end of a chain of batches; not in a map */
    TRACE_MAX_THREADS = 1 << 20,
    TRACE_MAX_P = 32767,      /* the p column is 16 bits */
    TRACE_SMALL_TYPES = 4096, /* type ids below this are looked up without a map; Go counts them from 1 */
    TRACE_MESSAGE_SIZE = 320
};

/* A stretch of the input: p <= end. */
struct trace_bytes {
    const uint8_t *p;
    const uint8_t *end;
};

/* What a stack tells, bits. */
enum trace_stack_tells { STACK_FORCES_GC = 1 /* runtime.GC is in it */, STACK_IS_RUNTIMES = 2 /* see frame_tells */ };

/* One batch of the generation, and the next one of the same M (or of the same table), or TRACE_NONE. */
struct trace_batch {
    uint64_t time;   /* ticks */
    uint64_t offset; /* of the contents in the input */
    uint32_t size;   /* bytes, 1 to TRACE_MAX_BATCH */
    uint32_t next;
};

/* From 64-bit ids to indices. Open addressing: used <= capacity / 2, capacity a power of two or 0. */
struct trace_map {
    uint64_t *keys;
    uint32_t *values; /* TRACE_NONE: free */
    uint32_t capacity;
    uint32_t used;
};

/* A thread: who runs on it now, and its batches of this generation. */
struct trace_m {
    uint64_t id;
    int64_t g; /* goroutine, -1 for none known */
    int32_t p; /* P, -1 for none known */
    uint32_t first_batch, last_batch;
};

/* The place of one M in the merge: head of the next event read, its arguments not yet. */
struct trace_cursor {
    const uint8_t *p;   /* the arguments */
    const uint8_t *end; /* of the batch */
    uint64_t ticks;     /* time of the event */
    uint64_t stamp;     /* the same as it was written, which may run ahead of the clock */
    uint32_t frees;     /* since the M was last on time: what it may be ahead by */
    uint32_t m;         /* index into ms */
    uint32_t batch;     /* batch that comes after this one */
    uint8_t type;       /* of the event */
};

/* An M in the merge's heap. Equal times are decided by the Ms' order of appearance in the generation. */
struct trace_turn {
    uint64_t ticks;  /* as the cursor's, but for the cursor that is being read */
    uint32_t cursor; /* index into cursors, which are in that order */
};

/* A string of this generation. index is its place in the strings handed out, TRACE_NONE until it is needed. */
struct trace_text {
    const char *bytes;
    uint32_t len;
    uint32_t index;
};

/* time = base_ns + (ticks - base_ticks) * multiplier / 2^shift */
struct trace_clock {
    uint64_t frequency; /* ticks a second, 0 until known */
    uint64_t base_ticks;
    int64_t base_ns;
    uint64_t multiplier;
    int shift;
};

struct trace_reader {
    int64_t *faults; /* fault.h */
    const uint8_t *data;
    uint64_t len;
    uint64_t kind_mask;
    uint64_t pos; /* first byte behind the generations listed so far */

    /* The generation being read. */
    uint64_t generation;    /* its number, 0 before the first */
    uint64_t min_ticks;     /* least time of its batches */
    uint64_t new_frequency; /* as its sync batch says, 0 for none */
    int has_strings;
    struct trace_batch *batches;
    uint32_t num_batches, cap_batches;
    uint32_t first_stacks, last_stacks; /* chain of its stack batches */
    struct trace_cursor *cursors;       /* one for each M with events */
    uint32_t num_cursors, cap_cursors;
    struct trace_turn *heap; /* Ms with events left, a min-heap by (ticks, cursor) */
    uint32_t num_heap, cap_heap;
    uint32_t *gen_ms; /* Ms with events, in order of appearance: indices into ms */
    uint32_t num_gen_ms, cap_gen_ms;
    struct trace_map batch_ids;  /* of batches with events: hash of M and time -> index into batches */
    struct trace_map string_ids; /* string id -> index into texts */
    struct trace_text *texts;
    uint32_t num_texts, cap_texts;
    struct trace_map type_ids;               /* type id -> index into types */
    uint32_t small_types[TRACE_SMALL_TYPES]; /* the same for small ids, TRACE_NONE for none */
    struct trace_map stack_tells;            /* stack id -> enum trace_stack_tells, of those that tell something */

    /* The whole trace. */
    struct trace_m *ms;
    uint32_t num_ms, cap_ms;
    struct trace_map m_ids; /* M id -> index into ms */
    trace_type *types;      /* types[0] is "no type" */
    uint32_t num_types, cap_types;
    struct trace_map type_hashes; /* hash of address and name -> index into types */
    struct trace_text *strings;   /* strings handed out; strings[0] is empty */
    uint32_t num_strings, cap_strings;
    struct trace_map string_hashes;
    struct trace_clock clock;
    int64_t last_ns;
    uint64_t snapshot_ticks, snapshot_wall_ns; /* the first clock snapshot; has_snapshot 1 once it is there */
    int has_snapshot, clock_started;
    trace_info info;

    int status;   /* the first error: every later call returns it again */
    int finished; /* no event is left */
    uint64_t error_offset;
    char message[TRACE_MESSAGE_SIZE];
};

/* trace_reader.c */
int trace_fail(trace_reader *r, int status, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
int trace_no_memory(trace_reader *r);
void *trace_realloc(trace_reader *r, void *p, size_t size);
/* Makes room for need items of size bytes; *items and *capacity change together or not at all. */
int trace_grow(trace_reader *r, void **items, uint32_t *capacity, uint32_t need, size_t size);

/* trace_map.c */
uint32_t trace_map_get(const struct trace_map *map, uint64_t key);
/* Sets key to value where it is not there yet; an existing one stays. */
int trace_map_put(trace_reader *r, struct trace_map *map, uint64_t key, uint32_t value);
void trace_map_clear(struct trace_map *map);
void trace_map_free(struct trace_map *map);
uint64_t trace_hash_bytes(uint64_t seed, const char *bytes, uint32_t len);

/* trace_index.c */
int trace_read_header(trace_reader *r);
/* Lists the next generation and reads its tables; finished is set where there is none. */
int trace_next_generation(trace_reader *r);

/* trace_tables.c */
int trace_read_strings(trace_reader *r, struct trace_bytes b);
int trace_read_stacks(trace_reader *r, struct trace_bytes b);
int trace_read_cpu_samples(trace_reader *r, struct trace_bytes b);
int trace_read_sync(trace_reader *r, uint64_t time, struct trace_bytes b);
int trace_read_alloc_free(trace_reader *r, struct trace_bytes b);
/* *index becomes the stable index of the string that this generation calls id; 0 where there is none. */
int trace_string_index(trace_reader *r, uint64_t id, uint32_t *index);

/* trace_order.c */
int trace_start_clock(trace_reader *r);
int trace_start_merge(trace_reader *r);
/* Appends events from *count on until the capacity or the generation ends or *budget events were decoded. */
int trace_merge(trace_reader *r, const trace_columns *columns, int64_t capacity, int64_t *count, int64_t *budget);
/* The M of this id, made where it is new: an index into ms. */
int trace_find_m(trace_reader *r, uint64_t id, uint64_t offset, uint32_t *index);

#endif
