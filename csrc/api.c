/* The gate: every call from Python enters here, and here alone arguments are doubted. A heap has one owner at a time;
 * a second thread that comes in meanwhile is turned away rather than made to wait. */
#include <stdlib.h>
#include <string.h>
#include "internal.h"

#ifndef PYMEM_CHECK
#define PYMEM_CHECK 0
#endif

typedef unsigned long long ull;

/* ---- coming in and going out ---- */

static int enter(pymem_heap *h) {
    if (!h) return PYMEM_EINVAL;
    if (atomic_flag_test_and_set_explicit(&h->busy, memory_order_acquire)) return PYMEM_EBUSY;
    return PYMEM_OK;
}

/* After a good call, and after one that ran out of memory, the heap must be whole. */
static int leave(pymem_heap *h, int rc) {
    if (PYMEM_CHECK && (rc == PYMEM_OK || rc == PYMEM_ENOMEM)) {
        char sentence[sizeof h->message];
        memcpy(sentence, h->message, sizeof sentence);
        int check = PYMEM_CHECK > 1 ? heap_check(h) : heap_check_cheap(h);
        if (check) rc = check;
        else memcpy(h->message, sentence, sizeof sentence);
    }
    atomic_flag_clear_explicit(&h->busy, memory_order_release);
    return rc;
}

#define ENTER(h)                                                                                                       \
    do {                                                                                                               \
        int entered = enter(h);                                                                                        \
        if (entered) return entered;                                                                                   \
    } while (0)

/* The proc, its caches fresh: whoever runs on it after the cycle turned flushes it first. Go: acquirep */
static int get_proc(pymem_heap *h, int32_t id, bool mallocs, proc **out) {
    if (id < PYMEM_NO_PROC || id >= h->nprocs || (id >= 0 && !h->procs[id]))
        return fail(h, PYMEM_EINVAL, "there is no processor %d", id);
    *out = id == PYMEM_NO_PROC ? &h->no_p : h->procs[id];
    if (!mallocs) return PYMEM_OK;
    if (!(*out)->cache) return fail(h, PYMEM_EINVAL, "objects are allocated on a processor; this thread has none");
    return (*out)->flush_gen == h->sweepgen ? PYMEM_OK : proc_flush(h, *out, *out);
}

/* ---- a heap's life ---- */

static int birth(pymem_heap *h) {
    h->sweep_done = true;
    h->stop_live = UINT64_MAX;
    h->quantum = INT64_MAX;
    h->gc_goal = UINT64_MAX;
    h->memory_limit = INT64_MAX;
    h->scav_percent_goal = h->scav_limit = UINT64_MAX;
    h->padding = h->config.padding_pages;
    account_birth(h);
    h->faults = (int64_t)h->config.birth_fault - 2; /* the heap itself was the first allocation */
    h->mcache0 = mcache_new(h);
    h->faults = -1;
    h->no_p.cache = h->mcache0;
    return h->mcache0 ? PYMEM_OK : PYMEM_ENOMEM;
}

int pymem_heap_new(const pymem_config *config, pymem_heap **out) {
    *out = NULL;
    if (!config_good(config)) return PYMEM_EINVAL;
    pymem_heap *h = config->birth_fault == 1 ? NULL : calloc(1, sizeof *h);
    if (!h) return PYMEM_ENOMEM;
    h->config = *config;
    h->real_bytes = sizeof *h;
    atomic_flag_clear(&h->busy);
    if (birth(h)) {
        pymem_heap_free(h);
        return PYMEM_ENOMEM;
    }
    *out = h;
    return PYMEM_OK;
}

void pymem_heap_free(pymem_heap *h) {
    if (!h) return;
    for (int32_t i = 0; i < h->nprocs; i++) {
        if (h->procs[i] && h->procs[i]->cache != h->mcache0) os_free(h, h->procs[i]->cache, sizeof(mcache));
        os_free(h, h->procs[i], sizeof(proc));
    }
    os_free(h, h->procs, (size_t)h->cap_procs * sizeof *h->procs);
    os_free(h, h->mcache0, sizeof(mcache));
    mark_release(h);
    memory_release(h);
    mheap_release(h);
    page_alloc_release(h);
    os_release_kept(h);
    free(h);
}

