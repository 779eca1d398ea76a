/* Sweeping: mark bits become alloc bits, span by span. It happens in five places, and the order is part of the
 * emulation: in turn (sweep_one), in proportion to allocation, by a refill that looks for free slots, by the reclaimer
 * that looks for whole pages, and when a stale span leaves its mcache. Who set the mark bits is not asked.
 * Go: mgcsweep.go, (*mheap).reclaim */
#include <string.h>
#include "internal.h"

enum { RECLAIM_CHUNK = 512 /* pages looked at in one go */, SWEEP_SETS = 2 * NUM_SPAN_CLASSES };

bool sweep_acquire(pymem_heap *h, mspan *s) {
    if (s->state != SPAN_IN_USE || s->sweepgen != h->sweepgen - 2) return false;
    s->sweepgen = h->sweepgen - 1;
    return true;
}

static void forget_freed_slots(mspan *s) {
    for (uint32_t first = 0; first < s->nelems; first += 64) {
        uint32_t left = s->nelems - first;
        uint64_t freed = ~s->mark_bits[first / 64] & (left < 64 ? (1ull << left) - 1 : UINT64_MAX);
        for (; freed; freed &= freed - 1) {
            uint32_t i = first + (uint32_t)__builtin_ctzll(freed);
            if (s->tiny_live) s->tiny_live[i] = 0;
            if (s->types) s->types[i] = 0;
        }
    }
}

static void count_small_frees(pymem_heap *h, const mspan *s, uint32_t nfreed) {
    h->small_frees[s->span_class >> 1] += nfreed;
}

/* Where a swept span goes; true if it went back to the heap. Go: the end of (*sweepLocked).sweep */
static bool settle(pymem_heap *h, proc *p, mspan *s, uint32_t nfreed) {
    bool large = s->span_class >> 1 == 0;
    if (large && nfreed) {
        h->large_frees++;
        h->large_free += s->elem_size;
    }
    if (s->alloc_count == 0) {
        mheap_free_span(h, p, s);
        return true;
    }
    span_set_push(h, p, s, large || s->alloc_count == s->nelems);
    return false;
}

/* The caller has acquired s (sweepgen == sg - 1). preserve: the caller wants to keep the span, whatever is left in it.
 */
int sweep_span(pymem_heap *h, proc *p, mspan *s, bool preserve, bool *freed) {
    *freed = false;
    int rc = gcbits_reserve(h);
    if (rc) {
        s->sweepgen = h->sweepgen - 2;
        return rc;
    }
    uint32_t nalloc = span_count_marks(s), nfreed = s->alloc_count - nalloc;
    h->pages_swept += s->npages;
    if (nfreed && (s->tiny_live || s->types)) forget_freed_slots(s);
    s->alloc_count = (uint16_t)nalloc;
    s->freeindex = 0;
    s->alloc_bits = s->mark_bits;
    s->mark_bits = gcbits_new(h, s->nelems);
    s->sweepgen = h->sweepgen;
    if (s->span_class >> 1) count_small_frees(h, s, nfreed);
    if (!preserve) *freed = settle(h, p, s, nfreed);
    return PYMEM_OK;
}

/* Span classes ascending; in each the full set, then the partial one. Go: (*mheap).nextSpanForSweep */
static mspan *next_unswept(pymem_heap *h) {
    for (; h->sweep_cursor < SWEEP_SETS; h->sweep_cursor++) {
        mspan *s = span_set_pop(h, h->sweep_cursor >> 1, !(h->sweep_cursor & 1), false);
        if (s) return s;
    }
    return NULL;
}

int sweep_one(pymem_heap *h, proc *p, mspan **swept, uint64_t *base) {
    *base = 0;
    *swept = NULL;
    if (h->sweep_done) return PYMEM_OK;
    int rc = gcbits_reserve(h); /* before a span leaves its set */
    if (rc) return rc;
    mspan *s;
    while ((s = next_unswept(h)) && !sweep_acquire(h, s)) continue;
    if (!s) {
        h->sweep_done = true;
        h->sweep_end_live = (uint64_t)h->heap_live;
        return PYMEM_OK;
    }
    uint64_t npages = s->npages;
    bool freed;
    *base = s->base;
    *swept = s;
    rc = sweep_span(h, p, s, false, &freed);
    if (freed) h->reclaim_credit += npages;
    return rc;
}

int sweep_some(pymem_heap *h, proc *p, uint64_t most, uint64_t *spans) {
    for (*spans = 0; *spans < most; ++*spans) {
        mspan *s;
        uint64_t base;
        int rc = sweep_one(h, p, &s, &base);
        if (rc || !base) return rc;
    }
    return PYMEM_OK;
}

int sweep_all(pymem_heap *h, proc *p, uint64_t *spans) {
    uint64_t n;
    int rc = sweep_some(h, p, UINT64_MAX, &n);
    if (spans) *spans = n;
    return rc;
}

/* ---- sweeping as recorded ---- */

