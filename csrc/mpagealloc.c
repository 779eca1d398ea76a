/* Which pages are free: a bitmap a chunk of 4 MB and a tree of summaries above it, so that the lowest run of n free
 * pages is found in a few dozen steps however large the heap is. Address-ordered first fit is all of Go's policy that
 * shows in addresses; the tree's shape and the search hints of mpagealloc.go do not, and are our own. */
#include <string.h>
#include "internal.h"

enum { FANOUT = 8 };

/* ---- summaries ---- */

/* Longest run of zeros in a bitmap of CHUNK_PAGES bits, with its first and last runs. */
summary chunk_summary(const chunk *c) {
    uint32_t start = CHUNK_PAGES, max = 0, run = 0;
    for (uint32_t w = 0; w < CHUNK_WORDS; w++) {
        uint64_t used = c->alloc[w];
        uint32_t at = 0;
        while (used) { /* take the zeros below the next used page, then the used pages themselves */
            uint32_t zeros = (uint32_t)__builtin_ctzll(used);
            run += zeros;
            if (start == CHUNK_PAGES) start = run;
            if (run > max) max = run;
            run = 0;
            used >>= zeros;
            uint32_t ones = ~used ? (uint32_t)__builtin_ctzll(~used) : 64;
            used = ones == 64 ? 0 : used >> ones;
            at += zeros + ones;
        }
        run += 64 - at;
    }
    if (run > max) max = run;
    return (summary){start, max, run};
}

summary summary_merge(const summary *child, uint64_t n, uint64_t pages_each) {
    summary m = {0, 0, 0};
    bool all_free = true;
    uint64_t run = 0;
    for (uint64_t i = 0; i < n; i++) {
        run += child[i].start;
        if (all_free) m.start = (uint32_t)run;
        if (run > m.max) m.max = (uint32_t)run;
        if (child[i].max > m.max) m.max = child[i].max;
        if (child[i].start == pages_each) continue;
        all_free = false;
        run = child[i].end;
    }
    if (run > m.max) m.max = (uint32_t)run;
    m.end = (uint32_t)run;
    return m;
}

static uint64_t level_pages(uint32_t level) { return (uint64_t)CHUNK_PAGES << (3 * level); }

static uint64_t entries_for(uint64_t nchunks, uint32_t level) {
    return (nchunks + (1ull << (3 * level)) - 1) >> (3 * level);
}

uint64_t summary_entries(const page_alloc *p, uint32_t level) { return entries_for(p->nchunks, level); }

static void update_level(page_alloc *p, uint32_t level, uint64_t entry) {
    uint64_t first = entry * FANOUT, below = summary_entries(p, level - 1);
    uint64_t n = below - first < FANOUT ? below - first : FANOUT;
    p->level[level][entry] = summary_merge(&p->level[level - 1][first], n, level_pages(level - 1));
}

void page_alloc_update(page_alloc *p, uint64_t first, uint64_t last) {
    for (uint64_t c = first; c <= last; c++) p->level[0][c] = chunk_summary(&p->chunks[c]);
    for (uint32_t l = 1; l < p->nlevels; l++) {
        first /= FANOUT;
        last /= FANOUT;
        for (uint64_t e = first; e <= last; e++) update_level(p, l, e);
    }
}

/* ---- growing ---- */

static uint32_t levels_for(uint64_t nchunks) {
    uint32_t n = 1;
    while (entries_for(nchunks, n - 1) > FANOUT && n < MAX_SUMMARY_LEVELS) n++;
    return n;
}

/* Capacity doubles. The new arrays are all there before the old ones go, so a failure changes nothing. */
int page_alloc_reserve(pymem_heap *h, uint64_t npages) {
    page_alloc *p = &h->pages;
    uint64_t need = npages / CHUNK_PAGES, cap = p->cap_chunks ? p->cap_chunks : 16;
    while (cap < need) cap *= 2;
    if (cap == p->cap_chunks) return PYMEM_OK;
    page_alloc fresh = {.cap_chunks = cap, .nlevels = levels_for(cap), .nchunks = p->nchunks, .scav = p->scav};
    fresh.chunks = os_alloc(h, cap * sizeof(chunk));
    bool good = fresh.chunks != NULL;
    for (uint32_t l = 0; l < fresh.nlevels; l++) {
        fresh.level[l] = os_alloc(h, entries_for(cap, l) * sizeof(summary));
        good = good && fresh.level[l];
    }
    page_alloc old = *p;
    if (good) {
        if (p->nchunks) memcpy(fresh.chunks, p->chunks, p->nchunks * sizeof(chunk));
        *p = fresh;
        if (p->nchunks) page_alloc_update(p, 0, p->nchunks - 1);
    } else {
        old = fresh; /* the one to throw away */
    }
    os_free(h, old.chunks, old.cap_chunks * sizeof(chunk));
    for (uint32_t l = 0; l < old.nlevels; l++)
        os_free(h, old.level[l], entries_for(old.cap_chunks, l) * sizeof(summary));
    return good ? PYMEM_OK
                : fail(h, PYMEM_ENOMEM, "no memory for the page bitmaps of %llu MB of heap",
                       (unsigned long long)(npages * PAGE_SIZE >> 20));
}

