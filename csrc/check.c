/* Walks the whole heap and proves what the structs' comments promise. The first promise found broken is told in Go's
 * manner: a throw. Tests call it after every step; a build with PYMEM_CHECK=2 calls it after every call. */
#include <string.h>
#include "internal.h"

#define MUST(condition, ...)                                                                                           \
    do {                                                                                                               \
        if (!(condition)) return fail(h, PYMEM_ETHROW, __VA_ARGS__);                                                   \
    } while (0)

typedef unsigned long long ull;

typedef struct { /* what the walk adds up, to be held against the heap's own counters */
    uint64_t in_use, stacks, workbufs, other, object_pages, scavenged, free_pages, padding;
    uint64_t sets[NUM_SPAN_CLASSES][2][2]; /* spans by class, full, parity */
} tally;

/* ---- one span ---- */

static int check_bits(pymem_heap *h, const mspan *s) {
    uint32_t count = 0, tail = s->nelems & 63;
    for (uint32_t i = 0; i < s->nelems; i++) {
        bool used = span_is_allocated(s, i);
        count += used;
        MUST(used || !(s->dead_bits && bit_get(s->dead_bits, i)), "span 0x%llx: free slot %u is marked dead",
             (ull)s->base, i);
        MUST(used || !(s->tiny_live && s->tiny_live[i]), "span 0x%llx: free slot %u has tiny objects", (ull)s->base, i);
    }
    MUST(count == s->alloc_count, "span 0x%llx: alloc_count %u, but %u slots are taken", (ull)s->base, s->alloc_count,
         count);
    if (tail) {
        uint64_t beyond = ~0ull << tail;
        MUST(!((s->alloc_bits[s->nelems / 64] | s->mark_bits[s->nelems / 64]) & beyond),
             "span 0x%llx: bits beyond its slots", (ull)s->base);
    }
    return PYMEM_OK;
}

static int check_object_span(pymem_heap *h, const mspan *s) {
    const size_classes *t = size_classes_go();
    uint32_t c = s->span_class >> 1;
    MUST(s->freeindex <= s->nelems, "span 0x%llx: freeindex %u of %u", (ull)s->base, s->freeindex, s->nelems);
    MUST(s->nelems * s->elem_size <= s->npages << PAGE_SHIFT, "span 0x%llx: slots pass its end", (ull)s->base);
    if (c) {
        MUST(s->npages == t->npages[c] && s->elem_size == t->size[c] && s->nelems == t->nelems[s->span_class],
             "span 0x%llx: not of its class %u", (ull)s->base, c);
    } else {
        MUST(s->nelems == 1, "span 0x%llx: large, with %u slots", (ull)s->base, s->nelems);
    }
    int32_t age = (int32_t)(s->sweepgen - h->sweepgen);
    MUST(age == -2 || age == 0 || age == 1 || age == 3, "span 0x%llx: sweepgen %u at %u", (ull)s->base, s->sweepgen,
         h->sweepgen);
    MUST(age >= 0 || !h->sweep_done, "span 0x%llx: unswept though sweeping is done", (ull)s->base);
    return check_bits(h, s);
}

static int check_stack_span(pymem_heap *h, const mspan *s) {
    MUST(s->alloc_count + s->nfree_stacks <= 16, "stack span 0x%llx: %u + %u stacks", (ull)s->base, s->alloc_count,
         s->nfree_stacks);
    for (uint32_t i = 0; i < s->nfree_stacks; i++) {
        uint32_t slot = s->free_stacks >> (4 * i) & 15;
        MUST(!(s->live_stacks >> slot & 1), "stack span 0x%llx: slot %u is free and lent out", (ull)s->base, slot);
    }
    return PYMEM_OK;
}