const char *pymem_heap_message(const pymem_heap *h) { return h->message; }
void pymem_fault_after(pymem_heap *h, int64_t n) { h->faults = n; }
uint64_t pymem_metadata_bytes(const pymem_heap *h) { return h->real_bytes; }

int pymem_heap_check(pymem_heap *h) {
    ENTER(h);
    int rc = heap_check(h);
    atomic_flag_clear_explicit(&h->busy, memory_order_release);
    return rc;
}

/* ---- snapshots ---- */

int pymem_snapshot(pymem_heap *h, char *out, uint64_t cap, uint64_t *need) {
    ENTER(h);
    *need = 0;
    return leave(h, snapshot_write(h, out, out ? cap : 0, need));
}

/* A heap that could not be restored stays entered: its sentence can be read, and nothing else done with it. */
int pymem_restore(const char *data, uint64_t n, int64_t fault, pymem_heap **out) {
    pymem_config config = {.arena_base = (uint64_t)ARENA_PAGES << PAGE_SHIFT, .birth_fault = fault == 0};
    int rc = pymem_heap_new(&config, out);
    if (rc) return rc;
    pymem_heap *h = *out;
    enter(h);
    h->faults = fault;
    rc = snapshot_read(h, data, n);
    h->faults = -1;
    if (!rc && heap_check(h)) rc = PYMEM_EFORMAT;
    if (!rc) atomic_flag_clear_explicit(&h->busy, memory_order_release);
    return rc;
}

/* ---- processors ---- */

int pymem_proc_new(pymem_heap *h, int32_t *id) {
    ENTER(h);
    return leave(h, proc_new(h, id));
}

/* Who runs while proc id is taken down: the first of the others, else a thread without one. */
static proc *proc_beside(pymem_heap *h, int32_t id) {
    for (int32_t i = 0; i < h->nprocs; i++)
        if (i != id && h->procs[i]) return h->procs[i];
    return &h->no_p;
}

int pymem_proc_destroy(pymem_heap *h, int32_t id) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc && id == PYMEM_NO_PROC) rc = fail(h, PYMEM_EINVAL, "there is no processor -1");
    return leave(h, rc ? rc : proc_destroy(h, proc_beside(h, id), id));
}

/* ---- stops ---- */

int pymem_set_stops(pymem_heap *h, uint64_t stop_live, int64_t quantum) {
    ENTER(h);
    h->stop_live = stop_live;
    h->quantum = quantum;
    return leave(h, PYMEM_OK);
}

uint32_t pymem_stop_due(const pymem_heap *h) { return h->stop_due; }

int pymem_work_done(pymem_heap *h, uint64_t *objects, uint64_t *bytes) {
    ENTER(h);
    *objects = h->work_objects;
    *bytes = h->work_bytes;
    return leave(h, PYMEM_OK);
}

int pymem_assist_credit(pymem_heap *h, int32_t id, int64_t add, int64_t *now) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc) *now = p->credit += add;
    return leave(h, rc);
}

/* ---- allocation ---- */

static int size_check(pymem_heap *h, uint64_t size) {
    if (size == 0) return fail(h, PYMEM_ESIZE, "an object of 0 bytes has no place: Go gives all of them one address");
    if (size > h->config.address_space)
        return fail(h, PYMEM_ESIZE, "an object of %llu bytes is larger than the address space of %llu", (ull)size,
                    (ull)h->config.address_space);
    return PYMEM_OK;
}

/* The bits of all together first: as a rule they are below the limit, and then so is each size. */
static int sizes_check(pymem_heap *h, const uint64_t *sizes, uint64_t n) {
    uint64_t bits = 0;
    for (uint64_t i = 0; i < n; i++) bits |= sizes[i] - 1; /* of size 0: all */
    if (bits < h->config.address_space) return PYMEM_OK;
    int rc = PYMEM_OK;
    for (uint64_t i = 0; i < n && !rc; i++) rc = size_check(h, sizes[i]);
    return rc;
}

