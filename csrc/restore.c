/* Putting the heap into a state that a recording tells of, instead of getting there step by step: the heap a trace
 * starts from, and, for a follower that predicted wrongly, the one span where reality differs. */
#include <string.h>
#include "internal.h"

/* The heap as Go would have grown it to reach the page. */
static int map_to(pymem_heap *h, uint64_t end_page) {
    while (h->cur_page < end_page) {
        uint64_t missing = h->cur_page ? end_page - h->cur_page : CHUNK_PAGES;
        int rc = mheap_grow(h, &h->no_p, missing);
        if (rc) return rc;
    }
    return PYMEM_OK;
}

static bool take_from_caches(pymem_heap *h, uint64_t page) {
    for (int32_t i = 0; i < h->nprocs; i++) {
        page_cache *c = h->procs[i] ? &h->procs[i]->pages : NULL;
        if (!c || page < c->page || page >= c->page + PAGE_CACHE_PAGES || !(c->cache >> (page & 63) & 1)) continue;
        uint64_t mask = 1ull << (page & 63);
        if (c->scav & mask) {
            h->heap_released -= PAGE_SIZE;
            h->heap_free += PAGE_SIZE;
        }
        c->cache &= ~mask;
        c->scav &= ~mask;
        return true;
    }
    return false;
}

static void uncache_everywhere(pymem_heap *h, mspan *s) {
    for (int32_t i = 0; i < h->nprocs; i++) {
        mcache *c = h->procs[i] ? h->procs[i]->cache : NULL;
        for (uint32_t k = 0; c && k < NUM_SPAN_CLASSES; k++)
            if (c->alloc[k] == s) c->alloc[k] = &empty_span;
    }
}

/* Reality has something else at this span's pages: its objects are forgotten. */
static void evict(pymem_heap *h, mspan *s) {
    uncache_everywhere(h, s);
    for (int parity = 0; parity < 2; parity++) span_set_remove(h, s, parity);
    if (s->state == SPAN_MANUAL) stack_forget_span(h, s);
    s->alloc_count = 0;
    mheap_free_span(h, &h->no_p, s);
}

/* Pages [page, end) are free in the page allocator afterwards, whoever had them. */
static void vacate(pymem_heap *h, uint64_t page, uint64_t end) {
    for (uint64_t i = page; i < end; i++) {
        mspan *s = span_at(h, i);
        if (s) evict(h, s);
        else if (take_from_caches(h, i)) page_alloc_free(&h->pages, i, 1);
    }
}

static bool is_inside(const pymem_heap *h, uint64_t base, uint64_t npages) {
    uint64_t limit = h->config.address_space >> PAGE_SHIFT;
    if (base < h->config.arena_base || base % PAGE_SIZE || !npages || npages > limit) return false;
    return page_of(h, base) >= h->padding && page_of(h, base) <= limit - npages;
}

/* A span that another one overlaps has no place in a heap that something starts from. */
int restore_is_vacant(pymem_heap *h, uint64_t base, uint64_t npages) {
    if (!is_inside(h, base, npages)) return PYMEM_OK; /* for restore_span to complain of */
    for (uint64_t i = page_of(h, base); i < page_of(h, base) + npages && i < h->cur_page; i++)
        if (span_at(h, i))
            return fail(h, PYMEM_EFORMAT, "the span at 0x%llx overlaps another one", (unsigned long long)base);
    return PYMEM_OK;
}

int restore_span(pymem_heap *h, uint64_t base, uint64_t npages, int kind, uint32_t span_class, mspan **out) {
    bool sane = is_inside(h, base, npages);
    uint32_t sizeclass = span_class >> 1;
    if (kind == PYMEM_SPAN_HEAP && sizeclass)
        sane = sane && sizeclass < NUM_CLASSES && npages == size_classes_go()->npages[sizeclass];
    if (!sane)
        return fail(h, PYMEM_EFORMAT, "a span of %llu pages and class %u at 0x%llx cannot be",
                    (unsigned long long)npages, span_class, (unsigned long long)base);
    uint64_t page = page_of(h, base), mapped = h->cur_page; /* nobody has what is mapped only now */
    int rc = map_to(h, page + npages);
    if (rc) return rc;
    vacate(h, page, page + npages < mapped ? page + npages : mapped);
    return mheap_span_at(h, &h->no_p, page, npages, kind, span_class, out);
}

