/* The whole heap as a value: one walk over all its structs, which writes them or reads them back. Pointers become
 * numbers: of span structs, of places in the arenas of slot bitmaps. Kept is all that later results depend on: also the
 * order of lists, what is stale in them, and Go's metadata as MemStats counts it. Left out is what follows from the
 * rest: summaries, page tables, size class numbers.
 *
 * A reader believes nothing. Each number is held against its bound where it is read; what no single number tells (a
 * span in two caches, a page that two own) is checked in snapcheck.c; the whole is then walked by heap_check. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "mgcwork.h"
#include "snapshot.h"

enum { FORMAT = 3, PLACE = 8192 /* words a bits arena has at most, for numbering them */ };
enum { HAS_DEAD = 1, HAS_TYPES = 2, HAS_TINY = 4 };

#define ANY UINT64_MAX

bool config_good(const pymem_config *c) {
    const uint64_t arena = (uint64_t)ARENA_PAGES << PAGE_SHIFT;
    return c->arena_base % arena == 0 && c->arena_base < 1ull << 47 && c->padding_pages < ARENA_PAGES &&
           c->address_space <= 1ull << 46;
}

static void numbers(walk *w, uint64_t *const *fields, size_t n) {
    for (size_t i = 0; i < n; i++) stream_number(&w->s, fields[i], ANY);
}

/* ---- the heap's own numbers ---- */

static void walk_config(walk *w) {
    pymem_config *c = &w->h->config;
    uint32_t format = FORMAT;
    STREAM(&w->s, format, UINT32_MAX);
    if (format != FORMAT) stream_wrong(&w->s, "it was written by another version of pymem");
    STREAM(&w->s, c->arena_base, ANY);
    STREAM(&w->s, c->address_space, ANY);
    STREAM(&w->s, c->padding_pages, UINT32_MAX);
    STREAM(&w->s, c->scan_sparse, UINT32_MAX);
    if (w->s.reading && !config_good(c)) stream_wrong(&w->s, "its address space cannot be");
    w->h->padding = c->padding_pages;
}

/* 0 or a power of two from CHAIN_FIRST on. */
static bool queue_cap_good(uint32_t cap) { return !cap || (cap >= CHAIN_FIRST && !(cap & (cap - 1))); }

static void walk_cycle(walk *w) {
    pymem_heap *h = w->h;
    STREAM(&w->s, h->sweepgen, UINT32_MAX - 8);
    STREAM(&w->s, h->sweep_cursor, 2 * NUM_SPAN_CLASSES);
    STREAM(&w->s, h->sweep_done, 1);
    STREAM(&w->s, h->gc_running, 1);
    STREAM(&w->s, h->marking, 1);
    STREAM(&w->s, h->by_record, 1);
    STREAM(&w->s, h->assists, 1);
    STREAM(&w->s, h->stops.due, 7);
    stream_signed(&w->s, &h->stops.quantum);
    stream_signed(&w->s, &h->stops.debt);
    if (h->stops.debt < 0) stream_wrong(&w->s, "a debt below 0");
    stream_signed(&w->s, &h->heap_live);
    uint64_t ratio;
    memcpy(&ratio, &h->sweep_pages_per_byte, sizeof ratio);
    stream_number(&w->s, &ratio, ANY);
    memcpy(&h->sweep_pages_per_byte, &ratio, sizeof ratio);
    if (!isfinite(h->sweep_pages_per_byte) || h->sweep_pages_per_byte < 0) stream_wrong(&w->s, "a ratio is none");
    STREAM(&w->s, h->epoch, UINT32_MAX);
    STREAM(&w->s, h->queue_puts, SPILL_PERIOD);
    STREAM(&w->s, h->queue_cap, CHAIN_LAST);
    if (!queue_cap_good(h->queue_cap)) stream_wrong(&w->s, "a queue that cannot have come about");
    STREAM(&w->s, h->reclaim_page, 1ull << 40);
    STREAM(&w->s, h->reclaim_limit, 1ull << 40);
    uint64_t *const rest[] = {&h->scav_percent_goal,
                              &h->scav_limit,
                              &h->scav_eager,
                              &h->pages_in_use,
                              &h->pages_swept,
                              &h->pages_swept_basis,
                              &h->sweep_live_basis,
                              &h->sweep_end_live,
                              &h->object_spans,
                              &h->reclaim_credit,
                              &h->stops.live,
                              &h->work_objects,
                              &h->work_bytes,
                              &h->marks.objects_marked,
                              &h->marks.bytes_marked,
                              &h->marks.heap_scan,
                              &h->marks.stack_scan,
                              &h->marks.globals_scan,
                              &h->heap_scan,
                              &h->heap_marked,
                              &h->finalizer_bytes,
                              &h->revived_bytes,
                              &h->marked_twice,
                              &h->born_before,
                              &h->goal_floor,
                              &h->last_mark.row,
                              &h->last_mark.objects_before,
                              &h->last_mark.bytes_before,
                              &h->last_mark.objects_marked,
                              &h->last_mark.bytes_marked,
                              &h->num_gc,
                              &h->num_forced_gc,
                              &h->gc_goal,
                              &h->memory_limit};
    numbers(w, rest, sizeof rest / sizeof *rest);
}

