/* The gate to the collector: each step of a cycle as a call of its own, since policy decides in Python when it comes. A
 * call at the wrong time in a cycle is turned away here; below, all steps trust their order. */
#include <string.h>
#include "api.h"

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

/* ---- marking ---- */

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

/* ---- sweeping ---- */

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

/* ---- caches ---- */

int pymem_flush(pymem_heap *h, int32_t id) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc && p->cache) rc = proc_flush(h, p, p);
    return leave(h, rc);
}

int pymem_page_cache_flush(pymem_heap *h, int32_t id) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc) page_cache_flush(&h->pages, &p->pages);
    return leave(h, rc);
}

/* ---- compaction ---- */

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

/* ---- goals and counts of pacing ---- */

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

int pymem_read_pace(pymem_heap *h, pymem_pace_info *out) {
    ENTER(h);
    pace_read(h, out);
    return leave(h, PYMEM_OK);
}

pymem_pace_info *pymem_pace(pymem_heap *h) { return &h->pace; }

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