int pymem_malloc(pymem_heap *h, int32_t id, uint64_t size, int noscan, uint32_t type, uint64_t *addr) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, true, &p);
    if (!rc) rc = size_check(h, size);
    h->stop_due = PYMEM_STOP_NONE;
    if (!rc) rc = heap_malloc(h, p, size, noscan, type, addr);
    if (!rc && h->memory && *addr) memory_new_object(h, *addr, size, type);
    return leave(h, rc);
}

int pymem_malloc_same(pymem_heap *h, int32_t id, uint64_t size, int noscan, uint32_t type, uint64_t n, uint64_t *addrs,
                      uint64_t *done) {
    ENTER(h);
    proc *p;
    *done = 0;
    int rc = get_proc(h, id, true, &p);
    if (!rc) rc = size_check(h, size);
    h->stop_due = PYMEM_STOP_NONE;
    if (!rc) rc = heap_malloc_same(h, p, size, noscan, type, n, addrs, done);
    if (h->memory) memory_new_objects(h, addrs, *done, NULL, size, NULL, type);
    return leave(h, rc);
}

int pymem_malloc_each(pymem_heap *h, int32_t id, const uint64_t *sizes, const uint8_t *noscan, int noscan_all,
                      const uint32_t *types, uint64_t n, uint64_t *addrs, uint64_t *done) {
    ENTER(h);
    proc *p;
    *done = 0;
    int rc = get_proc(h, id, true, &p);
    if (!rc) rc = sizes_check(h, sizes, n);
    h->stop_due = PYMEM_STOP_NONE;
    if (!rc) rc = heap_malloc_each(h, p, sizes, noscan, noscan_all, types, n, addrs, done);
    if (h->memory) memory_new_objects(h, addrs, *done, sizes, 0, types, 0);
    return leave(h, rc);
}

/* ---- stacks and manual spans ---- */

static int stack_size_check(pymem_heap *h, uint64_t n) {
    bool good = n >= FIXED_STACK && !(n & (n - 1)) && n <= 1ull << 30;
    return good ? PYMEM_OK
                : fail(h, PYMEM_ESIZE, "a stack has a power of two bytes from 2 KB to 1 GB, not %llu", (ull)n);
}

int pymem_stack_alloc(pymem_heap *h, int32_t id, uint64_t n, int cached, uint64_t *addr) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc) rc = stack_size_check(h, n);
    return leave(h, rc ? rc : stack_alloc(h, p, n, cached, addr));
}

int pymem_stack_free(pymem_heap *h, int32_t id, uint64_t addr, uint64_t n, int cached) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc) rc = stack_size_check(h, n);
    return leave(h, rc ? rc : stack_free(h, p, addr, n, cached));
}

int pymem_manual_alloc(pymem_heap *h, int32_t id, uint64_t npages, int kind, uint64_t *addr) {
    ENTER(h);
    proc *p;
    mspan *s;
    int rc = get_proc(h, id, false, &p);
    if (!rc && (npages == 0 || kind < PYMEM_SPAN_WORKBUF || kind > PYMEM_SPAN_OTHER))
        rc = fail(h, PYMEM_ESIZE, "a manual span has at least one page and is a work buffer or of another use");
    if (!rc) rc = mheap_alloc_span(h, p, npages, kind, 0, &s);
    if (!rc) *addr = s->base;
    return leave(h, rc);
}

int pymem_manual_free(pymem_heap *h, int32_t id, uint64_t addr) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    mspan *s = mheap_span_of(h, addr);
    bool good = s && s->base == addr && s->state == SPAN_MANUAL && s->kind != PYMEM_SPAN_STACK;
    if (!rc && !good) rc = fail(h, PYMEM_EADDRESS, "no manual span begins at 0x%llx", (ull)addr);
    if (!rc) mheap_free_span(h, p, s);
    return leave(h, rc);
}