static void walk_persistent(walk *w, persistent_chunk *c) {
    STREAM(&w->s, c->off, 1 << 20);
    STREAM(&w->s, c->has_chunk, 1);
}

static void walk_fix_alloc(walk *w, fix_alloc *f) {
    STREAM(&w->s, f->chunk_left, 1 << 20);
    STREAM(&w->s, f->nfree, UINT32_MAX);
    STREAM(&w->s, f->inuse, ANY);
}

static void walk_stats(walk *w) {
    pymem_heap *h = w->h;
    for (int i = 0; i < PYMEM_NUM_STATS; i++) stream_number(&w->s, &h->sys[i], ANY);
    for (int i = 0; i < NUM_CLASSES; i++) stream_number(&w->s, &h->small_allocs[i], ANY);
    for (int i = 0; i < NUM_CLASSES; i++) stream_number(&w->s, &h->small_frees[i], ANY);
    uint64_t *const rest[] = {&h->heap_in_use,
                              &h->heap_free,
                              &h->heap_released,
                              &h->in_stacks,
                              &h->in_workbufs,
                              &h->in_other,
                              &h->tiny_allocs,
                              &h->large_alloc,
                              &h->large_allocs,
                              &h->large_free,
                              &h->large_frees,
                              &h->allspans_len,
                              &h->allspans_cap,
                              &h->arenas_cap_emulated,
                              &h->scav_index_mapped.lo,
                              &h->scav_index_mapped.hi,
                              &h->l2_mapped};
    numbers(w, rest, sizeof rest / sizeof *rest);
    for (int i = 0; i < 5; i++) {
        STREAM(&w->s, h->summary_mapped[i].lo, ANY);
        STREAM(&w->s, h->summary_mapped[i].hi, ANY);
    }
    STREAM(&w->s, h->metadata_huge, 1);
    STREAM(&w->s, h->set_blocks_pool, UINT32_MAX);
    walk_persistent(w, &h->palloc);
    walk_fix_alloc(w, &h->span_fix);
    walk_fix_alloc(w, &h->cache_fix);
}

/* ---- pages ---- */

/* The arenas' page tables and the page allocator's, for as many pages. */
static void reserve_pages(walk *w, uint64_t end_page) {
    pymem_heap *h = w->h;
    if (h->cur_page % CHUNK_PAGES || end_page % ARENA_PAGES || end_page < h->cur_page ||
        h->cur_page > h->config.address_space >> PAGE_SHIFT || h->cur_page / CHUNK_PAGES > stream_left(&w->s))
        stream_wrong(&w->s, "its pages are more than there are");
    if (w->s.status) h->cur_page = 0;
    if (!h->cur_page) return;
    if (mheap_reserve_arenas(h, end_page) || page_alloc_reserve(h, h->cur_page)) stream_no_memory(&w->s);
    if (w->s.status) return;
    h->end_page = end_page;
    h->narenas = end_page / ARENA_PAGES;
    h->pages.nchunks = h->cur_page / CHUNK_PAGES;
}

