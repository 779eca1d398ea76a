/* What a heap that was read from a file must be beyond what check.c proves. A live heap cannot but have these
 * properties, so nobody else looks at them; a file may say anything, and what follows here is what the rest of the core
 * trusts when it takes a span from a list or a page from a cache: who owns what, and that nobody else does. */
#include "snapshot.h"

static bool owned(walk *w, bool good) {
    if (!good) stream_wrong(&w->s, "something has two owners, or the wrong one");
    return good && !w->s.status;
}

/* Each processor, and the thread without one; NULL where there is none. */
static proc *proc_by_number(const pymem_heap *h, int32_t i) { return i < h->nprocs ? h->procs[i] : (proc *)&h->no_p; }

/* ---- spans in caches. prev, unused in a span of objects, says for the time of the check that it was seen ---- */

static bool is_cached(const pymem_heap *h, const mspan *s) {
    return s->state == SPAN_IN_USE && (s->sweepgen == h->sweepgen + 1 || s->sweepgen == h->sweepgen + 3);
}

static void claim_spans(walk *w, const mcache *c) {
    for (uint32_t i = 0; i < NUM_SPAN_CLASSES; i++) {
        mspan *s = c->alloc[i];
        if (s == &empty_span) continue;
        if (!owned(w, is_cached(w->h, s) && s->span_class == i && i > 1 && !s->prev)) return;
        s->prev = s;
    }
}

static void check_caches(walk *w) {
    for (int32_t i = 0; i <= w->h->nprocs; i++) {
        const proc *p = proc_by_number(w->h, i);
        if (p && p->cache) claim_spans(w, p->cache);
    }
    for (uint64_t i = 0; i < w->nspans; i++) {
        mspan *s = w->spans[i];
        if (s->state != SPAN_IN_USE) continue;
        owned(w, is_cached(w->h, s) == (s->prev != NULL));
        s->prev = NULL;
    }
}

/* The current block is a piece of a living slot, in a span that is swept. One of before the last cycle is dropped
 * before it is looked at. */
static void check_tiny(walk *w, const proc *p) {
    mcache *c = p->cache;
    const mspan *s = c->tiny_span;
    if (!c->tiny) return;
    bool good = s && s->state == SPAN_IN_USE && s->span_class == TINY_SPAN_CLASS && s->tiny_live &&
                c->tiny_slot < s->nelems && c->tiny == s->base + c->tiny_slot * TINY_SIZE &&
                span_is_allocated(s, c->tiny_slot);
    if (p->flush_gen == w->h->sweepgen) owned(w, good && !span_is_unswept(w->h, s));
    else if (!good) c->tiny = 0;
}

/* ---- spans in sets ---- */

/* Of a set it is taken from as it is. What was swept out of turn, or is another span now, is passed over. */
static bool fits_set(const pymem_heap *h, const mspan *s, uint32_t class, bool full, bool swept) {
    uint32_t gen = swept ? h->sweepgen : h->sweepgen - 2;
    if (s->state != SPAN_IN_USE || s->sweepgen != gen) return !swept;
    return s->span_class == class && (full || s->alloc_count < s->nelems);
}

static void check_set(walk *w, uint32_t class, bool full, bool swept) {
    const span_set *q = swept ? set_swept(w->h, class, full) : set_unswept(w->h, class, full);
    int parity = swept ? swept_parity(w->h) : 1 - swept_parity(w->h);
    bool passed = !swept && (w->h->sweep_done || w->h->sweep_cursor > 2 * class + !full);
    owned(w, !passed || !q->first);
    for (const mspan *s = q->first; s && owned(w, fits_set(w->h, s, class, full, swept));) s = s->set_next[parity];
}

/* Who is to be put into the set of the swept is not in it yet. */
static void check_sets(walk *w) {
    for (uint32_t c = 0; c < NUM_SPAN_CLASSES; c++)
        for (int k = 0; k < 4; k++) check_set(w, c, k & 1, k & 2);
    for (uint64_t i = 0; i < w->nspans; i++) {
        const mspan *s = w->spans[i];
        bool to_come = s->state == SPAN_IN_USE && s->sweepgen != w->h->sweepgen;
        owned(w, !to_come || !s->in_set[swept_parity(w->h)]);
    }
}

