/* Second pass over a generation: the Ms' events in the order of time, and who runs on which M.
 *
 * An M's events come in the order in which they happened, so its next event is all that is looked at: a min-heap of Ms
 * by (time, order of appearance in the generation). While one M's events come before those of all others no heap work
 * is done. Within a tick (64 ns) the order of Ms decides, so it is the same on every run.
 *
 * The clock all Ms read is one, but the times an M writes may run ahead of it: in a batch Go puts each event at least a
 * tick after the one before it, and a sweep frees objects in some 40 to 50 ns each; the next event that comes late
 * enough, or the next batch, has the true time again. In 11 traces at two Ps that was up to 0.3 ms, and of 10 million
 * allocations 3,500 came before the free that made room for them. So in a run of ticks a free counts as less than one;
 * 36 were left then. Within an M the order is exact, whatever the times say.
 */
#include <stdlib.h>
#include <string.h>
#include "trace_reader.h"
#include "trace_wire.h"

enum {
    NOT_A_KIND = 0xff,
    NOT_TIMED = 0xff,
    /* An event's arguments and the head of the next one fit into this many bytes: (5 + 1 numbers of 10 bytes and the
     * type), with what trace_uvarint_fast may look at beyond. */
    FAST_ROOM = 7 * TRACE_MAX_VARINT + 8,
    FREES_A_TICK_AHEAD = 4 /* one after the other, written a tick apart, done in three quarters of that */
};

/* Of each event type: its numbers after the time, what we call it, and whether it changes who runs where. The objects'
 * events, of which a trace is full, are "common": one address, perhaps a type, and nothing that changes the state. */
enum event_role { PLAIN, SCHEDULES, COMMON };
struct event_spec {
    uint8_t num_args; /* NOT_TIMED: not an event of a batch of events */
    uint8_t kind;     /* enum trace_kind or NOT_A_KIND */
    uint8_t role;     /* enum event_role */
};

