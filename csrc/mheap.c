/* Spans: taking runs of pages for them, finding them by address, giving them back. The heap grows by chunks inside
 * 64 MB arenas that follow one another, so page numbers (from the first arena's base) are one linear space. */
#include <string.h>
#include "internal.h"

/* An mcache's place holder: no slots, so the first allocation asks for a span. Never written. */
static uint64_t no_bits[1];
mspan empty_span = {.alloc_bits = no_bits, .mark_bits = no_bits, .elem_size = 1};

uint64_t page_of(const pymem_heap *h, uint64_t addr) { return (addr - h->config.arena_base) >> PAGE_SHIFT; }
uint64_t page_addr(const pymem_heap *h, uint64_t page) { return h->config.arena_base + (page << PAGE_SHIFT); }

mspan *mheap_span_of(const pymem_heap *h, uint64_t addr) {
    if (addr < h->config.arena_base) return NULL;
    uint64_t page = page_of(h, addr);
    return page < h->cur_page ? span_at(h, page) : NULL;
}

/* Of pages that reach over arenas. NULL unshares them: their own tables are all NULL already. */
static void set_arenas(pymem_heap *h, uint64_t page, uint64_t end, mspan *s) {
    mspan **first = NULL; /* table of the first arena that is all the span's */
    for (uint64_t i = page, next; i < end; i = next) {
        arena_pages *a = &h->arenas[i / ARENA_PAGES];
        next = (i / ARENA_PAGES + 1) * ARENA_PAGES;
        bool whole = i % ARENA_PAGES == 0 && next <= end;
        bool shared = whole && (s ? first != NULL : a->spans != a->own);
        a->spans = shared && s ? first : a->own;
        if (shared) continue;
        if (whole) first = a->own;
        for (uint64_t k = i; k < end && k < next; k++) a->own[k % ARENA_PAGES] = s;
    }
}

void mheap_set_spans(pymem_heap *h, uint64_t page, uint64_t npages, mspan *s) {
    if (npages > ARENA_PAGES) set_arenas(h, page, page + npages, s);
    else
        for (uint64_t i = page; i < page + npages; i++) h->arenas[i / ARENA_PAGES].own[i % ARENA_PAGES] = s;
    if (h->memory) memory_set_pages(h, page, npages, s);
}

void heap_live_add(pymem_heap *h, int64_t delta) { h->heap_live += delta; }

/* ---- growing ---- */

int mheap_reserve_arenas(pymem_heap *h, uint64_t end_page) {
    uint64_t need = (end_page + ARENA_PAGES - 1) / ARENA_PAGES;
    if (need > h->cap_arenas) {
        uint64_t cap = need > 2 * h->cap_arenas ? need : 2 * h->cap_arenas;
        void *q = os_grow(h, h->arenas, h->cap_arenas * sizeof *h->arenas, cap * sizeof *h->arenas);
        if (!q) return fail(h, PYMEM_ENOMEM, "no memory for the arena table");
        h->arenas = q;
        h->cap_arenas = cap;
    }
    for (uint64_t a = h->end_page / ARENA_PAGES; a < need; a++) {
        if (h->arenas[a].own) continue; /* left by an attempt that failed further on */
        h->arenas[a].spans = h->arenas[a].own = os_alloc_kept(h, ARENA_PAGES * sizeof(mspan *));
        if (!h->arenas[a].own) return fail(h, PYMEM_ENOMEM, "no memory for the page table of an arena");
    }
    return PYMEM_OK;
}

/* The first chunks may be skipped, and the first pages of the next one kept empty, by Go's random choice of a base.
 * Skipped chunks are not the heap's; padding counts as heap memory that was never touched. */
static void place_base(pymem_heap *h, uint64_t ask) {
    uint64_t skipped = h->padding / CHUNK_PAGES * CHUNK_PAGES;
    if (skipped) {
        page_alloc_grow(h, skipped);
        page_alloc_take(&h->pages, 0, skipped);
    }
    h->cur_page = skipped + ask;
    page_alloc_grow(h, ask);
    if (h->padding > skipped) {
        page_alloc_take(&h->pages, skipped, h->padding - skipped);
        for (uint64_t i = skipped; i < h->padding; i++)
            h->pages.chunks[i / CHUNK_PAGES].scav[i % CHUNK_PAGES / 64] |= 1ull << (i & 63);
    }
}

/* Address space is reserved by whole arenas that follow one another; a request that does not fit in what is left of the
 * current one reserves for all of itself. Go: (*mheap).sysAlloc */