/* ---- collections ---- */

int pymem_mark_dead(pymem_heap *h, const uint64_t *addrs, uint64_t n, uint64_t *done) {
    ENTER(h);
    return leave(h, heap_declare_dead(h, addrs, n, done));
}

int pymem_check_dead(pymem_heap *h, const uint64_t *addrs, uint64_t n) {
    ENTER(h);
    uint64_t done;
    int rc = heap_declare_dead(h, addrs, n, &done);
    if (rc) return leave(h, rc);
    if (n && h->memory && h->memory->points) rc = mark_check_dead(h);
    heap_undeclare_dead(h, addrs, n);
    return leave(h, rc);
}

static int no_gc_check(pymem_heap *h) {
    return h->gc_running ? fail(h, PYMEM_EINVAL, "a collection is under way: end it with gc_flip first") : PYMEM_OK;
}

int pymem_gc_collect(pymem_heap *h, int32_t id, const uint64_t *dead, uint64_t n, uint64_t *done,
                     pymem_gc_result *out) {
    ENTER(h);
    proc *p;
    *done = 0;
    int rc = get_proc(h, id, false, &p);
    if (!rc) rc = no_gc_check(h);
    return leave(h, rc ? rc : gc_collect(h, p, dead, n, done, out));
}

int pymem_gc_begin(pymem_heap *h, int32_t id) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc) rc = no_gc_check(h);
    if (!rc) rc = gc_settle(h, p);
    return leave(h, rc ? rc : gc_begin(h, p));
}

int pymem_mark_start(pymem_heap *h, int assists) {
    ENTER(h);
    if (!h->gc_running || h->marking) return leave(h, fail(h, PYMEM_EINVAL, "mark_start comes once, after gc_begin"));
    gc_mark_start(h);
    gc_mark_record(h);
    h->assists = assists;
    return leave(h, PYMEM_OK);
}

int pymem_mark_start_graph(pymem_heap *h, int assists) {
    ENTER(h);
    int rc = PYMEM_OK;
    if (!h->gc_running || h->marking) rc = fail(h, PYMEM_EINVAL, "mark_start comes once, after gc_begin");
    if (rc) return leave(h, rc);
    rc = mark_graph_reserve(h);
    if (rc) {
        h->gc_running = false;
        return leave(h, rc);
    }
    gc_mark_start(h);
    mark_graph_start(h);
    h->assists = assists;
    return leave(h, PYMEM_OK);
}

int pymem_mark_drain(pymem_heap *h, int64_t budget, pymem_mark_progress *out) {
    ENTER(h);
    *out = (pymem_mark_progress){.idle = 1};
    if (!h->marking) return leave(h, fail(h, PYMEM_EINVAL, "mark_drain without mark_start"));
    return leave(h, h->mark ? mark_graph_drain(h, budget, out) : PYMEM_OK);
}

int pymem_mark_get(pymem_heap *h, pymem_mark_totals *out) {
    ENTER(h);
    *out = h->marks;
    return leave(h, PYMEM_OK);
}

int pymem_mark_set_phase(pymem_heap *h, uint32_t puts) {
    ENTER(h);
    if (puts >= 64) return leave(h, fail(h, PYMEM_EINVAL, "the phase of the span queue is 0 to 63, not %u", puts));
    h->queue_puts = puts;
    return leave(h, PYMEM_OK);
}

int pymem_mark_check(pymem_heap *h, uint64_t *path, uint64_t cap, uint64_t *n) {
    ENTER(h);
    *n = 0;
    if (!h->mark || !mark_is_idle(h))
        return leave(h, fail(h, PYMEM_EINVAL, "mark_check comes after a mark by graph is idle and before mark_stop"));
    return leave(h, mark_check(h, path, cap, n));
}