/* s leaves the sets as if sweep_one had come to it: those ahead, which were swept out of turn, leave too, or a refill
 * would spend its budget on them. On several procs two turns may pass each other on their way into the record. */
static void take_turn(pymem_heap *h, mspan *s) {
    while (h->sweep_cursor < SWEEP_SETS) {
        uint32_t span_class = h->sweep_cursor >> 1;
        bool full = !(h->sweep_cursor & 1);
        const mspan *first = set_unswept(h, span_class, full)->first;
        bool waits = first && first != s && first->state == SPAN_IN_USE && first->sweepgen == h->sweepgen - 2;
        if (first == s || waits) break;
        if (first) span_set_pop(h, span_class, full, false);
        else h->sweep_cursor++;
    }
    span_set_remove(h, s, 1 - swept_parity(h));
}

int sweep_recorded(pymem_heap *h, proc *p, uint64_t base, bool in_turn, bool *due) {
    mspan *s = mheap_span_of(h, base);
    *due = false;
    int rc = gcbits_reserve(h);
    if (rc || !s || s->base != base || !sweep_acquire(h, s)) return rc;
    *due = true;
    if (in_turn) take_turn(h, s);
    bool freed;
    return sweep_span(h, p, s, false, &freed);
}

/* What credit has swept comes first, then what the reclaimer has. */
int sweep_script(pymem_heap *h, proc *p, bool reclaimed) {
    for (; h->nscript; h->script++, h->nscript--) {
        bool by_reclaimer = *h->script & SCRIPT_RECLAIM, due;
        if (by_reclaimer && !reclaimed) break;
        int rc = sweep_recorded(h, p, *h->script & ~(uint64_t)SCRIPT_RECLAIM, !by_reclaimer, &due);
        if (rc) return rc;
    }
    return PYMEM_OK;
}

/* ---- sweeping in proportion to allocation ---- */

/* Pages to sweep a byte, so that all is swept 1 MB before heapLive reaches the trigger. Go: gcPaceSweeper */
void pace_sweeper(pymem_heap *h, uint64_t trigger) {
    if (h->sweep_done) return;
    h->sweep_pages_per_byte = 0;
    int64_t distance = (int64_t)trigger - h->heap_live - (1 << 20);
    if (distance < PAGE_SIZE) distance = PAGE_SIZE;
    int64_t pages = (int64_t)h->pages_in_use - (int64_t)h->pages_swept;
    if (pages <= 0) return;
    h->sweep_pages_per_byte = (double)pages / (double)distance;
    h->sweep_live_basis = (uint64_t)h->heap_live;
    h->pages_swept_basis = h->pages_swept;
}

int deduct_sweep_credit(pymem_heap *h, proc *p, uint64_t span_bytes, uint64_t caller_pages) {
    if (h->scripted) return sweep_script(h, p, false);
    if (h->sweep_done || h->sweep_pages_per_byte == 0) return PYMEM_OK;
    uint64_t live = (uint64_t)h->heap_live, fresh = span_bytes;
    if (h->sweep_live_basis < live) fresh += live - h->sweep_live_basis;
    int64_t target = (int64_t)(h->sweep_pages_per_byte * (double)fresh) - (int64_t)caller_pages;
    while (target > (int64_t)(h->pages_swept - h->pages_swept_basis)) {
        mspan *s;
        uint64_t base;
        int rc = sweep_one(h, p, &s, &base);
        if (rc || !base) return rc;
    }
    return PYMEM_OK;
}

/* ---- reclaiming whole pages ahead of a span allocation ---- */

static int reclaim_chunk(pymem_heap *h, proc *p, uint64_t first, uint64_t *found) {
    uint64_t end = first + RECLAIM_CHUNK < h->cur_page ? first + RECLAIM_CHUNK : h->cur_page;
    for (uint64_t page = first; page < end; page++) {
        mspan *s = span_at(h, page);
        if (!s || page_of(h, s->base) != page || s->page_mark || !sweep_acquire(h, s)) continue;
        uint64_t npages = s->npages;
        bool freed;
        int rc = sweep_span(h, p, s, false, &freed);
        if (rc) return rc;
        if (freed) *found += npages;
    }
    return PYMEM_OK;
}

int reclaim(pymem_heap *h, proc *p, uint64_t npages) {
    if (h->scripted) return sweep_script(h, p, true);
    if (h->sweep_done) return PYMEM_OK;
    while (npages > 0 && (h->reclaim_credit || h->reclaim_page < h->reclaim_limit)) {
        if (h->reclaim_credit) {
            uint64_t take = h->reclaim_credit < npages ? h->reclaim_credit : npages;
            h->reclaim_credit -= take;
            npages -= take;
            continue;
        }
        uint64_t found = 0, first = h->reclaim_page;
        h->reclaim_page += RECLAIM_CHUNK;
        int rc = reclaim_chunk(h, p, first, &found);
        if (rc) return rc;
        if (found > npages) h->reclaim_credit += found - npages;
        npages -= found < npages ? found : npages;
    }
    return PYMEM_OK;
}