/* ---- slots ---- */

static uint64_t allocated_bits(const mspan *s, uint32_t i) {
    uint64_t below = s->freeindex >= (i + 1) * 64 ? UINT64_MAX
                     : s->freeindex > i * 64      ? (1ull << (s->freeindex - i * 64)) - 1
                                                  : 0;
    return s->alloc_bits[i] | below;
}

static void check_slots(walk *w, const mspan *s) {
    for (uint32_t i = 0; i < bit_words(s->nelems); i++)
        if (s->mark_bits[i] & ~allocated_bits(s, i)) stream_wrong(&w->s, "a free slot is marked");
    if (s->count_before_cache > s->alloc_count) stream_wrong(&w->s, "a cached span had more objects than it has");
}

/* Marks and grey bits of a mark under way, where the page table keeps them. Grey is marked, and marked is allocated. */
static void check_graph_bits(walk *w, const mspan *s) {
    const uint64_t *bits = w->h->memory->bits[page_of(w->h, s->base)];
    bool by_page = s->elem_size >= 16 && s->elem_size <= MIN_HEADER_SIZE && s->span_class >> 1;
    for (uint32_t i = 0; i < PAGE_BIT_WORDS; i++) {
        uint32_t word = by_page ? i / 2 : i;
        uint64_t used = word < bit_words(s->nelems) ? allocated_bits(s, word) : 0;
        if (word == bit_words(s->nelems) - 1 && s->nelems & 63) used &= (1ull << (s->nelems & 63)) - 1;
        bool grey = by_page && i & 1;
        if (bits[i] & ~(grey ? used & bits[i - 1] : used)) stream_wrong(&w->s, "a mark is on no object");
        if (grey && bits[i] && s->span_class & 1) stream_wrong(&w->s, "an object without pointers waits");
    }
}

/* No map tells of more words than a slot has. */
static void check_masks(walk *w, const mspan *s) {
    const object_memory *m = w->h->memory;
    uint64_t page = page_of(w->h, s->base), words = s->elem_size / 8;
    if (s->elem_size > MIN_HEADER_SIZE || words >= 64) return;
    for (uint64_t k = 0; k < s->npages; k++)
        if (m->mask[page + k] >> words) stream_wrong(&w->s, "a pointer map is longer than its slot");
}

/* ---- stacks ---- */

/* Stacks in stock are lent out for the time of the check. */
static void lend_stock(walk *w, const mcache *c, bool back) {
    for (uint32_t order = 0; order < NUM_STACK_ORDERS; order++)
        for (uint32_t i = 0; i < c->stacks[order].n && !w->s.status; i++) {
            uint64_t addr = c->stacks[order].list[i], size = (uint64_t)FIXED_STACK << order;
            mspan *s = mheap_span_of(w->h, addr);
            bool good = s && s->state == SPAN_MANUAL && s->kind == PYMEM_SPAN_STACK && s->elem_size == size &&
                        (addr - s->base) % size == 0;
            if (!owned(w, good)) return;
            uint16_t bit = (uint16_t)(1u << (addr - s->base) / size);
            if (owned(w, !(s->live_stacks & bit) == !back)) s->live_stacks ^= bit;
        }
}

static void lend_stocks(walk *w, bool back) {
    for (int32_t i = 0; i <= w->h->nprocs; i++) {
        const proc *p = proc_by_number(w->h, i);
        if (p && p->cache) lend_stock(w, p->cache, back);
    }
}

/* A pool span's slots are each free once, or lent out. */
static void check_pool_span(walk *w, const mspan *s) {
    uint32_t slots = STACK_CACHE_SIZE / (uint32_t)s->elem_size, all = (1u << slots) - 1, seen = s->live_stacks;
    for (uint32_t i = 0; i < s->nfree_stacks; i++) {
        uint32_t bit = 1u << (s->free_stacks >> (4 * i) & 15);
        owned(w, !(seen & bit));
        seen |= bit;
    }
    owned(w, seen == all && s->alloc_count + s->nfree_stacks == slots);
}

