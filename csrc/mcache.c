/* A proc's spans, one a class, from which it allocates without asking anyone. Full ones are exchanged at mcentral;
 * all are given back when a cycle turns, when statistics are read, and when the proc goes. Go: mcache.go */
#include "internal.h"

enum { SPAN_BUDGET = 100 /* spans a refill sweeps in vain before it takes a fresh one */ };

mcache *mcache_new(pymem_heap *h) {
    mcache *c = os_alloc(h, sizeof *c);
    if (!c) return NULL;
    for (uint32_t i = 0; i < NUM_SPAN_CLASSES; i++) c->alloc[i] = &empty_span;
    fix_alloc_take(h, NULL, &h->cache_fix);
    return c;
}

/* What MemStats learns when a span leaves its mcache. */
static void count_allocs(pymem_heap *h, mspan *s) {
    h->small_allocs[s->span_class >> 1] += (uint64_t)(s->alloc_count - s->count_before_cache);
    s->count_before_cache = 0;
}

/* Go: (*mcentral).uncacheSpan. A stale span was cached when the cycle turned: it is swept on the way out. */
static int uncache_span(pymem_heap *h, proc *p, mspan *s) {
    if (s->sweepgen == h->sweepgen + 1) {
        bool freed;
        int rc = gcbits_reserve(h);
        if (rc) return rc;
        s->sweepgen = h->sweepgen - 1;
        return sweep_span(h, p, s, false, &freed);
    }
    s->sweepgen = h->sweepgen;
    span_set_push(h, p, s, s->alloc_count == s->nelems);
    return PYMEM_OK;
}

/* ---- looking for a span with a free slot. Go: (*mcentral).cacheSpan ---- */

static int sweep_partial(pymem_heap *h, proc *p, uint32_t span_class, int *budget, mspan **out) {
    for (; *budget >= 0; --*budget) {
        int rc = gcbits_reserve(h);
        if (rc) return rc;
        mspan *s = span_set_pop(h, span_class, false, false);
        if (!s) break;
        if (!sweep_acquire(h, s)) continue;
        bool freed;
        rc = sweep_span(h, p, s, true, &freed);
        *out = s;
        return rc;
    }
    return PYMEM_OK;
}

static int sweep_full(pymem_heap *h, proc *p, uint32_t span_class, int *budget, mspan **out) {
    for (; *budget >= 0; --*budget) {
        int rc = gcbits_reserve(h);
        if (rc) return rc;
        mspan *s = span_set_pop(h, span_class, true, false);
        if (!s) break;
        if (!sweep_acquire(h, s)) continue;
        bool freed;
        rc = sweep_span(h, p, s, true, &freed);
        if (rc) return rc;
        uint32_t i = span_next_free(s);
        if (i != s->nelems) {
            s->freeindex = (uint16_t)i;
            *out = s;
            return PYMEM_OK;
        }
        span_set_push(h, p, s, true);
    }
    return PYMEM_OK;
}

static int cache_span(pymem_heap *h, proc *p, uint32_t span_class, mspan **out) {
    const size_classes *t = size_classes_go();
    uint64_t npages = t->npages[span_class >> 1];
    int budget = SPAN_BUDGET, rc = deduct_sweep_credit(h, p, npages << PAGE_SHIFT, 0);
    if (rc) return rc;
    if (h->must_grow) return mheap_alloc_span(h, p, npages, PYMEM_SPAN_HEAP, span_class, out);
    *out = span_set_pop(h, span_class, false, true);
    if (*out) return PYMEM_OK;
    if (!h->sweep_done) {
        rc = sweep_partial(h, p, span_class, &budget, out);
        if (!rc && !*out) rc = sweep_full(h, p, span_class, &budget, out);
        if (rc || *out) return rc;
    }
    rc = reclaim(h, p, npages);
    return rc ? rc : mheap_alloc_span(h, p, npages, PYMEM_SPAN_HEAP, span_class, out);
}

/* A cycle is due. Go: (gcTrigger).test, for those callers of it that have just cached a span or made a large one */
static void trigger_test(pymem_heap *h) {
    if ((uint64_t)h->heap_live >= h->stops.live && !h->marking) h->stops.due |= PYMEM_STOP_TRIGGER;
}

/* Go: (*mcache).refill. heapLive counts the whole span as used from now on; releasing it corrects that. */
int mcache_refill(pymem_heap *h, proc *p, uint32_t span_class) {
    mcache *c = p->cache;
    mspan *s = c->alloc[span_class];
    if (s != &empty_span) {
        s->freeindex = s->nelems;
        int rc = uncache_span(h, p, s);
        if (rc) return rc;
        count_allocs(h, s);
        c->alloc[span_class] = &empty_span;
        if (span_class == TINY_SPAN_CLASS) {
            h->tiny_allocs += c->tiny_allocs;
            c->tiny_allocs = 0;
        }
    }
    int rc = cache_span(h, p, span_class, &s);
    if (rc) return rc;
    s->sweepgen = h->sweepgen + 3;
    s->count_before_cache = s->alloc_count;
    heap_live_add(h, (int64_t)(s->npages << PAGE_SHIFT) - (int64_t)(s->alloc_count * s->elem_size));
    heap_scan_flush(h, c);
    trigger_test(h);
    c->alloc[span_class] = s;
    return PYMEM_OK;
}

/* What is scannable is fixed while a mark runs: its end says what there was. Go: (*gcControllerState).update */
void heap_scan_flush(pymem_heap *h, mcache *c) {
    if (!h->marking) h->heap_scan += c->scan_alloc;
    c->scan_alloc = 0;
}

/* p empties c, its own or another's. If memory runs out half way, the rest stays cached. Go: (*mcache).releaseAll */
int mcache_release_all(pymem_heap *h, proc *p, mcache *c) {
    for (uint32_t i = 0; i < NUM_SPAN_CLASSES; i++) {
        mspan *s = c->alloc[i];
        if (s == &empty_span) continue;
        int rc = gcbits_reserve(h);
        if (rc) return rc;
        count_allocs(h, s);
        bool stale = s->sweepgen == h->sweepgen + 1;
        if (!stale) heap_live_add(h, -(int64_t)((uint64_t)(s->nelems - s->alloc_count) * s->elem_size));
        c->alloc[i] = &empty_span;
        rc = uncache_span(h, p, s);
        if (rc) return rc;
    }
    heap_scan_flush(h, c);
    c->tiny = c->tiny_offset = 0;
    h->tiny_allocs += c->tiny_allocs;
    c->tiny_allocs = 0;
    return PYMEM_OK;
}

/* Go: (*mcache).allocLarge. A large span is never cached: it goes straight to the full set. */
int alloc_large(pymem_heap *h, proc *p, uint64_t size, bool noscan, mspan **out) {
    uint64_t npages = (size + PAGE_SIZE - 1) >> PAGE_SHIFT;
    int rc = deduct_sweep_credit(h, p, npages << PAGE_SHIFT, npages);
    if (!rc) rc = reclaim(h, p, npages);
    if (!rc) rc = mheap_alloc_span(h, p, npages, PYMEM_SPAN_HEAP, noscan, out);
    if (rc) return rc;
    mspan *s = *out;
    h->large_alloc += s->elem_size;
    h->large_allocs++;
    heap_live_add(h, (int64_t)s->elem_size);
    trigger_test(h);
    span_set_push(h, p, s, true);
    s->freeindex = 1;
    s->alloc_count = 1;
    return PYMEM_OK;
}
