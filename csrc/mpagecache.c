/* A proc's own 64 pages. Most spans are one or two pages, and taking them from here needs no search and, in Go, no
 * lock; it also decides addresses, which is why it is emulated. Go: mpagecache.go */
#include "internal.h"

bool page_cache_fill(page_alloc *p, page_cache *c) {
    uint64_t page = page_alloc_find(p, 1);
    if (page == NO_PAGE) return false;
    page_cache_fill_block(p, c, page & ~63ull);
    return true;
}

void page_cache_fill_block(page_alloc *p, page_cache *c, uint64_t page) {
    chunk *k = &p->chunks[page / CHUNK_PAGES];
    uint64_t word = page % CHUNK_PAGES / 64, free_pages = ~k->alloc[word];
    *c = (page_cache){.page = page, .cache = free_pages, .scav = k->scav[word] & free_pages};
    k->alloc[word] = UINT64_MAX;
    k->scav[word] &= ~free_pages;
    scavenge_note_alloc(p, page, (uint64_t)__builtin_popcountll(free_pages)); /* so many, wherever in the block */
    page_alloc_update(p, page / CHUNK_PAGES, page / CHUNK_PAGES);
}

/* First bit of the lowest run of n ones, or 64: shifting by one and masking, n - 1 times, leaves the run's starts. */
static unsigned find_run(uint64_t bits, uint64_t n) {
    for (uint64_t k = 1; k < n && bits; k++) bits &= bits >> 1;
    return bits ? (unsigned)__builtin_ctzll(bits) : 64;
}

uint64_t page_cache_take(page_cache *c, uint64_t npages, uint64_t *scavenged) {
    unsigned i = find_run(c->cache, npages);
    if (i == 64) return NO_PAGE;
    uint64_t mask = ((1ull << npages) - 1) << i; /* npages < 16 */
    *scavenged = (uint64_t)__builtin_popcountll(c->scav & mask);
    c->cache &= ~mask;
    c->scav &= ~mask;
    return c->page + i;
}

void page_cache_flush(page_alloc *p, page_cache *c) {
    if (!c->cache) return;
    chunk *k = &p->chunks[c->page / CHUNK_PAGES];
    uint64_t word = c->page % CHUNK_PAGES / 64;
    k->alloc[word] &= ~c->cache;
    k->scav[word] |= c->scav;
    for (uint64_t left = c->cache; left; left &= left - 1)
        scavenge_note_free(p, c->page + (uint64_t)__builtin_ctzll(left), 1);
    page_alloc_update(p, c->page / CHUNK_PAGES, c->page / CHUNK_PAGES);
    *c = (page_cache){0};
}
