/* Free pages go back to the operating system: which of them, and in what order. The highest are given first, as first
 * fit reuses them last; chunks that a cycle packed densely are spared unless it is forced; a run that would cut a free
 * huge page takes the whole of it. How much and when is the scavenger's policy, in Python, but for what an allocation
 * gives back on its way. No page has memory behind it here, so giving back is a bit and two counters. None of it can
 * fail. Go: mgcscavenge.go */
#include "internal.h"

enum {
    DENSE_PAGES = CHUNK_PAGES - CHUNK_PAGES / 32, /* a chunk with 31/32 of its pages taken is dense */
    HUGE_PAGES = 256                              /* pages in a huge page of 2 MB */
};

/* ---- the index. Go: scavengeIndex ---- */

/* A generation is a cycle. It turns with the flip and is seen here at the next look: nothing but this index depends on
 * it, and no page changes hands between the flip and the first look. Go: (*scavengeIndex).nextGen */
static scav_index *current_index(page_alloc *p) {
    const pymem_heap *h = (const pymem_heap *)((const char *)p - offsetof(pymem_heap, pages));
    scav_index *x = &p->scav;
    uint32_t gen = h->sweepgen / 2;
    if (x->gen == gen) return x;
    x->gen = gen;
    if (x->background.limit < x->freed_limit) x->background = (scav_cursor){x->freed_limit, true};
    x->freed_limit = 0;
    return x;
}

static scav_chunk *change_chunk(page_alloc *p, uint64_t chunk_number, uint32_t gen) {
    scav_chunk *c = &p->chunks[chunk_number].index;
    if (c->gen != gen) c->last_in_use = c->in_use;
    c->gen = gen;
    return c;
}

static uint64_t part_in_chunk(uint64_t page, uint64_t end) { /* of [page, end), the pages in page's chunk */
    uint64_t stop = (page / CHUNK_PAGES + 1) * CHUNK_PAGES;
    return (stop < end ? stop : end) - page;
}

/* Go: (*scavengeIndex).alloc */
void scavenge_note_alloc(page_alloc *p, uint64_t page, uint64_t npages) {
    const scav_index *x = current_index(p);
    for (uint64_t end = page + npages, n; page < end; page += n) {
        n = part_in_chunk(page, end);
        scav_chunk *c = change_chunk(p, page / CHUNK_PAGES, x->gen);
        c->in_use = (uint16_t)(c->in_use + n);
        if (c->in_use == CHUNK_PAGES) c->has_free = false;
    }
}

/* Go: (*scavengeIndex).free */
void scavenge_note_free(page_alloc *p, uint64_t page, uint64_t npages) {
    scav_index *x = current_index(p);
    uint64_t end = page + npages;
    if (x->freed_limit < end) x->freed_limit = end;
    if (x->force.limit < end) x->force = (scav_cursor){end, true};
    for (uint64_t n; page < end; page += n) {
        n = part_in_chunk(page, end);
        scav_chunk *c = change_chunk(p, page / CHUNK_PAGES, x->gen);
        c->in_use = (uint16_t)(c->in_use - n);
        c->has_free = true;
    }
}

/* Dense in this generation or the last: likely to be packed full again soon. Go: scavChunkData.shouldScavenge */
static bool should_scavenge(const scav_chunk *c, uint32_t gen, bool force) {
    if (!c->has_free || force) return c->has_free;
    return c->in_use < DENSE_PAGES && (c->gen != gen || c->last_in_use < DENSE_PAGES);
}

/* The highest chunk to look into, and the highest page there; false: nothing is left. Go: (*scavengeIndex).find */
static bool find_chunk(page_alloc *p, bool force, uint64_t *chunk_number, uint64_t *from) {
    const scav_index *x = current_index(p);
    scav_cursor *cursor = force ? &p->scav.force : &p->scav.background;
    if (!cursor->limit) return false;
    uint64_t start = (cursor->limit - 1) / CHUNK_PAGES;
    for (uint64_t c = start + 1; c-- > 0;) {
        if (!should_scavenge(&p->chunks[c].index, x->gen, force)) continue;
        if (c != start) *cursor = (scav_cursor){(c + 1) * CHUNK_PAGES, false};
        *chunk_number = c;
        *from = (cursor->limit - 1) % CHUNK_PAGES;
        return true;
    }
    if (!cursor->marked) cursor->limit = 0;
    return false;
}

/* ---- a run inside a chunk. Go: (*pallocData).findScavengeCandidate ---- */

/* Each aligned group of m bits with a 1 in it becomes all ones; m: power of 2, 1 to 64. The shifts gather a group in
 * its lowest bit, the product spreads that again: a group of m ones times the lowest bits. Go: fillAligned */
static uint64_t fill_groups(uint64_t x, uint64_t m) {
    uint64_t group = m == 64 ? UINT64_MAX : (1ull << m) - 1;
    for (uint64_t k = 1; k < m; k *= 2) x |= x >> k;
    return (x & UINT64_MAX / group) * group;
}

static uint64_t barred(const chunk *c, uint64_t word,
                       uint64_t min) { /* 1: taken or scavenged, or in a group with one */
    return fill_groups(c->alloc[word] | c->scav[word], min);
}