int pymem_mark_stop(pymem_heap *h) {
    ENTER(h);
    if (!h->marking) return leave(h, fail(h, PYMEM_EINVAL, "mark_stop without mark_start"));
    if (h->mark && !mark_is_idle(h)) return leave(h, fail(h, PYMEM_EINVAL, "there is still something to mark"));
    int rc = h->mark ? mark_graph_stop(h) : PYMEM_OK;
    gc_mark_stop(h);
    return leave(h, rc);
}

int pymem_gc_flip(pymem_heap *h) {
    ENTER(h);
    if (!h->gc_running || h->marking) return leave(h, fail(h, PYMEM_EINVAL, "gc_flip comes once, after mark_stop"));
    gc_flip(h);
    return leave(h, PYMEM_OK);
}

int pymem_gc_end(pymem_heap *h, int32_t id, int forced) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc) gc_end(h, p, forced);
    return leave(h, rc);
}

int pymem_flush(pymem_heap *h, int32_t id) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc && p->cache) rc = proc_flush(h, p, p);
    return leave(h, rc);
}

int pymem_sweep_one(pymem_heap *h, int32_t id, uint64_t *base) {
    ENTER(h);
    proc *p;
    mspan *s;
    int rc = get_proc(h, id, false, &p);
    return leave(h, rc ? rc : sweep_one(h, p, &s, base));
}

int pymem_sweep_span(pymem_heap *h, int32_t id, uint64_t base) {
    ENTER(h);
    proc *p;
    bool freed;
    int rc = get_proc(h, id, false, &p);
    mspan *s = mheap_span_of(h, base);
    if (!rc && (!s || s->base != base || !sweep_acquire(h, s)))
        rc = fail(h, PYMEM_EADDRESS, "no unswept span begins at 0x%llx", (ull)base);
    return leave(h, rc ? rc : sweep_span(h, p, s, false, &freed));
}

int pymem_sweep_some(pymem_heap *h, int32_t id, uint64_t most, uint64_t *spans) {
    ENTER(h);
    proc *p;
    *spans = 0;
    int rc = get_proc(h, id, false, &p);
    return leave(h, rc ? rc : sweep_some(h, p, most, spans));
}

int pymem_sweep_all(pymem_heap *h, int32_t id, uint64_t *spans) {
    ENTER(h);
    proc *p;
    *spans = 0;
    int rc = get_proc(h, id, false, &p);
    return leave(h, rc ? rc : sweep_all(h, p, spans));
}

int pymem_pace_sweeper(pymem_heap *h, uint64_t trigger) {
    ENTER(h);
    pace_sweeper(h, trigger);
    return leave(h, PYMEM_OK);
}

int pymem_read_pace(pymem_heap *h, pymem_pace_info *out) {
    ENTER(h);
    pace_read(h, out);
    return leave(h, PYMEM_OK);
}

int pymem_compact(pymem_heap *h, int32_t id, double max_fill, const uint64_t *pins, uint64_t npins, pymem_moves *moves,
                  pymem_compaction *out) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc) rc = no_gc_check(h);
    if (!rc && !(max_fill > 0 && max_fill <= 1))
        rc = fail(h, PYMEM_EINVAL, "sparse spans are filled to a share above 0 and at most 1");
    return leave(h, rc ? rc : compact(h, p, max_fill, pins, npins, moves, out));
}

/* ---- the graph ---- */

int pymem_memory_on(pymem_heap *h) {
    ENTER(h);
    return leave(h, memory_on(h));
}

int pymem_memory(pymem_heap *h, uint64_t addr, uint64_t size, char **out) {
    ENTER(h);
    *out = NULL;
    return leave(h, memory_bytes(h, addr, size, out));
}

int pymem_type_add(pymem_heap *h, uint32_t id, uint64_t size, uint64_t ptrdata, const uint64_t *mask, uint64_t words) {
    ENTER(h);
    return leave(h, memory_type_add(h, id, size, ptrdata, mask, words));
}