static int check_span(pymem_heap *h, const mspan *s, tally *sum) {
    uint64_t page = page_of(h, s->base), bytes = s->npages << PAGE_SHIFT;
    for (uint64_t i = page; i < page + s->npages; i++) {
        MUST(i < h->cur_page && span_at(h, i) == s, "page %llu is not its span's", (ull)i);
        const chunk *c = &h->pages.chunks[i / CHUNK_PAGES];
        MUST(c->alloc[i % CHUNK_PAGES / 64] >> (i & 63) & 1, "page %llu of a span is free", (ull)i);
        MUST(!(c->scav[i % CHUNK_PAGES / 64] >> (i & 63) & 1), "page %llu of a span is scavenged", (ull)i);
    }
    switch (s->kind) {
    case PYMEM_SPAN_HEAP: sum->in_use += bytes; break;
    case PYMEM_SPAN_STACK: sum->stacks += bytes; break;
    case PYMEM_SPAN_WORKBUF: sum->workbufs += bytes; break;
    default: sum->other += bytes;
    }
    if (s->state == SPAN_MANUAL) return s->kind == PYMEM_SPAN_STACK ? check_stack_span(h, s) : PYMEM_OK;
    sum->object_pages += s->npages;
    return check_object_span(h, s);
}

static int check_spans(pymem_heap *h, tally *sum) {
    for (mspan_slab *slab = h->slabs; slab; slab = slab->next) {
        for (int i = 0; i < SLAB_SPANS; i++) {
            const mspan *s = &slab->spans[i];
            for (int parity = 0; parity < 2; parity++)
                if (s->in_set[parity]) sum->sets[s->set_class[parity]][s->in_set[parity] == 2][parity]++;
            if (s->state == SPAN_DEAD) continue;
            int rc = check_span(h, s, sum);
            if (rc) return rc;
        }
    }
    return PYMEM_OK;
}

/* ---- pages ---- */

static int check_summaries(pymem_heap *h) {
    const page_alloc *p = &h->pages;
    for (uint64_t c = 0; c < p->nchunks; c++) {
        summary want = chunk_summary(&p->chunks[c]);
        MUST(!memcmp(&want, &p->level[0][c], sizeof want), "summary of chunk %llu is stale", (ull)c);
    }
    for (uint32_t l = 1; l < p->nlevels; l++) {
        for (uint64_t e = 0, below = summary_entries(p, l - 1); e < summary_entries(p, l); e++) {
            uint64_t n = below - e * 8 < 8 ? below - e * 8 : 8;
            summary want = summary_merge(&p->level[l - 1][e * 8], n, (uint64_t)CHUNK_PAGES << (3 * (l - 1)));
            MUST(!memcmp(&want, &p->level[l][e], sizeof want), "summary %llu of level %u is stale", (ull)e, l);
        }
    }
    return PYMEM_OK;
}

static bool in_page_cache(const pymem_heap *h, uint64_t page, bool *scavenged) {
    for (int32_t i = 0; i < h->nprocs; i++) {
        const proc *p = h->procs[i];
        if (!p || page < p->pages.page || page >= p->pages.page + PAGE_CACHE_PAGES) continue;
        if (!(p->pages.cache >> (page & 63) & 1)) continue;
        *scavenged = p->pages.scav >> (page & 63) & 1;
        return true;
    }
    return false;
}

static bool is_scavenging(const pymem_heap *h, uint64_t page) {
    for (uint32_t i = 0; i < h->nscavenging; i++)
        if (page >= h->scavenging[i].page && page - h->scavenging[i].page < h->scavenging[i].npages) return true;
    return false;
}