/* An object alive in the snapshot: its slot is taken. */
int restore_object(pymem_heap *h, uint64_t addr, uint32_t type, uint64_t *object) {
    mspan *s = mheap_span_of(h, addr);
    uint32_t i = s ? span_slot_of(s, addr) : 0;
    if (!s || s->state != SPAN_IN_USE || i >= s->nelems || s->base + i * s->elem_size != addr)
        return fail(h, PYMEM_EFORMAT, "the object at 0x%llx of the start heap is in no slot of a span",
                    (unsigned long long)addr);
    int rc = span_set_type(h, s, i, type);
    if (rc) return rc;
    if (!bit_get(s->alloc_bits, i)) {
        bit_set(s->alloc_bits, i);
        s->alloc_count++;
    }
    *object = s->base + i * s->elem_size;
    return PYMEM_OK;
}

static void count_restored(pymem_heap *h, const mspan *s) {
    uint64_t bytes = s->alloc_count * s->elem_size;
    if (s->span_class >> 1) {
        h->small_allocs[s->span_class >> 1] += s->alloc_count;
    } else {
        h->large_allocs += s->alloc_count;
        h->large_alloc += bytes;
    }
    heap_live_add(h, (int64_t)bytes);
}

/* The recording began while spans were being swept: those that hold declared dead are not swept yet. (Others may be
 * unswept too, but will give nothing back.) Call before restore_done. */
void restore_unswept(pymem_heap *h) {
    for (uint64_t page = h->padding; page < h->cur_page;) {
        mspan *s = span_at(h, page);
        page += s ? s->npages : 1;
        if (!s || s->state != SPAN_IN_USE) continue;
        bool dead = s->dead_bits != NULL;
        if (dead) span_mark_record(s);
        if (dead) span_set_push(h, &h->no_p, s, s->alloc_count == s->nelems);
        else s->sweepgen += 2;
    }
    h->sweepgen += 2;
    h->sweep_done = false;
    h->sweep_cursor = 0;
    for (int32_t i = 0; i < h->nprocs; i++)
        if (h->procs[i]) h->procs[i]->flush_gen = h->sweepgen;
}

/* All spans and objects are there: full spans go to their sets. Of each class's other spans the last one found is
 * cached by proc 0 if that is the only proc, else all are on the partial set until it shows who holds which. */
int restore_done(pymem_heap *h) {
    proc *only = h->nprocs == 1 ? h->procs[0] : NULL;
    for (uint64_t page = h->padding; page < h->cur_page;) {
        mspan *s = span_at(h, page);
        page += s ? s->npages : 1;
        if (!s || s->state != SPAN_IN_USE) continue;
        count_restored(h, s);
        s->freeindex = 0;
        s->freeindex = (uint16_t)span_next_free(s); /* all below the first hole were handed out in order */
        if (s->sweepgen != h->sweepgen) continue;   /* in its unswept set already */
        bool full = s->alloc_count == s->nelems;
        bool small =
            s->span_class >> 1; /* a large span is never cached, not even one whose object the record has missed */
        mspan **cached = only && !full && small ? &only->cache->alloc[s->span_class] : NULL;
        if (cached && *cached != &empty_span) {
            (*cached)->sweepgen = h->sweepgen;
            (*cached)->count_before_cache = 0;
            span_set_push(h, only, *cached, false);
        }
        if (cached) {
            *cached = s;
            s->sweepgen = h->sweepgen + 3;
            s->count_before_cache = s->alloc_count;
            heap_live_add(h, (int64_t)(s->npages << PAGE_SHIFT) - (int64_t)(s->alloc_count * s->elem_size));
        } else {
            span_set_push(h, &h->no_p, s, full);
        }
    }
    if (only) page_cache_fill(&h->pages, &only->pages);
    return PYMEM_OK;
}

/* ---- a follower's repairs ---- */