int pymem_roots_new(pymem_heap *h, int kind, uint32_t *id) {
    ENTER(h);
    if (kind < PYMEM_ROOTS_GLOBALS || kind > PYMEM_ROOTS_HELD)
        return leave(h, fail(h, PYMEM_EINVAL, "roots are globals, a stack or held, not of kind %d", kind));
    return leave(h, roots_new(h, kind, id));
}

int pymem_roots_set(pymem_heap *h, uint32_t id, uint64_t first, const uint64_t *addrs, uint64_t n) {
    ENTER(h);
    return leave(h, roots_set(h, id, first, addrs, n));
}

int pymem_roots_get(pymem_heap *h, uint32_t id, uint64_t first, uint64_t *addrs, uint64_t n) {
    ENTER(h);
    const root_set *r = roots_of(h, id);
    if (r && (first > r->n || n > r->n - first)) {
        fail(h, PYMEM_EINVAL, "set of roots %u has %llu places", id, (ull)r->n);
        r = NULL;
    }
    if (r && n) memcpy(addrs, r->addrs + first, n * sizeof *addrs);
    return leave(h, r ? PYMEM_OK : PYMEM_EINVAL);
}

int pymem_roots_resize(pymem_heap *h, uint32_t id, uint64_t n) {
    ENTER(h);
    if (n > 1ull << 40) return leave(h, fail(h, PYMEM_ESIZE, "%llu roots are more than there is memory for", (ull)n));
    return leave(h, roots_resize(h, id, n));
}

int pymem_roots_free(pymem_heap *h, uint32_t id) {
    ENTER(h);
    return leave(h, roots_free(h, id));
}

int pymem_store_batch(pymem_heap *h, const uint64_t *objects, const uint64_t *offsets, const uint64_t *targets,
                      uint64_t n, uint64_t *done) {
    ENTER(h);
    *done = 0;
    int rc = memory_on(h);
    return leave(h, rc ? rc : memory_store(h, objects, offsets, targets, n, done));
}

int pymem_load_batch(pymem_heap *h, const uint64_t *objects, const uint64_t *offsets, uint64_t n, uint64_t *out,
                     uint64_t *done) {
    ENTER(h);
    *done = 0;
    int rc = memory_on(h);
    return leave(h, rc ? rc : memory_load(h, objects, offsets, n, out, done));
}

/* ---- pages ---- */

int pymem_page_cache_flush(pymem_heap *h, int32_t id) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc) page_cache_flush(&h->pages, &p->pages);
    return leave(h, rc);
}

/* ---- MemStats ---- */

int pymem_read_mem_stats(pymem_heap *h, int32_t id, int flush, pymem_mem_stats *out) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    for (int32_t i = 0; flush && i < h->nprocs && !rc; i++)
        if (h->procs[i]) rc = proc_flush(h, p, h->procs[i]);
    if (!rc) mem_stats_read(h, out);
    return leave(h, rc);
}

int pymem_set_goal(pymem_heap *h, uint64_t gc_goal, uint64_t memory_limit, uint64_t heap_marked) {
    ENTER(h);
    h->gc_goal = gc_goal;
    h->memory_limit = memory_limit;
    h->heap_marked = heap_marked;
    return leave(h, PYMEM_OK);
}

int pymem_set_goal_floor(pymem_heap *h, uint64_t floor) {
    ENTER(h);
    h->goal_floor = floor;
    return leave(h, PYMEM_OK);
}

/* ---- the scavenger ---- */

int pymem_scavenge(pymem_heap *h, uint64_t bytes, int force, uint64_t *released) {
    ENTER(h);
    *released = scavenge(h, bytes, force);
    return leave(h, PYMEM_OK);
}

int pymem_set_scavenge_goals(pymem_heap *h, uint64_t gc_percent_goal, uint64_t memory_limit) {
    ENTER(h);
    h->scav_percent_goal = gc_percent_goal;
    h->scav_limit = memory_limit;
    return leave(h, PYMEM_OK);
}