/* Every page is free, in a span, in a page cache, on its way to the OS, or padding. */
static int check_pages(pymem_heap *h, tally *sum) {
    uint64_t skipped = h->padding / CHUNK_PAGES * CHUNK_PAGES;
    for (uint64_t i = skipped; i < h->cur_page; i++) {
        const chunk *c = &h->pages.chunks[i / CHUNK_PAGES];
        bool used = c->alloc[i % CHUNK_PAGES / 64] >> (i & 63) & 1,
             scav = c->scav[i % CHUNK_PAGES / 64] >> (i & 63) & 1;
        bool spanned = span_at(h, i) != NULL, cached_scav = false;
        bool cached = !spanned && used && in_page_cache(h, i, &cached_scav);
        MUST(used || !spanned, "page %llu has a span but is free", (ull)i);
        bool leaving = !spanned && used && is_scavenging(h, i);
        MUST(!used || spanned || cached || leaving || i < h->padding, "page %llu is taken by nobody", (ull)i);
        sum->scavenged += scav || cached_scav;
        sum->free_pages += !used || cached || leaving || i < h->padding;
    }
    return PYMEM_OK;
}

/* ---- the scavenger's index ---- */

/* Pages of a chunk that are taken, but for those on their way to the OS. */
static uint32_t count_in_use(const pymem_heap *h, uint64_t chunk_number) {
    uint32_t n = 0;
    for (uint32_t w = 0; w < CHUNK_WORDS; w++)
        n += (uint32_t)__builtin_popcountll(h->pages.chunks[chunk_number].alloc[w]);
    for (uint32_t i = 0; i < h->nscavenging; i++)
        if (h->scavenging[i].page / CHUNK_PAGES == chunk_number) n -= (uint32_t)h->scavenging[i].npages;
    return n;
}

static int check_scav_index(pymem_heap *h) {
    const page_alloc *p = &h->pages;
    uint64_t pages = p->nchunks * CHUNK_PAGES;
    MUST(p->scav.background.limit <= pages && p->scav.force.limit <= pages && p->scav.freed_limit <= pages,
         "the scavenger looks beyond the heap");
    for (uint64_t c = 0; c < p->nchunks; c++) {
        const scav_chunk *x = &p->chunks[c].index;
        uint32_t in_use = count_in_use(h, c);
        MUST(x->in_use == in_use, "scavenge index of chunk %llu counts %u pages in use of %u", (ull)c, x->in_use,
             in_use);
        MUST(x->last_in_use <= CHUNK_PAGES && x->gen <= p->scav.gen, "scavenge index of chunk %llu is ahead of time",
             (ull)c);
        MUST(!x->has_free || in_use < CHUNK_PAGES, "chunk %llu is full, but for the scavenger", (ull)c);
        MUST(!x->has_free || c * CHUNK_PAGES < p->scav.force.limit, "the scavenger will not look into chunk %llu",
             (ull)c);
    }
    return PYMEM_OK;
}

/* ---- sets and procs ---- */

static int check_links(pymem_heap *h, const span_set *q, int parity, uint32_t c) {
    const mspan *prev = NULL;
    uint32_t n = 0;
    for (const mspan *s = q->first; s; prev = s, s = s->set_next[parity]) {
        MUST(s->set_prev[parity] == prev && n++ < q->tail - q->head, "links of a span set of class %u are broken", c);
    }
    MUST(q->last == prev && n == q->tail - q->head, "a span set of class %u ends wrongly", c);
    return PYMEM_OK;
}

static int check_sets(pymem_heap *h, const tally *sum) {
    for (uint32_t c = 0; c < NUM_SPAN_CLASSES; c++) {
        for (int parity = 0; parity < 2; parity++) {
            for (int full = 0; full < 2; full++) {
                const span_set *q = full ? &h->central[c].full[parity] : &h->central[c].partial[parity];
                uint64_t members = sum->sets[c][full][parity];
                MUST(q->tail - q->head == members, "a span set of class %u counts %u but has %llu", c,
                     q->tail - q->head, (ull)members);
                int rc = check_links(h, q, parity, c);
                if (rc) return rc;
            }
        }
    }
    return PYMEM_OK;
}