#define UNTIMED {NOT_TIMED, NOT_A_KIND, PLAIN}
static const struct event_spec specs[256] = {
    [0] = UNTIMED,
    [EV_EVENT_BATCH] = UNTIMED,
    [EV_STACKS] = UNTIMED,
    [EV_STACK] = UNTIMED,
    [EV_STRINGS] = UNTIMED,
    [EV_STRING] = UNTIMED,
    [EV_CPU_SAMPLES] = UNTIMED,
    [EV_CPU_SAMPLE] = UNTIMED,
    [EV_FREQUENCY] = UNTIMED,
    [EV_PROCS_CHANGE] = {2, TRACE_PROCS_CHANGE, PLAIN},
    [EV_PROC_START] = {2, TRACE_PROC_START, SCHEDULES},
    [EV_PROC_STOP] = {0, TRACE_PROC_STOP, SCHEDULES},
    [EV_PROC_STEAL] = {3, TRACE_PROC_STEAL, SCHEDULES},
    [EV_PROC_STATUS] = {2, NOT_A_KIND, SCHEDULES},
    [EV_GO_CREATE] = {3, TRACE_GO_CREATE, PLAIN},
    [EV_GO_CREATE_SYSCALL] = {1, TRACE_GO_CREATE_SYSCALL, SCHEDULES},
    [EV_GO_START] = {2, TRACE_GO_START, SCHEDULES},
    [EV_GO_DESTROY] = {0, TRACE_GO_DESTROY, SCHEDULES},
    [EV_GO_DESTROY_SYSCALL] = {0, TRACE_GO_DESTROY_SYSCALL, SCHEDULES},
    [EV_GO_STOP] = {2, TRACE_GO_STOP, SCHEDULES},
    [EV_GO_BLOCK] = {2, TRACE_GO_BLOCK, SCHEDULES},
    [EV_GO_UNBLOCK] = {3, NOT_A_KIND, PLAIN},
    [EV_GO_SYSCALL_BEGIN] = {2, NOT_A_KIND, PLAIN},
    [EV_GO_SYSCALL_END] = {0, NOT_A_KIND, PLAIN},
    [EV_GO_SYSCALL_END_BLOCKED] = {0, NOT_A_KIND, SCHEDULES},
    [EV_GO_STATUS] = {3, NOT_A_KIND, SCHEDULES},
    [EV_STW_BEGIN] = {2, TRACE_STW_BEGIN, PLAIN},
    [EV_STW_END] = {0, TRACE_STW_END, PLAIN},
    [EV_GC_ACTIVE] = {1, TRACE_GC_ACTIVE, PLAIN},
    [EV_GC_BEGIN] = {2, TRACE_GC_BEGIN, PLAIN},
    [EV_GC_END] = {1, TRACE_GC_END, PLAIN},
    [EV_GC_SWEEP_ACTIVE] = {1, TRACE_SWEEP_ACTIVE, PLAIN},
    [EV_GC_SWEEP_BEGIN] = {1, TRACE_SWEEP_BEGIN, PLAIN},
    [EV_GC_SWEEP_END] = {2, TRACE_SWEEP_END, PLAIN},
    [EV_GC_MARK_ASSIST_ACTIVE] = {1, TRACE_ASSIST_ACTIVE, PLAIN},
    [EV_GC_MARK_ASSIST_BEGIN] = {1, TRACE_ASSIST_BEGIN, PLAIN},
    [EV_GC_MARK_ASSIST_END] = {0, TRACE_ASSIST_END, PLAIN},
    [EV_HEAP_ALLOC] = {1, TRACE_HEAP_ALLOC, PLAIN},
    [EV_HEAP_GOAL] = {1, TRACE_HEAP_GOAL, PLAIN},
    [EV_GO_LABEL] = {1, NOT_A_KIND, PLAIN},
    [EV_USER_TASK_BEGIN] = {4, NOT_A_KIND, PLAIN},
    [EV_USER_TASK_END] = {2, NOT_A_KIND, PLAIN},
    [EV_USER_REGION_BEGIN] = {3, NOT_A_KIND, PLAIN},
    [EV_USER_REGION_END] = {3, NOT_A_KIND, PLAIN},
    [EV_USER_LOG] = {4, NOT_A_KIND, PLAIN},
    [EV_GO_SWITCH] = {2, TRACE_GO_SWITCH, SCHEDULES},
    [EV_GO_SWITCH_DESTROY] = {2, TRACE_GO_SWITCH_DESTROY, SCHEDULES},
    [EV_GO_CREATE_BLOCKED] = {3, TRACE_GO_CREATE_BLOCKED, PLAIN},
    [EV_GO_STATUS_STACK] = {4, NOT_A_KIND, SCHEDULES},
    [EV_EXPERIMENTAL_BATCH... EV_SPAN - 1] = UNTIMED,
    [EV_SPAN] = {3, TRACE_SPAN, PLAIN},
    [EV_SPAN_ALLOC] = {3, TRACE_SPAN_ALLOC, PLAIN},
    [EV_SPAN_FREE] = {1, TRACE_SPAN_FREE, PLAIN},
    [EV_HEAP_OBJECT] = {2, TRACE_OBJECT, COMMON},
    [EV_HEAP_OBJECT_ALLOC] = {2, TRACE_OBJECT_ALLOC, COMMON},
    [EV_HEAP_OBJECT_FREE] = {1, TRACE_OBJECT_FREE, COMMON},
    [EV_GOROUTINE_STACK] = {2, TRACE_STACK, PLAIN},
    [EV_GOROUTINE_STACK_ALLOC] = {2, TRACE_STACK_ALLOC, PLAIN},
    [EV_GOROUTINE_STACK_FREE] = {1, TRACE_STACK_FREE, PLAIN},
    [EV_GOROUTINE_STACK_FREE + 1 ... 255] = UNTIMED,
};

static uint64_t offset_of(const trace_reader *r, const uint8_t *p) { return (uint64_t)(p - r->data); }

/* ---- time ---- */

static void set_rate(struct trace_clock *clock, uint64_t frequency) {
    unsigned __int128 multiplier = 0;
    /* The largest shift whose multiplier fits 64 bits: the time is exact to 2^-63 of itself, and exact where the
     * frequency divides a power of two times 10^9, as 15,625,000 does. */
    for (clock->shift = 64; clock->shift > 0; clock->shift--) {
        multiplier = ((unsigned __int128)1000000000 << clock->shift) / frequency;
        if (multiplier >> 64 == 0) break;
    }
    if (clock->shift == 0) multiplier = 1000000000 / frequency;
    clock->multiplier = (uint64_t)multiplier;
    clock->frequency = frequency;
}