int pymem_read_scavenge(pymem_heap *h, pymem_scavenge_info *out) {
    ENTER(h);
    *out = (pymem_scavenge_info){.heap_in_use = h->heap_in_use,
                                 .heap_free = h->heap_free,
                                 .heap_released = h->heap_released,
                                 .mapped_ready = mapped_ready(h),
                                 .released_eager = h->scav_eager};
    return leave(h, PYMEM_OK);
}

int pymem_scavenge_chunks(pymem_heap *h, uint64_t from_chunk, pymem_scavenge_chunk *out, uint64_t cap, uint64_t *n) {
    ENTER(h);
    *n = 0;
    for (uint64_t c = from_chunk; c < h->pages.nchunks && *n < cap; c++) {
        const scav_chunk *x = &h->pages.chunks[c].index;
        out[(*n)++] = (pymem_scavenge_chunk){x->in_use, x->last_in_use, x->gen, x->has_free};
    }
    return leave(h, PYMEM_OK);
}

int pymem_scavenge_candidate(const uint64_t *alloc, const uint64_t *scavenged, uint32_t from, uint32_t min,
                             uint64_t max, uint32_t *first, uint32_t *npages) {
    if (from >= CHUNK_PAGES || !min || min > 64 || min & (min - 1)) return PYMEM_EINVAL;
    chunk c = {0};
    memcpy(c.alloc, alloc, sizeof c.alloc);
    memcpy(c.scav, scavenged, sizeof c.scav);
    uint64_t n = 0, page = scavenge_candidate(&c, from, min, max, &n);
    *first = n ? (uint32_t)page : 0;
    *npages = (uint32_t)n;
    return PYMEM_OK;
}

/* ---- looking inside ---- */

static void describe_span(const pymem_heap *h, const mspan *s, pymem_span_info *out) {
    *out = (pymem_span_info){.base = s->base,
                             .npages = s->npages,
                             .elem_size = s->elem_size,
                             .nelems = s->nelems,
                             .alloc_count = s->alloc_count,
                             .freeindex = s->freeindex,
                             .sweepgen = s->sweepgen,
                             .span_class = s->span_class,
                             .state = s->state,
                             .kind = s->kind,
                             .cached = s->state == SPAN_IN_USE &&
                                       (s->sweepgen == h->sweepgen + 1 || s->sweepgen == h->sweepgen + 3)};
}

int pymem_spans(pymem_heap *h, uint64_t from_addr, pymem_span_info *out, uint64_t cap, uint64_t *n) {
    ENTER(h);
    uint64_t page = from_addr > h->config.arena_base ? page_of(h, from_addr) : 0;
    *n = 0;
    while (page < h->cur_page && *n < cap) {
        const mspan *s = span_at(h, page);
        if (s) describe_span(h, s, &out[(*n)++]);
        page += s ? s->npages : 1;
    }
    return leave(h, PYMEM_OK);
}

int pymem_span_of(pymem_heap *h, uint64_t addr, pymem_span_info *out) {
    ENTER(h);
    const mspan *s = mheap_span_of(h, addr);
    if (!s) return leave(h, fail(h, PYMEM_EADDRESS, "0x%llx is in no span", (ull)addr));
    describe_span(h, s, out);
    return leave(h, PYMEM_OK);
}

int pymem_object_at(pymem_heap *h, uint64_t addr, pymem_object_info *out) {
    ENTER(h);
    mspan *s;
    uint32_t i;
    int rc = heap_find_object(h, addr, &s, &i);
    if (!rc)
        *out = (pymem_object_info){.addr = addr,
                                   .base = s->base,
                                   .size = s->elem_size,
                                   .index = i,
                                   .type = s->types ? s->types[i] : s->large_type,
                                   .span_class = s->span_class,
                                   .noscan = s->span_class & 1,
                                   .tiny = s->tiny_live && s->tiny_live[i]};
    return leave(h, rc);
}

