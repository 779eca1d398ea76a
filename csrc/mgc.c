/* The turning points of a cycle: begin (everything swept), mark, flip (everything unswept), end. What happens between
 * them, and when, is decided in Python. Go: mgc.go */
#include "internal.h"

int gc_settle(pymem_heap *h, proc *p) {
    int rc = PYMEM_OK;
    for (int32_t i = 0; i < h->nprocs && !rc; i++)
        if (h->procs[i] && h->procs[i]->flush_gen != h->sweepgen) rc = proc_flush(h, p, h->procs[i]);
    if (!rc && h->no_p.cache && h->no_p.flush_gen != h->sweepgen) rc = proc_flush(h, p, &h->no_p);
    return rc ? rc : sweep_all(h, p, NULL);
}

/* All is swept before a cycle begins. Go: finishsweep_m */
int gc_begin(pymem_heap *h, proc *p) {
    int rc = sweep_all(h, p, NULL);
    if (rc) return rc;
    span_sets_reset(h);
    gcbits_epoch(h);
    h->gc_running = true;
    return PYMEM_OK;
}

static void mark_span(pymem_cycle *sum, mspan *s) {
    span_mark_record(s);
    uint64_t marked = span_count_marks(s);
    sum->objects_before += s->alloc_count;
    sum->bytes_before += s->alloc_count * s->elem_size;
    sum->objects_marked += marked;
    sum->bytes_marked += marked * s->elem_size;
}

void gc_mark_record(pymem_heap *h) {
    h->last_mark = (pymem_cycle){0};
    for (mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++)
            if (slab->spans[i].state == SPAN_IN_USE) mark_span(&h->last_mark, &slab->spans[i]);
    h->heap_marked = h->last_mark.bytes_marked;
}

/* Go: gcSweep. What was swept is unswept now. heapLive starts over from what was marked. */
void gc_flip(pymem_heap *h) {
    h->gc_running = false;
    h->sweepgen += 2;
    h->sweep_cursor = 0;
    h->sweep_done = false;
    h->pages_swept = 0;
    h->reclaim_page = 0;
    h->reclaim_limit = h->end_page;
    h->reclaim_credit = 0;
    h->heap_live = (int64_t)h->heap_marked;
}

/* p has the owner give back spans, tiny block and stacks; the owner is of this cycle from now on.
 * Go: prepareForSweep, flushmcache */
int proc_flush(pymem_heap *h, proc *p, proc *owner) {
    int rc = mcache_release_all(h, p, owner->cache);
    if (rc) return rc;
    stack_cache_clear(h, p, owner->cache);
    owner->flush_gen = h->sweepgen;
    return PYMEM_OK;
}

/* Stack spans that fell free while the cycle ran go back to the heap. */
void gc_end(pymem_heap *h, proc *p, bool forced) {
    stack_free_spans(h, p);
    h->num_gc++;
    h->num_forced_gc += forced;
    account_cycle_end(h, p);
}

/* ---- a whole collection at once. Go: runtime.GC ---- */

static void tally_frees(const pymem_heap *h, pymem_gc_result *sum) {
    sum->freed_objects = h->large_frees;
    sum->freed_bytes = h->large_free;
    for (int c = 1; c < NUM_CLASSES; c++) {
        sum->freed_objects += h->small_frees[c];
        sum->freed_bytes += h->small_frees[c] * size_classes_go()->size[c];
    }
    sum->freed_pages = h->pages_in_use;
}

static uint64_t spans_in_use(const pymem_heap *h) {
    uint64_t n = 0;
    for (const mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++) n += slab->spans[i].state == SPAN_IN_USE;
    return n;
}

/* Every proc gives back its caches: the idle ones first, then the one that collects. Go: forEachP */
static int flush_all(pymem_heap *h, proc *p) {
    int rc = PYMEM_OK;
    for (int32_t i = 0; i < h->nprocs && !rc; i++)
        if (h->procs[i] && h->procs[i] != p) rc = proc_flush(h, p, h->procs[i]);
    return rc || !p->cache ? rc : proc_flush(h, p, p);
}

/* From the flip on nothing can fail: every bitmap that sweeping takes has been reserved. */
static int turn_cycle(pymem_heap *h, proc *p, pymem_gc_result *out) {
    pymem_gc_result before = {0};
    int rc = gc_begin(h, p);
    if (rc) return rc;
    tally_frees(h, &before);
    gc_mark_record(h);
    gc_flip(h);
    gc_end(h, p, true);
    *out = (pymem_gc_result){.cycle = h->num_gc, .marked_bytes = h->heap_marked, .swept_spans = spans_in_use(h)};
    rc = flush_all(h, p);
    if (!rc) rc = gc_settle(h, p);
    tally_frees(h, out);
    out->freed_objects -= before.freed_objects;
    out->freed_bytes -= before.freed_bytes;
    out->freed_pages = before.freed_pages - out->freed_pages;
    return rc;
}

int gc_collect(pymem_heap *h, proc *p, const uint64_t *dead, uint64_t n, uint64_t *done, pymem_gc_result *out) {
    int rc = heap_declare_dead(h, dead, n, done);
    if (rc) return rc;
    rc = gc_settle(h, p);
    if (!rc) rc = gcbits_reserve_cycle(h);
    if (rc) heap_undeclare_dead(h, dead, n);
    return rc ? rc : turn_cycle(h, p, out);
}