/* The slot that a wrong prediction took is free again. A span made for it goes, its pages back where they came from. */
static void undo_small(pymem_heap *h, proc *p, mspan *s, uint32_t slot, bool fresh) {
    p->cache->alloc[s->span_class] = &empty_span;
    s->alloc_count--;
    s->freeindex = (uint16_t)slot;
    if (!fresh) {
        h->small_allocs[s->span_class >> 1] += (uint64_t)(s->alloc_count - s->count_before_cache);
        s->count_before_cache = 0;
        s->sweepgen = h->sweepgen;
        span_set_push(h, p, s, false);
        span_set_to_front(h, s);
        return;
    }
    uint64_t page = page_of(h, s->base), npages = s->npages;
    s->alloc_count = 0;
    mheap_free_span(h, p, s);
    bool cached = page >= p->pages.page && page + npages <= p->pages.page + PAGE_CACHE_PAGES && p->pages.cache;
    if (!cached) return;
    page_alloc_take(&h->pages, page, npages);
    p->pages.cache |= ((1ull << npages) - 1) << (page & 63);
}

/* Runs of free pages below the one that reality took were not the proc's, or it would have taken them: they go back. */
static void drop_lower_runs(pymem_heap *h, page_cache *c, uint64_t page, uint64_t npages) {
    uint64_t mask = (1ull << npages) - 1; /* npages < 16 */
    for (uint64_t i = 0; i < (page & 63); i++) {
        if ((c->cache >> i & mask) != mask) continue;
        page_cache below = {.page = c->page, .cache = c->cache & mask << i, .scav = c->scav & mask << i};
        c->cache &= ~below.cache;
        c->scav &= ~below.scav;
        page_cache_flush(&h->pages, &below);
    }
}

/* Reality's p takes a page that here another proc holds: the two were mixed up, so they change blocks. Call before the
 * page is taken. */
void restore_claim_page(pymem_heap *h, proc *p, uint64_t base) {
    uint64_t page = page_of(h, base);
    for (int32_t i = 0; i < h->nprocs; i++) {
        proc *other = h->procs[i];
        bool holds =
            other && other != p && other->pages.page == (page & ~63ull) && other->pages.cache >> (page & 63) & 1;
        if (!holds) continue;
        page_cache mine = p->pages;
        p->pages = other->pages;
        other->pages = mine;
        if (mine.page != p->pages.page) return;
        p->pages.cache |= mine.cache; /* parts of one block: p has all of it */
        p->pages.scav |= mine.scav;
        other->pages = (page_cache){0};
        return;
    }
}

/* The proc's page cache must have held this block, as its new span lies there. */
void restore_adopt_block(pymem_heap *h, proc *p, uint64_t base, uint64_t npages) {
    uint64_t page = page_of(h, base);
    if (!p->pages.cache || (page & ~63ull) != p->pages.page) {
        page_cache_flush(&h->pages, &p->pages);
        page_cache_fill_block(&h->pages, &p->pages, page & ~63ull);
    }
    drop_lower_runs(h, &p->pages, page, npages);
}

/* The same, before the span is taken: the proc holds the free pages of this block. */
int restore_page_block(pymem_heap *h, proc *p, uint64_t base, uint64_t npages) {
    int rc = map_to(h, page_of(h, base) + 1);
    if (rc) return rc;
    restore_claim_page(h, p, base);
    restore_adopt_block(h, p, base, npages);
    return PYMEM_OK;
}

/* A large object that is at s in reality. */
void restore_large(pymem_heap *h, proc *p, mspan *s) {
    s->freeindex = 1;
    s->alloc_count = 1;
    h->large_allocs++;
    h->large_alloc += s->elem_size;
    span_set_push(h, p, s, true);
}

void restore_drop(pymem_heap *h, mspan *s) { evict(h, s); }