static int check_procs(pymem_heap *h) {
    for (int32_t i = 0; i < h->nprocs; i++) {
        const proc *p = h->procs[i];
        if (!p) continue;
        for (uint32_t c = 0; c < NUM_SPAN_CLASSES; c++) {
            const mspan *s = p->cache->alloc[c];
            if (s == &empty_span) continue;
            MUST(s->state == SPAN_IN_USE && s->span_class == c, "proc %d caches a span of another class than %u", i, c);
            MUST(s->sweepgen == h->sweepgen + 3 || s->sweepgen == h->sweepgen + 1, "proc %d caches an uncached span",
                 i);
        }
        MUST(!(p->pages.scav & ~p->pages.cache), "proc %d: scavenged pages that it does not own", i);
    }
    return PYMEM_OK;
}

/* ---- the whole ---- */

int heap_check_cheap(pymem_heap *h) {
    uint64_t known = h->heap_in_use + h->heap_free + h->heap_released + h->in_stacks + h->in_workbufs + h->in_other;
    uint64_t mapped = h->cur_page ? (h->cur_page - h->padding / CHUNK_PAGES * CHUNK_PAGES) << PAGE_SHIFT : 0;
    MUST(known == mapped, "the heap's counters add up to %llu bytes of %llu", (ull)known, (ull)mapped);
    MUST(h->pages_in_use << PAGE_SHIFT == h->heap_in_use, "pages in use: %llu, bytes in use: %llu",
         (ull)h->pages_in_use, (ull)h->heap_in_use);
    return PYMEM_OK;
}

/* ---- object memory ---- */

/* Whether marks lie about while nobody marks, and an empty page is described as a span's. */
static int check_memory(pymem_heap *h) {
    const object_memory *m = h->memory;
    for (uint64_t page = 0; m && page < h->cur_page; page++) {
        const mspan *s = span_at(h, page);
        uint16_t want = !s ? PAGE_NONE : s->state == SPAN_MANUAL ? PAGE_MANUAL : (uint16_t)(s->span_class + PAGE_CLASS);
        MUST((m->info[page] & 255) == want, "page %llu is described as of class %d", (ull)page, m->info[page] & 255);
        uint64_t any = m->state[page] & (PAGE_QUEUED | PAGE_MARKED | PAGE_MANY);
        for (int w = 0; w < PAGE_BIT_WORDS; w++) any |= m->bits[page][w];
        MUST(h->mark || !any, "page %llu has marks though nobody marks", (ull)page);
    }
    return PYMEM_OK;
}

int heap_check(pymem_heap *h) {
    tally sum = {0};
    int rc = heap_check_cheap(h);
    if (!rc) rc = check_spans(h, &sum);
    if (!rc) rc = check_summaries(h);
    if (!rc) rc = check_pages(h, &sum);
    if (!rc) rc = check_scav_index(h);
    if (!rc) rc = check_sets(h, &sum);
    if (!rc) rc = check_procs(h);
    if (!rc) rc = check_memory(h);
    if (rc) return rc;
    MUST(sum.in_use == h->heap_in_use, "HeapInuse %llu, spans hold %llu", (ull)h->heap_in_use, (ull)sum.in_use);
    MUST(sum.stacks == h->in_stacks, "StackInuse %llu, spans hold %llu", (ull)h->in_stacks, (ull)sum.stacks);
    MUST(sum.workbufs == h->in_workbufs, "work buffers %llu, spans hold %llu", (ull)h->in_workbufs, (ull)sum.workbufs);
    MUST(sum.scavenged << PAGE_SHIFT == h->heap_released, "HeapReleased %llu, pages say %llu", (ull)h->heap_released,
         (ull)(sum.scavenged << PAGE_SHIFT));
    MUST(sum.free_pages << PAGE_SHIFT == h->heap_free + h->heap_released, "HeapIdle %llu, pages say %llu",
         (ull)(h->heap_free + h->heap_released), (ull)(sum.free_pages << PAGE_SHIFT));
    return PYMEM_OK;
}