/* ns since the trace's start; beyond 292 years it stays at their end. */
static int64_t to_ns(const struct trace_clock *clock, uint64_t ticks) {
    if (ticks <= clock->base_ticks) return clock->base_ns;
    unsigned __int128 ns = (unsigned __int128)(ticks - clock->base_ticks) * clock->multiplier >> clock->shift;
    unsigned __int128 room = (unsigned __int128)(INT64_MAX - clock->base_ns);
    return ns > room ? INT64_MAX : clock->base_ns + (int64_t)ns;
}

/* The wall clock at time 0, from the first snapshot, which may lie on either side of it. */
static void date_trace(trace_reader *r) {
    const struct trace_clock *clock = &r->clock;
    if (!r->has_snapshot || r->info.wall_ns != 0) return;
    int64_t after = to_ns(clock, r->snapshot_ticks);
    r->info.wall_ns = (int64_t)(r->snapshot_wall_ns - (uint64_t)after);
}

/* Time 0 is the first generation's least time. A generation with another frequency goes on where the old one stood. */
int trace_start_clock(trace_reader *r) {
    struct trace_clock *clock = &r->clock;
    if (!r->clock_started) {
        r->clock_started = 1;
        set_rate(clock, r->new_frequency);
        r->info.start_ns = to_ns(clock, r->min_ticks);
        clock->base_ticks = r->min_ticks;
    } else if (r->new_frequency != clock->frequency) {
        clock->base_ns = to_ns(clock, r->min_ticks);
        clock->base_ticks = r->min_ticks;
        set_rate(clock, r->new_frequency);
    }
    date_trace(r);
    return PYMEM_OK;
}

/* ---- threads, and who runs on them ---- */

int trace_find_m(trace_reader *r, uint64_t id, uint64_t offset, uint32_t *index) {
    *index = trace_map_get(&r->m_ids, id);
    if (*index != TRACE_NONE) return PYMEM_OK;
    if (r->num_ms == TRACE_MAX_THREADS)
        return trace_fail(r, PYMEM_EFORMAT, offset, "more than %d threads: the file is damaged before this place",
                          TRACE_MAX_THREADS);
    int status = trace_grow(r, (void **)&r->ms, &r->cap_ms, r->num_ms + 1, sizeof *r->ms);
    if (status != PYMEM_OK) return status;
    *index = r->num_ms++;
    r->ms[*index] = (struct trace_m){id, -1, -1, TRACE_NONE, TRACE_NONE};
    return trace_map_put(r, &r->m_ids, id, *index);
}

static int bind_p(trace_reader *r, const struct trace_cursor *c, uint64_t p) {
    if (p > TRACE_MAX_P)
        return trace_fail(r, PYMEM_EFORMAT, offset_of(r, c->p),
                          "P %llu before this place: this reader knows P 0 to %d, or the file is damaged here",
                          (unsigned long long)p, TRACE_MAX_P);
    if (r->ms[c->m].id != TRACE_NO_THREAD) r->ms[c->m].p = (int32_t)p;
    return PYMEM_OK;
}

static void bind_g(trace_reader *r, const struct trace_cursor *c, uint64_t g) {
    if (r->ms[c->m].id != TRACE_NO_THREAD) r->ms[c->m].g = (int64_t)g;
}

/* Another M took P p from M m, which sits in a system call. */
static void steal_p(trace_reader *r, uint64_t p, uint64_t m) {
    uint32_t i = trace_map_get(&r->m_ids, m);
    if (i != TRACE_NONE && (uint64_t)r->ms[i].p == p) r->ms[i].p = -1;
}

/* Goroutine g was like this when the generation began. One that runs tells of itself; of one in a system call any M
 * may tell. */
static int goroutine_status(trace_reader *r, const struct trace_cursor *c, uint64_t g, uint64_t m, uint64_t status) {
    if (status == GO_STATUS_RUNNING) bind_g(r, c, g);
    if (status != GO_STATUS_SYSCALL || m == TRACE_NO_THREAD) return PYMEM_OK;
    uint32_t i;
    int result = trace_find_m(r, m, offset_of(r, c->p), &i);
    if (result != PYMEM_OK) return result;
    if (i == c->m || r->ms[i].g < 0) r->ms[i].g = (int64_t)g;
    return PYMEM_OK;
}