/* The proc allocates the span's class from it from now on, whoever had it before. */
int restore_use(pymem_heap *h, proc *p, mspan *s) {
    bool freed;
    if (span_is_unswept(h, s)) span_set_rotate(h, s, 1 - swept_parity(h)); /* those ahead of it were not there */
    if (sweep_acquire(h, s)) {
        int rc = sweep_span(h, p, s, true, &freed);
        if (rc) return rc;
    }
    mspan *old = p->cache->alloc[s->span_class];
    if (old == s) return PYMEM_OK;
    if (old != &empty_span) {
        h->small_allocs[s->span_class >> 1] += (uint64_t)(old->alloc_count - old->count_before_cache);
        old->count_before_cache = 0;
        old->sweepgen = h->sweepgen;
        span_set_push(h, p, old, old->alloc_count == old->nelems);
    }
    uncache_everywhere(h, s);
    span_set_rotate(h, s, swept_parity(h));
    span_set_remove(h, s, swept_parity(h));
    s->count_before_cache = s->alloc_count;
    p->cache->alloc[s->span_class] = s;
    s->sweepgen = h->sweepgen + 3;
    return PYMEM_OK;
}

/* The span was swept by mistake, and nobody has allocated from it since. Its place among the unswept it has still. */
void restore_unsweep(pymem_heap *h, mspan *s) {
    span_set_remove(h, s, swept_parity(h));
    memcpy(s->mark_bits, s->alloc_bits, bit_words(s->nelems) * sizeof *s->mark_bits);
    s->sweepgen = h->sweepgen - 2;
}

/* Free slots that the span has once it is swept. */
uint32_t restore_slots_left(const pymem_heap *h, const mspan *s) {
    return s->nelems - (span_is_unswept(h, s) ? span_count_marks(s) : s->alloc_count);
}

static mspan *first_with(const pymem_heap *h, const span_set *q, int parity, uint32_t slots) {
    for (mspan *s = q->first; s; s = s->set_next[parity]) {
        bool there = parity == swept_parity(h) ? s->alloc_count > 0 : s->sweepgen == h->sweepgen - 2;
        if (there && restore_slots_left(h, s) == slots) return s;
    }
    return NULL;
}

/* The span with so many free slots that a refill would come upon first, if there is one. */
mspan *restore_choose(pymem_heap *h, uint32_t span_class, uint32_t slots) {
    int swept = swept_parity(h);
    mspan *s = first_with(h, set_swept(h, span_class, false), swept, slots);
    if (!s) s = first_with(h, set_unswept(h, span_class, false), 1 - swept, slots);
    return s ? s : first_with(h, set_unswept(h, span_class, true), 1 - swept, slots);
}

/* The proc allocates this class from the span at base now, and has just taken the slot there. */
int restore_cached(pymem_heap *h, proc *p, uint64_t base, uint64_t npages, uint32_t span_class, uint32_t slot) {
    mspan *s = mheap_span_of(h, base);
    if (!s || s->base != base || s->state != SPAN_IN_USE || s->span_class != span_class) {
        if (uses_page_cache(npages)) restore_claim_page(h, p, base);
        int rc = restore_span(h, base, npages, PYMEM_SPAN_HEAP, span_class, &s);
        if (rc) return rc;
        if (uses_page_cache(npages)) restore_adopt_block(h, p, base, npages);
    }
    int rc = restore_use(h, p, s);
    if (rc) return rc;
    if (slot < s->freeindex) return PYMEM_OK;       /* taken already, as far as the emulator knows */
    for (uint32_t i = s->freeindex; i <= slot; i++) /* allocation goes upwards: what lies below is taken */
        if (!bit_get(s->alloc_bits, i)) s->alloc_count++;
    s->freeindex = (uint16_t)(slot + 1);
    bit_set(s->alloc_bits, slot); /* it stays taken if the rest turns out to be free: restore_rewind */
    return PYMEM_OK;
}

/* The proc allocates from the span's lower slots still: what lies above was taken before the span was swept last. */
void restore_rewind(mspan *s, uint32_t slot) {
    s->freeindex = s->alloc_count = (uint16_t)(slot + 1);
    for (uint32_t i = slot + 1; i < s->nelems; i++) s->alloc_count += bit_get(s->alloc_bits, i);
    if (s->count_before_cache > s->alloc_count) s->count_before_cache = s->alloc_count;
}

void restore_undo(pymem_heap *h, proc *p, uint64_t addr, bool fresh) {
    mspan *s = mheap_span_of(h, addr);
    if (s->span_class >> 1) {
        undo_small(h, p, s, span_slot_of(s, addr), fresh);
        return;
    }
    h->large_allocs--;
    h->large_alloc -= s->elem_size;
    evict(h, s);
}