/* End of the highest run in the words up to from's; 0: none. The whole word counts, also above from, as in Go. */
static uint64_t run_end(const chunk *c, uint64_t from, uint64_t min) {
    for (uint64_t w = from / 64 + 1; w-- > 0;) {
        uint64_t open = ~barred(c, w, min);
        if (open) return w * 64 + 64 - (uint64_t)__builtin_clzll(open);
    }
    return 0;
}

static uint64_t run_start(const chunk *c, uint64_t end, uint64_t min) {
    while (end > 0) {
        uint64_t below = (end - 1) % 64 + 1; /* pages of the word that end is in or just above */
        uint64_t bits = barred(c, (end - 1) / 64, min) << (64 - below);
        if (bits) return end - (uint64_t)__builtin_clzll(bits);
        end -= below;
    }
    return 0;
}

/* The first page of the highest run of pages in words up to from's that are free and unscavenged; NO_PAGE: none. Runs
 * are aligned to min pages, a power of 2 up to 64: what the OS can take back at least. A run longer than max gives its
 * upper part, down to the start of a huge page if the cut would split one that lies wholly in the run. */
uint64_t scavenge_candidate(const chunk *c, uint64_t from, uint64_t min, uint64_t max, uint64_t *npages) {
    uint64_t end = run_end(c, from, min);
    if (!end) return NO_PAGE;
    uint64_t lowest = run_start(c, end, min);
    max = max > CHUNK_PAGES ? CHUNK_PAGES : max ? (max + min - 1) / min * min : min;
    uint64_t start = end - lowest > max ? end - max : lowest;
    uint64_t huge = start / HUGE_PAGES * HUGE_PAGES, next = (start + HUGE_PAGES - 1) / HUGE_PAGES * HUGE_PAGES;
    if (next <= end && huge >= lowest) start = huge;
    *npages = end - start;
    return start;
}

/* ---- giving back ---- */

static void account_scavenged(pymem_heap *h, uint64_t npages) {
    h->heap_free -= npages << PAGE_SHIFT;
    h->heap_released += npages << PAGE_SHIFT;
}

void scavenge_begin(pymem_heap *h, uint64_t page, uint64_t npages) {
    page_alloc_hide(&h->pages, page, npages);
    h->scavenging[h->nscavenging++] = (page_run){page, npages};
}

void scavenge_end(pymem_heap *h, uint64_t page, uint64_t npages) {
    uint32_t i = 0;
    while (h->scavenging[i].page != page) i++;
    h->scavenging[i] = h->scavenging[--h->nscavenging];
    page_alloc_release_hidden(&h->pages, page, npages);
    account_scavenged(h, npages);
}

/* Go: (*pageAlloc).scavengeOne, in one step, as nobody else runs meanwhile */
static uint64_t scavenge_one(pymem_heap *h, uint64_t chunk_number, uint64_t from, uint64_t bytes) {
    page_alloc *p = &h->pages;
    uint64_t npages = 0, max = bytes / PAGE_SIZE + (bytes % PAGE_SIZE != 0);
    uint64_t page = scavenge_candidate(&p->chunks[chunk_number], from, 1, max, &npages);
    if (page == NO_PAGE) {
        p->chunks[chunk_number].index.has_free = false; /* nothing here until something is freed */
        return 0;
    }
    page_alloc_release_hidden(p, chunk_number * CHUNK_PAGES + page, npages);
    account_scavenged(h, npages);
    return npages << PAGE_SHIFT;
}

/* Go: (*pageAlloc).scavenge */
uint64_t scavenge(pymem_heap *h, uint64_t bytes, bool force) {
    uint64_t released = 0, chunk_number, from;
    while (released < bytes && find_chunk(&h->pages, force, &chunk_number, &from))
        released += scavenge_one(h, chunk_number, from, bytes - released);
    return released;
}

/* What an allocation gives back on its way: as much as it takes the memory in use above the limit, then by force; and
 * after the heap grew as much as that takes it above the goal, but no more than it grew by. The larger of both. */
static uint64_t eager_bytes(const pymem_heap *h, uint64_t fresh, uint64_t growth, bool *force) {
    uint64_t bytes = 0;
    if (h->scav_limit != UINT64_MAX && fresh + mapped_ready(h) > h->scav_limit) {
        bytes = fresh + mapped_ready(h) - h->scav_limit;
        *force = true;
    }
    uint64_t after = h->heap_in_use + h->heap_free + growth;
    if (h->scav_percent_goal == UINT64_MAX || !growth || after <= h->scav_percent_goal) return bytes;
    uint64_t over = after - h->scav_percent_goal, todo = over < growth ? over : growth;
    return todo > bytes ? todo : bytes;
}

/* The span's pages are taken, but not accounted for yet. fresh: bytes of them that the OS has; growth: bytes the heap
 * grew by for them. Go: allocSpan */
void scavenge_for_span(pymem_heap *h, uint64_t fresh, uint64_t growth) {
    bool force = false;
    uint64_t bytes = eager_bytes(h, fresh, growth, &force);
    if (bytes) h->scav_eager += scavenge(h, bytes, force);
}