static void walk_chunk(walk *w, chunk *c) {
    stream_words(&w->s, c->alloc, CHUNK_WORDS);
    stream_words(&w->s, c->scav, CHUNK_WORDS);
    STREAM(&w->s, c->index.in_use, CHUNK_PAGES);
    STREAM(&w->s, c->index.last_in_use, CHUNK_PAGES);
    STREAM(&w->s, c->index.gen, UINT32_MAX);
    STREAM(&w->s, c->index.has_free, 1);
}

static void walk_scavenger(walk *w) {
    pymem_heap *h = w->h;
    scav_index *x = &h->pages.scav;
    STREAM(&w->s, x->background.limit, h->cur_page);
    STREAM(&w->s, x->background.marked, 1);
    STREAM(&w->s, x->force.limit, h->cur_page);
    STREAM(&w->s, x->force.marked, 1);
    STREAM(&w->s, x->freed_limit, h->cur_page);
    STREAM(&w->s, x->gen, UINT32_MAX);
    STREAM(&w->s, h->nscavenging, sizeof h->scavenging / sizeof *h->scavenging);
    for (uint32_t i = 0; i < h->nscavenging; i++) {
        STREAM(&w->s, h->scavenging[i].page, h->cur_page);
        STREAM(&w->s, h->scavenging[i].npages, h->cur_page - h->scavenging[i].page);
    }
}

/* The heap's end may lie beyond the pages in use: address space that is reserved. */
static void walk_pages(walk *w) {
    pymem_heap *h = w->h;
    uint64_t end_page = h->end_page;
    STREAM(&w->s, h->cur_page, 1ull << 33);
    STREAM(&w->s, end_page, 2 * h->cur_page + 2 * ARENA_PAGES);
    if (w->s.reading) reserve_pages(w, end_page);
    for (uint64_t c = 0; c < h->pages.nchunks; c++) walk_chunk(w, &h->pages.chunks[c]);
    if (w->s.reading && h->pages.nchunks) page_alloc_update(&h->pages, 0, h->pages.nchunks - 1);
    walk_scavenger(w);
}

/* ---- slot bitmaps ---- */

static int by_address(const void *a, const void *b) {
    const bits_place *x = a, *y = b;
    return x->arena < y->arena ? -1 : x->arena > y->arena;
}

/* Those whose words count. They get numbers in the order of the lists, and are found by address. */
static void number_arenas(walk *w) {
    bits_arena *const lists[] = {w->h->bits_next, w->h->bits_current, w->h->bits_previous};
    uint32_t n = 0;
    for (int i = 0; i < 3; i++)
        for (bits_arena *a = lists[i]; a; a = a->next) n++;
    w->arenas = os_alloc(w->h, (n + 1) * sizeof *w->arenas);
    if (!w->arenas) stream_no_memory(&w->s);
    for (int i = 0; i < 3 && w->arenas; i++)
        for (bits_arena *a = lists[i]; a; a = a->next, w->narenas++)
            w->arenas[w->narenas] = (bits_place){a, w->narenas};
    w->cap_arenas = n + 1;
    if (!w->s.reading && w->arenas) qsort(w->arenas, w->narenas, sizeof *w->arenas, by_address);
}

static uint32_t list_length(const bits_arena *a) {
    uint32_t n = 0;
    for (; a; a = a->next) n++;
    return n;
}

/* There are never more than 6 a chunk and list: a page of the smallest slots has 16 words of bits, twice. */
static bits_arena *new_arena(walk *w) {
    uint64_t most = 32 * w->h->pages.nchunks + 64;
    if (w->arenas_read++ >= most) stream_wrong(&w->s, "slot bitmaps beyond all heaps");
    bits_arena *a = w->s.status ? NULL : os_alloc_kept(w->h, sizeof *a);
    if (!a) stream_no_memory(&w->s);
    return a;
}