/* What the event makes of its M's P and goroutine. */
static int schedule(trace_reader *r, const struct trace_cursor *c, const uint64_t *args) {
    struct trace_m *m = &r->ms[c->m];
    switch (c->type) {
    case EV_PROC_START: return bind_p(r, c, args[0]);
    case EV_PROC_STATUS:
        return args[1] == PROC_STATUS_RUNNING || args[1] == PROC_STATUS_SYSCALL ? bind_p(r, c, args[0]) : PYMEM_OK;
    case EV_PROC_STOP: m->p = -1; break;
    case EV_PROC_STEAL: steal_p(r, args[0], args[2]); break;
    case EV_GO_START:
    case EV_GO_SWITCH:
    case EV_GO_SWITCH_DESTROY:
    case EV_GO_CREATE_SYSCALL: bind_g(r, c, args[0]); break;
    case EV_GO_STOP:
    case EV_GO_BLOCK:
    case EV_GO_DESTROY:
    case EV_GO_SYSCALL_END_BLOCKED: m->g = -1; break;
    case EV_GO_DESTROY_SYSCALL: m->g = m->p = -1; break;
    case EV_GO_STATUS:
    case EV_GO_STATUS_STACK: return goroutine_status(r, c, args[0], args[1], args[2]);
    }
    return PYMEM_OK;
}

/* ---- an event's columns ---- */

struct columns_of_event {
    uint64_t a, b;
    uint16_t c;
};

static int bad_event(trace_reader *r, const struct trace_cursor *c, const char *what) {
    return trace_fail(r, PYMEM_EFORMAT, offset_of(r, c->p),
                      "%s in the event before this place: the file is damaged here", what);
}

/* The type column: the same index in all generations. In a generation that was cut the table may be lost. */
static inline uint64_t type_index(trace_reader *r, uint64_t id) {
    if (id == 0) return 0;
    uint32_t i = id < TRACE_SMALL_TYPES ? r->small_types[id] : trace_map_get(&r->type_ids, id);
    if (i != TRACE_NONE) return i;
    r->info.unknown_types++;
    return 0;
}

static inline uint64_t object_address(const trace_reader *r, uint64_t id) {
    return r->info.min_heap_addr + id * r->info.heap_align;
}

static int describe_span(trace_reader *r, const struct trace_cursor *c, const uint64_t *args,
                         struct columns_of_event *e) {
    if (args[2] > UINT16_MAX) return bad_event(r, c, "an impossible span class");
    e->a = r->info.min_heap_addr + args[0] * r->info.page_size;
    e->b = args[1];
    e->c = (uint16_t)args[2];
    return PYMEM_OK;
}

/* The order of a stack is the number of bits of its size, a power of two. */
static int describe_stack(trace_reader *r, const struct trace_cursor *c, const uint64_t *args,
                          struct columns_of_event *e) {
    if (args[1] > 63) return bad_event(r, c, "an impossible stack size");
    e->a = r->info.min_heap_addr + args[0] * r->info.stack_align;
    e->b = args[1] == 0 ? 0 : UINT64_C(1) << (args[1] - 1);
    return PYMEM_OK;
}

static int describe_string(trace_reader *r, uint64_t id, struct columns_of_event *e) {
    uint32_t index;
    int status = trace_string_index(r, id, &index);
    e->b = index;
    return status;
}

static bool stack_tells(const trace_reader *r, uint64_t id, enum trace_stack_tells what) {
    uint32_t told = trace_map_get(&r->stack_tells, id);
    return told != TRACE_NONE && told & what;
}

static int describe(trace_reader *r, const struct trace_cursor *c, const uint64_t *args, struct columns_of_event *e) {
    switch (c->type) {
    case EV_HEAP_OBJECT:
    case EV_HEAP_OBJECT_ALLOC:
        e->a = object_address(r, args[0]);
        e->b = type_index(r, args[1]);
        return PYMEM_OK;
    case EV_HEAP_OBJECT_FREE: e->a = object_address(r, args[0]); return PYMEM_OK;
    case EV_SPAN:
    case EV_SPAN_ALLOC: return describe_span(r, c, args, e);
    case EV_SPAN_FREE: e->a = r->info.min_heap_addr + args[0] * r->info.page_size; return PYMEM_OK;
    case EV_GOROUTINE_STACK:
    case EV_GOROUTINE_STACK_ALLOC: return describe_stack(r, c, args, e);
    case EV_GOROUTINE_STACK_FREE: e->a = r->info.min_heap_addr + args[0] * r->info.stack_align; return PYMEM_OK;
    case EV_GC_BEGIN:
        e->a = args[0];
        e->c = stack_tells(r, args[1], STACK_FORCES_GC);
        return PYMEM_OK;
    case EV_GO_CREATE:
    case EV_GO_CREATE_BLOCKED:
        e->a = args[0];
        e->c = stack_tells(r, args[1], STACK_IS_RUNTIMES);
        return PYMEM_OK;
    case EV_STW_BEGIN:
    case EV_GO_BLOCK:
    case EV_GO_STOP: return describe_string(r, args[0], e);
    case EV_PROC_STEAL:
        e->a = args[0];
        e->b = args[2];
        return PYMEM_OK;
    case EV_GC_SWEEP_END:
        e->a = args[0];
        e->b = args[1];
        return PYMEM_OK;
    case EV_GC_SWEEP_BEGIN:
    case EV_GC_MARK_ASSIST_BEGIN: return PYMEM_OK; /* their only argument is a stack */
    default: e->a = specs[c->type].num_args > 0 ? args[0] : 0; return PYMEM_OK;
    }
}