static bool is_pool_span(const mspan *s) {
    uint64_t size = s->elem_size;
    return s->kind == PYMEM_SPAN_STACK && s->npages << PAGE_SHIFT == STACK_CACHE_SIZE && size >= FIXED_STACK &&
           size < (uint64_t)FIXED_STACK << NUM_STACK_ORDERS && !(size & (size - 1));
}

static void check_manual(walk *w, const mspan *s) {
    if (is_pool_span(s)) {
        check_pool_span(w, s);
        return;
    }
    bool whole = s->elem_size == s->npages << PAGE_SHIFT && !s->nfree_stacks && s->alloc_count <= 1;
    owned(w, whole && s->live_stacks == s->alloc_count);
}

/* ---- pages that caches and the scavenger hold. They are free for the time of the check ---- */

static void hand_back_page(walk *w, uint64_t page, bool again) {
    uint64_t *word = &w->h->pages.chunks[page / CHUNK_PAGES].alloc[page % CHUNK_PAGES / 64], bit = 1ull << (page & 63);
    if (owned(w, !(*word & bit) == again && !span_at(w->h, page))) *word ^= bit;
}

static void hand_back_pages(walk *w, bool again) {
    pymem_heap *h = w->h;
    for (int32_t i = 0; i <= h->nprocs; i++) {
        const proc *p = proc_by_number(h, i);
        if (!p || !p->pages.cache) continue;
        if (!owned(w, p->pages.page % PAGE_CACHE_PAGES == 0 && p->pages.page < h->cur_page)) return;
        for (uint64_t left = p->pages.cache; left; left &= left - 1)
            hand_back_page(w, p->pages.page + (uint64_t)__builtin_ctzll(left), again);
    }
    for (uint32_t i = 0; i < h->nscavenging; i++)
        for (uint64_t k = 0; k < h->scavenging[i].npages; k++) hand_back_page(w, h->scavenging[i].page + k, again);
}

/* ---- the whole ---- */

static void check_span(walk *w, const mspan *s) {
    if (s->state == SPAN_MANUAL) check_manual(w, s);
    if (s->state != SPAN_IN_USE) return;
    check_slots(w, s);
    if (w->h->memory && !(s->span_class & 1)) check_masks(w, s);
    if (w->h->mark) check_graph_bits(w, s);
}

/* Every free struct is in the list of them, every pool span with room in its pool; walk_list saw to it that nothing is
 * there twice or does not belong there. */
static void check_lists(walk *w) {
    const pymem_heap *h = w->h;
    uint64_t dead = 0, rooms = 0, objects = 0;
    for (uint64_t i = 0; i < w->nspans; i++) {
        dead += w->spans[i]->state == SPAN_DEAD;
        rooms += w->spans[i]->state == SPAN_MANUAL && w->spans[i]->nfree_stacks;
        objects += w->spans[i]->state == SPAN_IN_USE;
    }
    for (const mspan *s = h->free_spans; s; s = s->next) dead--;
    for (uint32_t i = 0; i < NUM_STACK_ORDERS; i++)
        for (const mspan *s = h->stack_pool[i]; s; s = s->next) rooms--;
    owned(w, !dead && !rooms && objects == h->object_spans);
}

void snapshot_check(walk *w) {
    lend_stocks(w, false);
    for (uint64_t i = 0; i < w->nspans && !w->s.status; i++) check_span(w, w->spans[i]);
    if (!w->s.status) lend_stocks(w, true);
    if (!w->s.status) hand_back_pages(w, false);
    if (!w->s.status) hand_back_pages(w, true);
    if (!w->s.status) check_lists(w);
    if (!w->s.status) check_caches(w);
    if (!w->s.status) check_sets(w);
    for (int32_t i = 0; i <= w->h->nprocs && !w->s.status; i++) {
        const proc *p = proc_by_number(w->h, i);
        if (p && p->cache) check_tiny(w, p);
    }
}