static void read_arenas(walk *w, bits_arena **list, uint32_t n) {
    for (uint32_t i = 0; i < n && !w->s.status; i++) {
        bits_arena *a = new_arena(w);
        if (!a) return;
        *list = a;
        list = &a->next;
    }
}

/* But for the one that is being filled they are full, but for less than the longest bitmap. */
static void walk_arenas(walk *w, bits_arena **list) {
    const uint32_t words = sizeof(*list)->words / 8;
    uint32_t n = list_length(*list);
    STREAM(&w->s, n, UINT32_MAX);
    if (w->s.reading) read_arenas(w, list, n);
    for (bits_arena *a = *list; a; a = a->next) {
        STREAM(&w->s, a->used, words);
        if (w->s.reading && a != *list && a->used + SPAN_BITS_MAX / 8 <= words)
            stream_wrong(&w->s, "slot bitmaps that are not used");
        stream_words(&w->s, a->words, a->used);
    }
}

/* Of free arenas nothing counts but how many they are: they are zeroed before use. */
static void walk_free_arenas(walk *w, bits_arena **list) {
    uint32_t n = list_length(*list);
    STREAM(&w->s, n, UINT32_MAX);
    if (w->s.reading) read_arenas(w, list, n);
}

static void walk_bits(walk *w) {
    pymem_heap *h = w->h;
    walk_arenas(w, &h->bits_next);
    walk_arenas(w, &h->bits_current);
    walk_arenas(w, &h->bits_previous);
    walk_free_arenas(w, &h->bits_free);
    walk_free_arenas(w, &h->bits_spare);
    number_arenas(w);
}

static bool lies_in(const bits_arena *a, const uint64_t *bits) {
    return bits >= a->words && bits < a->words + sizeof a->words / sizeof *a->words;
}

/* The last arena that begins at or below bits; mostly it is the last span's. */
static uint64_t place_of(walk *w, const uint64_t *bits) {
    uint32_t low = 0, high = w->narenas;
    if (lies_in(w->arenas[w->near].arena, bits)) low = w->near, high = low + 1;
    while (high - low > 1) {
        uint32_t mid = (low + high) / 2;
        if ((const char *)w->arenas[mid].arena <= (const char *)bits) low = mid;
        else high = mid;
    }
    w->near = low;
    return (uint64_t)w->arenas[low].number * PLACE + (uint64_t)(bits - w->arenas[low].arena->words);
}

static void walk_place(walk *w, uint64_t **bits, uint32_t n) {
    uint64_t place = w->s.reading ? 0 : place_of(w, *bits);
    stream_number(&w->s, &place, ANY);
    if (!w->s.reading) return;
    uint64_t number = place / PLACE, off = place % PLACE;
    if (number >= w->narenas || off + n > w->arenas[number].arena->used) stream_wrong(&w->s, "a bitmap is nowhere");
    else *bits = &w->arenas[number].arena->words[off];
}

/* ---- spans ---- */

/* What its class says of a span that was read. */
static void derive_span(walk *w, mspan *s) {
    const size_classes *t = size_classes_go();
    uint32_t c = s->span_class >> 1;
    if (c && s->npages != t->npages[c]) stream_wrong(&w->s, "a span is not of its class");
    s->elem_size = c ? t->size[c] : s->npages << PAGE_SHIFT;
    s->nelems = c ? t->nelems[s->span_class] : 1;
    s->div_magic = c ? t->div_magic[c] : 0;
}

static void *slot_table(walk *w, void *table, bool wanted, uint64_t n, size_t size) {
    if (!w->s.reading || !wanted) return table;
    table = os_alloc(w->h, n * size);
    if (!table) stream_no_memory(&w->s);
    return table;
}