static uint64_t arenas_end_for(const pymem_heap *h, uint64_t end, uint64_t ask) {
    if (end <= h->end_page) return h->end_page;
    uint64_t reserved = h->end_page + (ask + ARENA_PAGES - 1) / ARENA_PAGES * ARENA_PAGES;
    return reserved > end ? reserved : (end + ARENA_PAGES - 1) / ARENA_PAGES * ARENA_PAGES;
}

/* Go: (*mheap).grow. All that can fail comes first. */
int mheap_grow(pymem_heap *h, proc *p, uint64_t npages) {
    uint64_t ask = (npages + CHUNK_PAGES - 1) / CHUNK_PAGES * CHUNK_PAGES;
    uint64_t from = h->cur_page ? h->cur_page : h->padding / CHUNK_PAGES * CHUNK_PAGES;
    uint64_t limit = h->memory ? h->memory->pages : h->config.address_space >> PAGE_SHIFT;
    if (npages > limit || from + ask > limit)
        return fail(h, PYMEM_ELIMIT, "the emulated heap would pass its %llu MB of address space",
                    (unsigned long long)(limit >> (20 - PAGE_SHIFT)));
    uint64_t arenas_end = arenas_end_for(h, from + ask, ask);
    int rc = mheap_reserve_arenas(h, arenas_end);
    if (!rc) rc = page_alloc_reserve(h, from + ask);
    if (rc) return rc;
    for (; h->end_page < arenas_end; h->end_page += ARENA_PAGES) account_arena(h, p, h->narenas++);
    account_pages_grow(h, page_addr(h, from), page_addr(h, from + ask));
    h->heap_released += ask << PAGE_SHIFT;
    if (h->cur_page) {
        h->cur_page = from + ask;
        page_alloc_grow(h, ask);
    } else {
        place_base(h, ask);
    }
    return PYMEM_OK;
}

/* ---- pages for a span. Go: (*mheap).allocSpan ---- */

static int take_pages(pymem_heap *h, proc *p, uint64_t npages, uint64_t *page, uint64_t *scavenged) {
    if (p->has_p && uses_page_cache(npages)) {
        if (!p->pages.cache) page_cache_fill(&h->pages, &p->pages);
        *page = page_cache_take(&p->pages, npages, scavenged);
        if (*page != NO_PAGE) return PYMEM_OK;
    }
    while ((*page = page_alloc_find(&h->pages, npages)) ==
           NO_PAGE) { /* twice if padding has eaten into the first chunk */
        int rc = mheap_grow(h, p, npages);
        if (rc) return rc;
    }
    *scavenged = page_alloc_take(&h->pages, *page, npages);
    return PYMEM_OK;
}

static mspan *free_span_struct(pymem_heap *h) {
    if (h->free_spans) return h->free_spans;
    mspan_slab *slab = os_alloc_kept(h, sizeof *slab);
    if (!slab) return NULL;
    slab->next = h->slabs;
    uint32_t first = h->slabs ? h->slabs->spans[0].number + SLAB_SPANS : 0;
    h->slabs = slab;
    for (int i = SLAB_SPANS - 1; i >= 0; i--) {
        slab->spans[i].number = first + (uint32_t)i;
        slab->spans[i].next = h->free_spans;
        h->free_spans = &slab->spans[i];
    }
    return h->free_spans;
}

static void init_object_span(pymem_heap *h, mspan *s, uint32_t span_class) {
    const size_classes *t = size_classes_go();
    uint32_t c = span_class >> 1;
    s->span_class = (uint8_t)span_class;
    s->elem_size = c ? t->size[c] : s->npages << PAGE_SHIFT;
    s->nelems = c ? t->nelems[span_class] : 1;
    s->div_magic = c ? t->div_magic[c] : 0;
    s->mark_bits = gcbits_new(h, s->nelems);
    s->alloc_bits = gcbits_new(h, s->nelems);
    s->sweepgen = h->sweepgen;
    s->state = SPAN_IN_USE;
    h->pages_in_use += s->npages;
    h->object_spans++;
}

/* The struct may still wait, stale, in a set of unswept spans: its links stay. */
static void init_span(mspan *s, uint64_t base, uint64_t npages, int kind) {
    s->base = base;
    s->npages = npages;
    s->elem_size = npages << PAGE_SHIFT;
    s->div_magic = 0;
    s->nelems = s->freeindex = s->alloc_count = s->count_before_cache = 0;
    s->span_class = 0;
    s->kind = (uint8_t)kind;
    s->page_mark = 0;
    s->large_type = 0;
    s->state = SPAN_MANUAL;
    s->next = s->prev = NULL;
    s->free_stacks = 0;
    s->nfree_stacks = 0;
    s->live_stacks = 0;
}