/* ns of the event; generations overlap by some ticks, which must not show. */
static inline int64_t event_time(trace_reader *r, uint64_t ticks) {
    int64_t ns = to_ns(&r->clock, ticks);
    if (ns < r->last_ns) ns = r->last_ns;
    return r->last_ns = ns;
}

static inline void put(trace_reader *r, const struct trace_cursor *c, const struct columns_of_event *e,
                       const trace_columns *columns, int64_t i) {
    const struct trace_m *m = &r->ms[c->m];
    columns->time[i] = event_time(r, c->ticks);
    columns->a[i] = e->a;
    columns->b[i] = e->b;
    columns->c[i] = e->c;
    columns->g[i] = m->g;
    columns->p[i] = (int16_t)m->p;
    columns->kind[i] = specs[c->type].kind;
}

/* ---- reading events ---- */

/* Moves on to the M's next batch; 0 where there is none. */
static int next_batch(trace_reader *r, struct trace_cursor *c) {
    if (c->batch == TRACE_NONE) return 0;
    const struct trace_batch *b = &r->batches[c->batch];
    c->p = r->data + b->offset;
    c->end = c->p + b->size;
    c->ticks = c->stamp = b->time;
    c->frees = 0;
    c->batch = b->next;
    return 1;
}

static int unknown_event(trace_reader *r, uint64_t offset, uint8_t type) {
    if (type <= EV_END_OF_GENERATION || type == EV_SPAN - 1)
        return trace_fail(r, PYMEM_EFORMAT, offset, "event type %u cannot be among events: the file is damaged here",
                          type);
    return trace_fail(r, PYMEM_EFORMAT, offset,
                      "event type %u is unknown up to Go 1.27: the trace is of a newer Go, or damaged here", type);
}

/* The time of the event whose type was read just now. One more than a tick after the one before it is on time. */
static inline void advance(struct trace_cursor *c, uint64_t delta) {
    c->stamp += delta;
    c->frees = delta > 1 ? 0 : c->frees + (delta == 1 && c->type == EV_HEAP_OBJECT_FREE);
    c->ticks = c->stamp - c->frees / FREES_A_TICK_AHEAD;
}

/* Reads the type and time of the M's next event. *more: 0 where the M has no event left in this generation. */
static int read_head(trace_reader *r, struct trace_cursor *c, int *more) {
    *more = 1;
    if (c->p == c->end && !(*more = next_batch(r, c))) return PYMEM_OK;
    const uint8_t *start = c->p;
    c->type = *start;
    if (specs[c->type].num_args == NOT_TIMED) return unknown_event(r, offset_of(r, start), c->type);
    uint64_t delta;
    struct trace_bytes b = {start + 1, c->end};
    if (c->end - start > TRACE_MAX_VARINT + 8) b.p = trace_uvarint_fast(b.p, &delta);
    else if (trace_uvarint(&b, &delta) != 0) b.p = NULL;
    if (b.p == NULL || delta > UINT64_MAX - c->stamp)
        return trace_fail(r, PYMEM_EFORMAT, offset_of(r, start),
                          "an event's time is damaged here; record the trace again");
    c->p = b.p;
    advance(c, delta);
    return PYMEM_OK;
}