static void walk_slot_tables(walk *w, mspan *s) {
    uint32_t has = (s->dead_bits ? HAS_DEAD : 0) | (s->types ? HAS_TYPES : 0) | (s->tiny_live ? HAS_TINY : 0);
    STREAM(&w->s, has, HAS_DEAD | HAS_TYPES | HAS_TINY);
    uint32_t words = bit_words(s->nelems);
    s->dead_bits = slot_table(w, s->dead_bits, has & HAS_DEAD, words, sizeof *s->dead_bits);
    s->types = slot_table(w, s->types, has & HAS_TYPES, s->nelems, sizeof *s->types);
    s->tiny_live = slot_table(w, s->tiny_live, has & HAS_TINY, s->nelems, sizeof *s->tiny_live);
    if (s->dead_bits) stream_words(&w->s, s->dead_bits, words);
    if (s->types) stream_runs(&w->s, s->types, s->nelems, sizeof *s->types);
    if (s->tiny_live) stream_runs(&w->s, s->tiny_live, s->nelems, sizeof *s->tiny_live);
}

static void walk_object_span(walk *w, mspan *s) {
    STREAM(&w->s, s->span_class, NUM_SPAN_CLASSES - 1);
    if (w->s.reading) derive_span(w, s);
    uint32_t age = s->sweepgen - w->h->sweepgen + 2, words = bit_words(s->nelems);
    STREAM(&w->s, age, 5);
    s->sweepgen = w->h->sweepgen + age - 2;
    STREAM(&w->s, s->freeindex, s->nelems);
    STREAM(&w->s, s->count_before_cache, s->nelems);
    STREAM(&w->s, s->page_mark, 1);
    STREAM(&w->s, s->large_type, UINT32_MAX);
    walk_place(w, &s->alloc_bits, words);
    walk_place(w, &s->mark_bits, words);
    walk_slot_tables(w, s);
}

static void walk_manual_span(walk *w, mspan *s) {
    STREAM(&w->s, s->elem_size, s->npages << PAGE_SHIFT);
    STREAM(&w->s, s->free_stacks, ANY);
    STREAM(&w->s, s->nfree_stacks, 16);
    STREAM(&w->s, s->live_stacks, UINT16_MAX);
}

static void enter_pages(walk *w, mspan *s, uint64_t page) {
    bool vacant = true;
    for (uint64_t i = page; i < page + s->npages && vacant; i++) vacant = !span_at(w->h, i);
    if (vacant) mheap_set_spans(w->h, page, s->npages, s);
    else stream_wrong(&w->s, "two spans share a page");
}

/* As a rule a span follows the one before it. A span counts as dead until all of it is read. */
static void walk_span(walk *w, mspan *s, uint64_t *next_page) {
    uint8_t state = s->state;
    STREAM(&w->s, state, SPAN_MANUAL);
    if (state != SPAN_IN_USE) STREAM(&w->s, s->sweepgen, w->h->sweepgen + 3ull); /* left over, but shown */
    if (state == SPAN_DEAD) return;
    uint64_t page = w->s.reading ? 0 : page_of(w->h, s->base);
    int64_t ahead = (int64_t)(page - *next_page);
    stream_signed(&w->s, &ahead);
    page = *next_page + (uint64_t)ahead;
    STREAM(&w->s, s->npages, w->h->cur_page);
    if (!s->npages || page >= w->h->cur_page || s->npages > w->h->cur_page - page)
        stream_wrong(&w->s, "a span lies outside the heap");
    STREAM(&w->s, s->kind, PYMEM_SPAN_OTHER);
    if ((s->kind == PYMEM_SPAN_HEAP) != (state == SPAN_IN_USE)) stream_wrong(&w->s, "a span is of no kind");
    STREAM(&w->s, s->alloc_count, 1024);
    s->base = page_addr(w->h, page);
    if (state == SPAN_IN_USE) walk_object_span(w, s);
    else walk_manual_span(w, s);
    if (w->s.reading && !w->s.status) {
        s->state = state;
        enter_pages(w, s, page);
    }
    *next_page = page + s->npages;
}