static uint64_t *in_use_counter(pymem_heap *h, int kind) {
    if (kind == PYMEM_SPAN_HEAP) return &h->heap_in_use;
    if (kind == PYMEM_SPAN_STACK) return &h->in_stacks;
    return kind == PYMEM_SPAN_WORKBUF ? &h->in_workbufs : &h->in_other;
}

/* The next struct to be used was last touched long ago: have it fetched while this one's slots are handed out. */
static void prefetch_span(const mspan *s) {
    for (size_t at = 0; s && at < sizeof *s; at += 64) __builtin_prefetch((const char *)s + at, 1);
}

/* A span over pages that are taken already; scavenged of them were the OS's. Structs and bitmaps are reserved, and the
 * struct is accounted for. */
static mspan *make_span(pymem_heap *h, uint64_t page, uint64_t npages, uint64_t scavenged, int kind,
                        uint32_t span_class) {
    mspan *s = h->free_spans;
    h->free_spans = s->next;
    prefetch_span(s->next);
    init_span(s, page_addr(h, page), npages, kind);
    if (kind == PYMEM_SPAN_HEAP) init_object_span(h, s, span_class);
    mheap_set_spans(h, page, npages, s);
    uint64_t bytes = npages << PAGE_SHIFT, fresh = scavenged << PAGE_SHIFT;
    h->heap_released -= fresh;
    h->heap_free -= bytes - fresh;
    *in_use_counter(h, kind) += bytes;
    return s;
}

int mheap_reserve_struct(pymem_heap *h) {
    return free_span_struct(h) ? PYMEM_OK : fail(h, PYMEM_ENOMEM, "no memory for span structs");
}

static int reserve_span(pymem_heap *h) {
    int rc = gcbits_reserve(h);
    return rc ? rc : mheap_reserve_struct(h);
}

int mheap_alloc_span(pymem_heap *h, proc *p, uint64_t npages, int kind, uint32_t span_class, mspan **out) {
    uint64_t page, scavenged, released = h->heap_released;
    int rc = reserve_span(h);
    if (!rc) rc = take_pages(h, p, npages, &page, &scavenged);
    if (rc) return rc;
    account_mspan_new(h, p);
    if (p->has_p) /* fresh address space is released memory: so the heap grew */
        scavenge_for_span(h, scavenged << PAGE_SHIFT, h->heap_released - released);
    *out = make_span(h, page, npages, scavenged, kind, span_class);
    return PYMEM_OK;
}

/* The same at pages of the caller's choice, free in the page allocator. */
int mheap_span_at(pymem_heap *h, proc *p, uint64_t page, uint64_t npages, int kind, uint32_t span_class, mspan **out) {
    int rc = reserve_span(h);
    if (rc) return rc;
    account_mspan_new(h, p);
    *out = make_span(h, page, npages, page_alloc_take(&h->pages, page, npages), kind, span_class);
    return PYMEM_OK;
}

static void drop_slot_tables(pymem_heap *h, mspan *s) {
    os_free(h, s->dead_bits, bit_words(s->nelems) * 8);
    os_free(h, s->types, s->nelems * sizeof *s->types);
    os_free(h, s->tiny_live, s->nelems * sizeof *s->tiny_live);
    s->dead_bits = NULL;
    s->types = NULL;
    s->tiny_live = NULL;
}

/* Go: (*mheap).freeSpanLocked. Freed pages are not scavenged: the OS has not got them back. */
void mheap_free_span(pymem_heap *h, proc *p, mspan *s) {
    uint64_t bytes = s->npages << PAGE_SHIFT;
    if (s->state == SPAN_IN_USE) {
        h->pages_in_use -= s->npages;
        h->object_spans--;
    }
    *in_use_counter(h, s->kind) -= bytes;
    h->heap_free += bytes;
    drop_slot_tables(h, s);
    mheap_set_spans(h, page_of(h, s->base), s->npages, NULL);
    page_alloc_free(&h->pages, page_of(h, s->base), s->npages);
    s->state = SPAN_DEAD;
    s->alloc_bits = s->mark_bits = NULL;
    s->next = h->free_spans;
    h->free_spans = s;
    account_mspan_free(h, p);
}

void mheap_release(pymem_heap *h) {
    for (mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++) drop_slot_tables(h, &slab->spans[i]);
    os_free(h, h->arenas, h->cap_arenas * sizeof *h->arenas);
}