int pymem_objects(pymem_heap *h, uint64_t span_base, uint64_t *addrs, uint32_t *types, uint32_t *n) {
    ENTER(h);
    const mspan *s = mheap_span_of(h, span_base);
    *n = 0;
    if (!s || s->base != span_base || s->state != SPAN_IN_USE)
        return leave(h, fail(h, PYMEM_EADDRESS, "no span of objects begins at 0x%llx", (ull)span_base));
    for (uint32_t i = 0; i < s->nelems; i++) {
        if (!span_slot_lives(h, s, i)) continue;
        addrs[*n] = span_object_addr(s, i);
        types[(*n)++] = s->types ? s->types[i] : s->large_type;
    }
    return leave(h, PYMEM_OK);
}

static void add_type_use(const pymem_heap *h, const mspan *s, uint64_t *objects, uint64_t *bytes, uint32_t ntypes) {
    for (uint32_t i = 0; i < s->nelems; i++) {
        if (!span_slot_lives(h, s, i)) continue;
        uint32_t type = s->types ? s->types[i] : s->large_type;
        if (type >= ntypes) type = 0;
        objects[type]++;
        bytes[type] += s->elem_size;
    }
}

int pymem_type_use(pymem_heap *h, uint64_t *objects, uint64_t *bytes, uint32_t ntypes) {
    ENTER(h);
    if (!ntypes) return leave(h, fail(h, PYMEM_EINVAL, "there is at least the type 0"));
    memset(objects, 0, ntypes * sizeof *objects);
    memset(bytes, 0, ntypes * sizeof *bytes);
    for (const mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++)
            if (slab->spans[i].state == SPAN_IN_USE) add_type_use(h, &slab->spans[i], objects, bytes, ntypes);
    return leave(h, PYMEM_OK);
}

static uint64_t cached_pages(const pymem_heap *h, uint64_t block) {
    uint64_t cached = 0;
    for (int32_t i = 0; i < h->nprocs; i++)
        if (h->procs[i] && h->procs[i]->pages.page == block) cached |= h->procs[i]->pages.cache;
    return cached;
}

int pymem_page_states(pymem_heap *h, uint64_t from_page, uint8_t *out, uint64_t cap, uint64_t *n) {
    ENTER(h);
    *n = 0;
    for (uint64_t page = from_page, cached = 0; page < h->cur_page && *n < cap; page++) {
        if (*n == 0 || page % 64 == 0) cached = cached_pages(h, page & ~63ull);
        const chunk *c = &h->pages.chunks[page / CHUNK_PAGES];
        uint64_t word = page % CHUNK_PAGES / 64, bit = page & 63;
        out[(*n)++] = (uint8_t)((c->alloc[word] >> bit & 1) | (c->scav[word] >> bit & 1) << 1 |
                                (cached >> bit & 1) << 2 | (page < h->padding) << 3);
    }
    return leave(h, PYMEM_OK);
}

void pymem_size_class(int sizeclass, uint32_t *size, uint32_t *npages, uint32_t *nelems_scan, uint32_t *nelems_noscan) {
    const size_classes *t = size_classes_go();
    if (sizeclass < 0 || sizeclass >= NUM_CLASSES) sizeclass = 0;
    *size = t->size[sizeclass];
    *npages = t->npages[sizeclass];
    *nelems_scan = t->nelems[sizeclass << 1];
    *nelems_noscan = t->nelems[sizeclass << 1 | 1];
}

int pymem_size_to_class(uint64_t size) { return size > MAX_SMALL ? 0 : size_classes_go()->of_size[(size + 7) >> 3]; }

uint64_t pymem_heap_bounds(const pymem_heap *h, uint64_t *base) {
    *base = h->config.arena_base;
    return h->cur_page << PAGE_SHIFT;
}

/* ---- replay ---- */

int pymem_replay_run(pymem_replay *r, const pymem_columns *columns, uint64_t *row, int *stopped) {
    pymem_heap *h = replay_heap(r);
    ENTER(h);
    return leave(h, replay_run(r, columns, row, stopped));
}

int pymem_follow_run(pymem_follow *f, uint64_t rows, int *done) {
    pymem_heap *h = follow_heap(f);
    ENTER(h);
    return leave(h, follow_run(f, rows, done));
}