static void make_structs(walk *w, uint64_t nslabs) {
    pymem_heap *h = w->h;
    if (nslabs > stream_left(&w->s) / SLAB_SPANS) stream_wrong(&w->s, "more spans than bytes");
    for (uint64_t i = 0; i < nslabs && !w->s.status; i++) {
        h->free_spans = NULL;
        if (mheap_reserve_struct(h)) stream_no_memory(&w->s);
    }
    h->free_spans = NULL;
}

/* All structs by number. */
static void number_structs(walk *w) {
    uint64_t n = w->h->slabs ? w->h->slabs->spans[0].number + SLAB_SPANS : 0;
    w->spans = os_alloc(w->h, (n + 1) * sizeof *w->spans);
    if (!w->spans) {
        stream_no_memory(&w->s);
        return;
    }
    for (mspan_slab *slab = w->h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++) {
            w->spans[slab->spans[i].number] = &slab->spans[i];
            if (w->s.reading) slab->spans[i].next = NULL;
        }
    w->nspans = n;
}

static void walk_spans(walk *w) {
    uint64_t nslabs = w->h->slabs ? w->h->slabs->spans[0].number / SLAB_SPANS + 1 : 0, next_page = 0;
    STREAM(&w->s, nslabs, UINT32_MAX / SLAB_SPANS);
    if (w->s.reading) make_structs(w, nslabs);
    number_structs(w);
    for (uint64_t i = 0; i < w->nspans && !w->s.status; i++) walk_span(w, w->spans[i], &next_page);
}

/* ---- lists of spans ---- */

/* One of a list, told by its distance from the one before. NULL: there is no such span. */
static mspan *walk_member(walk *w, mspan *s, uint32_t *last) {
    int64_t ahead = s ? (int64_t)s->number - (int64_t)*last - 1 : 0;
    stream_signed(&w->s, &ahead);
    uint64_t number = (uint64_t)*last + 1 + (uint64_t)ahead;
    if (number >= w->nspans) stream_wrong(&w->s, "there is no such span");
    if (w->s.status) return NULL;
    *last = (uint32_t)number;
    return w->spans[number];
}

static void append_to_set(walk *w, span_set *q, mspan *s, uint32_t class, int parity, bool full) {
    if (s->in_set[parity]) {
        stream_wrong(&w->s, "a span waits twice");
        return;
    }
    s->in_set[parity] = full ? 2 : 1;
    s->set_class[parity] = (uint8_t)class;
    s->set_prev[parity] = q->last;
    if (q->last) q->last->set_next[parity] = s;
    else q->first = s;
    q->last = s;
}

static void walk_set(walk *w, uint32_t class, int parity, bool full) {
    mcentral *c = &w->h->central[class];
    span_set *q = full ? &c->full[parity] : &c->partial[parity];
    uint32_t n = q->tail - q->head, last = UINT32_MAX;
    mspan *at = q->first;
    STREAM(&w->s, n, w->nspans);
    STREAM(&w->s, q->head, UINT32_MAX - n);
    q->tail = q->head + n;
    STREAM(&w->s, q->spine_len, UINT32_MAX);
    STREAM(&w->s, q->spine_cap, UINT32_MAX);
    for (uint32_t i = 0; i < n && !w->s.status; i++) {
        mspan *s = walk_member(w, at, &last);
        if (!w->s.reading) at = at->set_next[parity];
        else if (s) append_to_set(w, q, s, class, parity, full);
    }
}

static void walk_sets(walk *w) {
    for (uint32_t c = 0; c < NUM_SPAN_CLASSES; c++)
        for (int parity = 0; parity < 2; parity++)
            for (int full = 0; full < 2; full++) walk_set(w, c, parity, full);
}

static uint64_t count_list(const mspan *s) {
    uint64_t n = 0;
    for (; s; s = s->next) n++;
    return n;
}