/* Reads the event's arguments; the cursor is behind them then. */
static int read_args(trace_reader *r, struct trace_cursor *c, uint64_t *args) {
    int n = specs[c->type].num_args;
    if (c->end - c->p > FAST_ROOM) {
        const uint8_t *p = c->p;
        for (int i = 0; i < n && p != NULL; i++) p = trace_uvarint_fast(p, &args[i]);
        if (p != NULL) {
            c->p = p;
            return PYMEM_OK;
        }
    }
    struct trace_bytes b = {c->p, c->end};
    for (int i = 0; i < n; i++)
        if (trace_uvarint(&b, &args[i]) != 0)
            return trace_fail(r, PYMEM_EFORMAT, offset_of(r, b.p),
                              "an event's numbers end early or are too long: the file is damaged here");
    c->p = b.p;
    return PYMEM_OK;
}

/* Takes in the event whose head was read: into the columns if it is selected, into the state if it schedules. */
static int take_event(trace_reader *r, struct trace_cursor *c, const trace_columns *columns, int64_t *count) {
    uint64_t args[TRACE_MAX_ARGS];
    int status = read_args(r, c, args);
    if (status != PYMEM_OK) return status;
    const struct event_spec *spec = &specs[c->type];
    if (spec->kind != NOT_A_KIND) {
        r->info.counts[spec->kind]++;
        if (r->kind_mask >> spec->kind & 1) {
            struct columns_of_event e = {0, 0, 0};
            status = describe(r, c, args, &e);
            if (status != PYMEM_OK) return status;
            put(r, c, &e, columns, (*count)++);
        }
    }
    r->info.events++;
    return spec->role == SCHEDULES ? schedule(r, c, args) : PYMEM_OK;
}

/* ---- the heap ---- */

static int before(const struct trace_turn *a, const struct trace_turn *b) {
    return a->ticks < b->ticks || (a->ticks == b->ticks && a->cursor < b->cursor);
}