void page_alloc_grow(pymem_heap *h, uint64_t npages) {
    page_alloc *p = &h->pages;
    uint64_t first = p->nchunks;
    p->nchunks += npages / CHUNK_PAGES;
    for (uint64_t c = first; c < p->nchunks; c++) memset(p->chunks[c].scav, 0xff, sizeof p->chunks[c].scav);
    page_alloc_update(p, first, p->nchunks - 1);
}

void page_alloc_release(pymem_heap *h) {
    page_alloc *p = &h->pages;
    os_free(h, p->chunks, p->cap_chunks * sizeof(chunk));
    for (uint32_t l = 0; l < p->nlevels; l++) os_free(h, p->level[l], entries_for(p->cap_chunks, l) * sizeof(summary));
}

/* ---- finding ---- */

/* Lowest run of n zeros inside one chunk that is known to have one. */
static uint64_t find_in_chunk(const chunk *c, uint64_t n) {
    uint64_t run = 0;
    for (uint32_t i = 0; i < CHUNK_PAGES; i++) {
        uint64_t word = c->alloc[i / 64];
        if (i % 64 == 0 && word == UINT64_MAX) {
            run = 0;
            i += 63;
            continue;
        }
        if (i % 64 == 0 && word == 0) {
            if (run + 64 >= n) return i - run;
            run += 64;
            i += 63;
            continue;
        }
        run = word >> (i % 64) & 1 ? 0 : run + 1;
        if (run >= n) return i + 1 - run;
    }
    return NO_PAGE;
}

/* Walk the entries of one level from the left, carrying the free run that reaches the current entry from before it.
 * Where the run ends inside the entry the answer begins before it; where the entry holds a long enough run by itself
 * the answer is inside, one level down. */
uint64_t page_alloc_find(const page_alloc *p, uint64_t npages) {
    if (!p->nchunks) return NO_PAGE;
    uint32_t level = p->nlevels - 1;
    uint64_t entry = 0, limit = summary_entries(p, level), run = 0;
    while (entry < limit) {
        const summary *s = &p->level[level][entry];
        uint64_t each = level_pages(level);
        if (run + s->start >= npages) return entry * each - run;
        if (s->max >= npages) {
            if (level == 0) return entry * CHUNK_PAGES + find_in_chunk(&p->chunks[entry], npages);
            level--;
            entry *= FANOUT;
            limit = entry + FANOUT < summary_entries(p, level) ? entry + FANOUT : summary_entries(p, level);
            run = 0; /* what reaches in from the left was too short with this entry's start */
            continue;
        }
        run = s->start == each ? run + each : s->end;
        entry++;
    }
    return NO_PAGE;
}

/* ---- taking and giving back ---- */

static uint64_t mask_of(uint64_t from, uint64_t to) { /* bits [from, to) of a word, 0 <= from < to <= 64 */
    return (to == 64 ? UINT64_MAX : (1ull << to) - 1) & ~((1ull << from) - 1);
}

/* Sets or clears the bits of a run in one of the two bitmaps of the chunks; returns how many differed. */
static uint64_t set_bits(page_alloc *p, size_t bitmap, uint64_t page, uint64_t npages, bool value) {
    uint64_t changed = 0, end = page + npages;
    for (uint64_t at = page; at < end;) {
        uint64_t stop = (at | 63) + 1 < end ? (at | 63) + 1 : end;
        uint64_t mask = mask_of(at & 63, stop - (at & ~63ull));
        uint64_t *word = (uint64_t *)((char *)&p->chunks[at / CHUNK_PAGES] + bitmap) + at % CHUNK_PAGES / 64;
        uint64_t after = value ? *word | mask : *word & ~mask;
        changed += (uint64_t)__builtin_popcountll(after ^ *word);
        *word = after;
        at = stop;
    }
    return changed;
}

uint64_t page_alloc_take(page_alloc *p, uint64_t page, uint64_t npages) {
    set_bits(p, offsetof(chunk, alloc), page, npages, true);
    uint64_t scavenged = set_bits(p, offsetof(chunk, scav), page, npages, false);
    scavenge_note_alloc(p, page, npages);
    page_alloc_update(p, page / CHUNK_PAGES, (page + npages - 1) / CHUNK_PAGES);
    return scavenged;
}

void page_alloc_free(page_alloc *p, uint64_t page, uint64_t npages) {
    set_bits(p, offsetof(chunk, alloc), page, npages, false);
    scavenge_note_free(p, page, npages);
    page_alloc_update(p, page / CHUNK_PAGES, (page + npages - 1) / CHUNK_PAGES);
}

/* The scavenger's own doings are not use: its index does not see them. */
void page_alloc_hide(page_alloc *p, uint64_t page, uint64_t npages) {
    set_bits(p, offsetof(chunk, alloc), page, npages, true);
    page_alloc_update(p, page / CHUNK_PAGES, (page + npages - 1) / CHUNK_PAGES);
}

void page_alloc_release_hidden(page_alloc *p, uint64_t page, uint64_t npages) {
    set_bits(p, offsetof(chunk, alloc), page, npages, false);
    set_bits(p, offsetof(chunk, scav), page, npages, true);
    page_alloc_update(p, page / CHUNK_PAGES, (page + npages - 1) / CHUNK_PAGES);
}