/* A list by next. twoway: and by prev. fits tells whether a span that was read may be in it. */
static void walk_list(walk *w, mspan **list, bool twoway, bool (*fits)(const mspan *, uint32_t), uint32_t which) {
    uint64_t n = w->s.reading ? 0 : count_list(*list);
    uint32_t last_number = UINT32_MAX;
    mspan *at = *list, *last = NULL;
    STREAM(&w->s, n, w->nspans);
    for (uint64_t i = 0; i < n && !w->s.status; i++) {
        mspan *s = walk_member(w, at, &last_number);
        if (!w->s.reading) at = at->next;
        if (!w->s.reading || !s) continue;
        if (s->next || s->prev || s == last || s == *list || !fits(s, which)) {
            stream_wrong(&w->s, "a span is in a list that it cannot be in");
            return;
        }
        if (last) last->next = s;
        else *list = s;
        s->prev = twoway ? last : NULL;
        last = s;
    }
}

static bool is_dead(const mspan *s, uint32_t which) {
    (void)which;
    return s->state == SPAN_DEAD;
}

static bool in_pool(const mspan *s, uint32_t order) {
    return s->state == SPAN_MANUAL && s->kind == PYMEM_SPAN_STACK && s->nfree_stacks &&
           s->elem_size == (uint64_t)FIXED_STACK << order;
}

static bool is_large_stack(const mspan *s, uint32_t log) {
    return s->state == SPAN_MANUAL && s->kind == PYMEM_SPAN_STACK && !s->nfree_stacks && !s->alloc_count &&
           s->npages == 1ull << log && s->elem_size == s->npages << PAGE_SHIFT;
}

static void walk_lists(walk *w) {
    pymem_heap *h = w->h;
    walk_list(w, &h->free_spans, false, is_dead, 0);
    for (uint32_t i = 0; i < NUM_STACK_ORDERS; i++) walk_list(w, &h->stack_pool[i], true, in_pool, i);
    for (uint32_t i = 0; i < NUM_LARGE_STACKS; i++) walk_list(w, &h->stack_large[i], true, is_large_stack, i);
}

/* ---- processors ---- */

static void walk_span_number(walk *w, mspan **s, mspan *none) {
    uint64_t number = *s && *s != none ? (*s)->number + 1ull : 0;
    STREAM(&w->s, number, w->nspans);
    if (w->s.reading) *s = number ? w->spans[number - 1] : none;
}

static void walk_mcache(walk *w, mcache *c) {
    STREAM(&w->s, c->tiny, ANY);
    STREAM(&w->s, c->tiny_offset, TINY_SIZE);
    STREAM(&w->s, c->tiny_allocs, ANY);
    STREAM(&w->s, c->scan_alloc, ANY);
    walk_span_number(w, &c->tiny_span, NULL);
    STREAM(&w->s, c->tiny_slot, UINT16_MAX);
    for (uint32_t i = 0; i < NUM_STACK_ORDERS; i++) {
        STREAM(&w->s, c->stacks[i].n, STACK_CACHE_MAX);
        for (uint32_t k = 0; k < c->stacks[i].n; k++) STREAM(&w->s, c->stacks[i].list[k], ANY);
    }
    for (uint32_t i = 0; i < NUM_SPAN_CLASSES; i++) walk_span_number(w, &c->alloc[i], &empty_span);
}

static mcache *read_mcache(walk *w) {
    mcache *c = os_alloc(w->h, sizeof *c);
    if (!c) stream_no_memory(&w->s);
    for (uint32_t i = 0; c && i < NUM_SPAN_CLASSES; i++) c->alloc[i] = &empty_span;
    return c;
}

