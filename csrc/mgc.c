/* The turning points of a cycle: begin (everything swept), mark, flip (everything unswept), end. What happens between
 * them, and when, is decided in Python. Go: mgc.go */
#include "internal.h"

/* All is swept before a cycle begins. Go: finishsweep_m */
int gc_begin(pymem_heap *h, proc *p) {
    for (;;) {
        mspan *s;
        uint64_t base;
        int rc = sweep_one(h, p, &s, &base);
        if (rc) return rc;
        if (!base) break;
    }
    span_sets_reset(h);
    gcbits_epoch(h);
    h->gc_running = true;
    return PYMEM_OK;
}

void gc_mark_record(pymem_heap *h) {
    h->heap_marked = 0;
    for (mspan_slab *slab = h->slabs; slab; slab = slab->next) {
        for (int i = 0; i < 64; i++) {
            mspan *s = &slab->spans[i];
            if (s->state != SPAN_IN_USE) continue;
            span_mark_record(s);
            h->heap_marked += span_count_marks(s) * s->elem_size;
        }
    }
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