static void sift_down(struct trace_turn *heap, uint32_t n, uint32_t i) {
    struct trace_turn moved = heap[i];
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&heap[child + 1], &heap[child])) child++;
        if (!before(&heap[child], &moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

/* Up to and with these ticks heap[0] comes before all others. */
static uint64_t end_of_run(const struct trace_turn *heap, uint32_t n) {
    if (n < 2) return UINT64_MAX;
    const struct trace_turn *other = n > 2 && before(&heap[2], &heap[1]) ? &heap[2] : &heap[1];
    return other->ticks - (other->cursor < heap[0].cursor); /* at equal ticks it would not be the first */
}

/* The first event of each M of the generation. */
static int fill_cursors(trace_reader *r) {
    for (uint32_t i = 0; i < r->num_gen_ms; i++) {
        struct trace_cursor *c = &r->cursors[i];
        *c = (struct trace_cursor){.m = r->gen_ms[i], .batch = r->ms[r->gen_ms[i]].first_batch};
        int more;
        int status = read_head(r, c, &more);
        if (status != PYMEM_OK) return status;
        r->heap[i] = (struct trace_turn){c->ticks, i};
    }
    r->num_heap = r->num_gen_ms;
    return PYMEM_OK;
}

int trace_start_merge(trace_reader *r) {
    uint32_t need = r->num_gen_ms;
    int status = trace_grow(r, (void **)&r->heap, &r->cap_heap, need, sizeof *r->heap);
    if (status == PYMEM_OK) status = trace_grow(r, (void **)&r->cursors, &r->cap_cursors, need, sizeof *r->cursors);
    if (status == PYMEM_OK) status = fill_cursors(r);
    for (uint32_t i = r->num_heap / 2; status == PYMEM_OK && i-- > 0;) sift_down(r->heap, r->num_heap, i);
    return status;
}

/* ---- the objects' events, most of any trace ---- */

/* What the loop below needs of the reader. It works on a copy of its own, since the compiler must take each byte
 * written to the kind column for a change of anything it has only an address of. */
struct common {
    trace_columns out;
    struct trace_clock clock;
    uint64_t min_heap_addr, heap_align, kind_mask;
    int64_t count, last_ns;
    uint64_t counts[3]; /* of the common kinds, which are 0 to 2 */
};

static inline void put_common(trace_reader *r, struct common *s, const struct trace_cursor *c, uint64_t id,
                              uint64_t type) {
    int64_t i = s->count++;
    int64_t ns = to_ns(&s->clock, c->ticks);
    s->last_ns = ns > s->last_ns ? ns : s->last_ns;
    s->out.time[i] = s->last_ns;
    s->out.a[i] = s->min_heap_addr + id * s->heap_align;
    s->out.b[i] = type_index(r, type);
    s->out.c[i] = 0;
    s->out.g[i] = r->ms[c->m].g;
    s->out.p[i] = (int16_t)r->ms[c->m].p;
    s->out.kind[i] = specs[c->type].kind;
}

/* Takes the cursor's event if it is a common one with room behind it to read without a look at the bounds, and reads
 * the head of the next: what take_event and read_head do. 0, with nothing done: anything else, a damaged event too. */
static inline int take_common(trace_reader *r, struct common *s, struct trace_cursor *c) {
    if (specs[c->type].role != COMMON || c->end - c->p <= FAST_ROOM) return 0;
    uint64_t id, type = 0, delta;
    const uint8_t *p = trace_uvarint_fast(c->p, &id);
    if (p != NULL && c->type != EV_HEAP_OBJECT_FREE) p = trace_uvarint_fast(p, &type);
    const uint8_t *next = p == NULL ? NULL : trace_uvarint_fast(p + 1, &delta);
    if (next == NULL || delta > UINT64_MAX - c->stamp || specs[*p].num_args == NOT_TIMED) return 0;
    uint8_t kind = specs[c->type].kind;
    if (s->kind_mask >> kind & 1) put_common(r, s, c, id, type);
    s->counts[kind]++;
    c->type = *p;
    c->p = next;
    advance(c, delta);
    return 1;
}

/* Takes at most most common events of whichever M's turn it is, up to the first other event; returns how many. */
static int64_t merge_common(trace_reader *r, struct common *outside, int64_t most) {
    struct common s = *outside;
    int64_t taken = 0;
    for (int stuck = 0; !stuck && taken < most;) {
        struct trace_cursor c = r->cursors[r->heap[0].cursor];
        uint64_t end = end_of_run(r->heap, r->num_heap);
        while (!stuck && taken < most && c.ticks <= end) {
            stuck = !take_common(r, &s, &c);
            taken += !stuck;
        }
        r->cursors[r->heap[0].cursor] = c;
        r->heap[0].ticks = c.ticks;
        sift_down(r->heap, r->num_heap, 0);
    }
    *outside = s;
    return taken;
}

/* The common events that come next, into the columns; returns how many were decoded. */
static int64_t take_commons(trace_reader *r, const trace_columns *columns, int64_t *count, int64_t most) {
    if (specs[r->cursors[r->heap[0].cursor].type].role != COMMON) return 0;
    struct common s = {*columns,   r->clock, r->info.min_heap_addr, r->info.heap_align, r->kind_mask, *count,
                       r->last_ns, {0}};
    int64_t taken = merge_common(r, &s, most);
    *count = s.count;
    r->last_ns = s.last_ns;
    r->info.events += (uint64_t)taken;
    for (int kind = 0; kind < 3; kind++) r->info.counts[kind] += s.counts[kind];
    return taken;
}

/* ---- the merge ---- */

static void end_generation(trace_reader *r) {
    for (uint32_t i = 0; i < r->num_gen_ms; i++) {
        int64_t ns = to_ns(&r->clock, r->cursors[i].ticks);
        if (ns > r->info.duration_ns) r->info.duration_ns = ns;
    }
}

/* The one event that comes next, whatever it is. */
static int take_any(trace_reader *r, const trace_columns *columns, int64_t *count) {
    struct trace_cursor *c = &r->cursors[r->heap[0].cursor];
    int more;
    int status = take_event(r, c, columns, count);
    if (status == PYMEM_OK) status = read_head(r, c, &more);
    if (status != PYMEM_OK) return status;
    r->heap[0].ticks = c->ticks;
    if (!more) r->heap[0] = r->heap[--r->num_heap];
    if (r->num_heap > 0) sift_down(r->heap, r->num_heap, 0);
    if (r->num_heap == 0) end_generation(r);
    return PYMEM_OK;
}

int trace_merge(trace_reader *r, const trace_columns *columns, int64_t capacity, int64_t *count, int64_t *budget) {
    while (r->num_heap > 0 && *count < capacity && *budget > 0) {
        int64_t room = capacity - *count;
        int64_t taken = take_commons(r, columns, count, room < *budget ? room : *budget);
        *budget -= taken;
        if (taken > 0) continue;
        int status = take_any(r, columns, count);
        if (status != PYMEM_OK) return status;
        --*budget;
    }
    return PYMEM_OK;
}