/* first: its cache is the one that the runtime started with. */
static void walk_proc(walk *w, proc *p) {
    pymem_heap *h = w->h;
    bool has = p->cache != NULL, first = has && p->cache == h->mcache0;
    STREAM(&w->s, p->pages.page, h->cur_page);
    STREAM(&w->s, p->pages.cache, ANY);
    STREAM(&w->s, p->pages.scav, ANY);
    walk_persistent(w, &p->palloc);
    STREAM(&w->s, p->mspans, MSPAN_CACHE);
    STREAM(&w->s, p->flush_gen, h->sweepgen);
    stream_signed(&w->s, &p->credit);
    STREAM(&w->s, p->paid, 1);
    STREAM(&w->s, has, 1);
    STREAM(&w->s, first, 1);
    if (w->s.reading && !w->s.status && has) {
        if (first && h->mcache0) stream_wrong(&w->s, "two first caches");
        p->cache = w->s.status ? NULL : read_mcache(w);
        if (first && p->cache) h->mcache0 = p->cache;
    }
    if (p->cache) walk_mcache(w, p->cache);
}

static void make_procs(walk *w, int32_t n) {
    pymem_heap *h = w->h;
    int32_t cap = 8;
    while (cap < n) cap *= 2;
    if ((uint64_t)n > stream_left(&w->s)) stream_wrong(&w->s, "more processors than bytes");
    h->procs = w->s.status ? NULL : os_alloc(h, (size_t)cap * sizeof *h->procs);
    if (!h->procs) stream_no_memory(&w->s);
    if (!h->procs) return;
    h->cap_procs = cap;
    h->nprocs = n;
}

static proc *read_proc(walk *w, int32_t i) {
    proc *p = os_alloc(w->h, sizeof *p);
    if (!p) stream_no_memory(&w->s);
    else p->has_p = true;
    return w->h->procs[i] = p;
}

static void walk_procs(walk *w) {
    pymem_heap *h = w->h;
    int32_t n = h->nprocs;
    STREAM(&w->s, n, 1 << 20);
    if (w->s.reading && n) make_procs(w, n);
    for (int32_t i = 0; i < h->nprocs && !w->s.status; i++) {
        bool has = h->procs[i] != NULL;
        STREAM(&w->s, has, 1);
        proc *p = w->s.reading && has ? read_proc(w, i) : h->procs[i];
        if (!p) continue;
        walk_proc(w, p);
        if (!p->cache) stream_wrong(&w->s, "a processor without a cache");
    }
    walk_proc(w, &h->no_p);
    if (h->no_p.cache && h->no_p.cache != h->mcache0) {
        os_free(h, h->no_p.cache, sizeof *h->no_p.cache);
        h->no_p.cache = NULL;
        stream_wrong(&w->s, "a cache without a processor");
    }
}

/* ---- the whole ---- */

static void walk_heap(walk *w) {
    walk_config(w);
    walk_cycle(w);
    walk_stats(w);
    walk_pages(w);
    snapshot_memory_on(w);
    walk_bits(w);
    walk_spans(w);
    walk_sets(w);
    walk_lists(w);
    walk_procs(w);
    snapshot_walk_memory(w);
}

static void walk_end(walk *w) {
    os_free(w->h, w->arenas, w->cap_arenas * sizeof *w->arenas);
    os_free(w->h, w->spans, w->spans ? (w->nspans + 1) * sizeof *w->spans : 0);
}

int snapshot_write(pymem_heap *h, char *out, uint64_t cap, uint64_t *need) {
    walk w = {.h = h, .s = {.h = h, .out = (uint8_t *)out, .end = cap}};
    walk_heap(&w);
    walk_end(&w);
    *need = w.s.at;
    return w.s.status;
}

/* The cache that birth has made is not the snapshot's. */
static void forget_birth(pymem_heap *h) {
    os_free(h, h->mcache0, sizeof *h->mcache0);
    h->mcache0 = h->no_p.cache = NULL;
}

int snapshot_read(pymem_heap *h, const char *data, uint64_t n) {
    walk w = {.h = h, .s = {.h = h, .in = (const uint8_t *)data, .end = n, .reading = true}};
    forget_birth(h);
    walk_heap(&w);
    if (!w.s.status && w.s.at != n) stream_wrong(&w.s, "there is more than a heap");
    if (!w.s.status) snapshot_check(&w);
    walk_end(&w);
    return w.s.status;
}
