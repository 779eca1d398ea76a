/* Marking by graph: who can be reached from the roots. The order of work is Go's on one P, because with its Green Tea
 * collector the count of scan work depends on it:
 *
 *   Objects of 16 to 512 bytes wait by page: a pointer to a white one sets its mark and its grey bit and queues the
 * page unless it waits already. When the page's turn comes all that has become grey is scanned at once. Other objects
 * wait one by one on a stack of work buffers. Buffers come first, then the 256 newest pages, then older ones.
 *
 * Scan work, in bytes: up to its last pointer word for an object scanned by itself or with few others of its page; the
 * whole slot where at least an eighth of the page's slots are scanned at once by vector instructions (packed).
 *
 * Marking stops the world no longer than a call takes. Meanwhile objects are born black, stores shade what they remove
 * and what they add, and a stack is scanned once. All memory that marking may need is taken at its start: only what is
 * white then can become grey, and that once. Go: mgcmark.go, mgcmark_greenteagc.go, mgcwork.go, mwbbuf.go */
#include <string.h>
#include "internal.h"

enum {
    RING = 256,        /* newest pages of the span queue */
    SPILL_PERIOD = 64, /* puts between looks at whether some should go to the chain */
    SPILL_MAX = 16,
    CHAIN_FIRST = 1024, /* pages in the first segment of the chain; each next one has twice as many */
    CHAIN_LAST = 1 << 17,
    WORK_BUF = 253, /* objects in a work buffer of 2 KB */
    OBLET = 128 << 10,
    ROOT_BLOCK = (256 << 10) / 8, /* globals scanned in one go, in words */
    PAGE_WORDS = PAGE_SIZE / 8,
    INFO_INLINE = (2 << 1) + PAGE_CLASS, /* first page info of a class of 16 to 512 bytes */
};

typedef unsigned long long ull;

typedef struct {
    uint64_t obj[WORK_BUF];
    uint32_t n;
} work_buf;

typedef struct {
    uint32_t cap, n;
} chain_segment;

typedef struct {
    uint32_t magic, size, eighth; /* of offsets in the span; bytes a slot; slots / 8 */
    uint32_t pairs;               /* words of mark bits, each followed by one of grey bits */
} class_info;

struct graph_mark {
    /* copies of what every step reads */
    uint64_t arena, extent; /* address of the first arena, and bytes mapped from there on */
    const object_memory *memory;
    class_info classes[256]; /* by page info */
    uint32_t inline_infos;   /* page infos from INFO_INLINE on that stand for 16 to 512 bytes */
    bool packed;
    pymem_mark_totals *sum;
    uint64_t bad, bad_from; /* the first bad pointer and where it was; 0: none */

    /* pages that hold grey objects: a ring for the newest, a chain of segments for the rest, both first in first out */
    uint32_t ring[RING], head, tail, puts;
    uint32_t *chain;
    uint64_t chain_mask, chain_head, chain_tail; /* a power of two, less one; pages ever taken and put */
    chain_segment *segments;
    uint32_t cap_segments, first_segment, nsegments;

    /* other grey objects: two buffers, and the full ones, all their objects in one array */
    work_buf bufs[2], *wbuf1, *wbuf2;
    uint64_t *full;
    uint32_t *full_n; /* objects of each full buffer */
    uint64_t cap_full, nfull, full_top;

    /* the next root to scan: globals by id, then stacks by id */
    bool stacks;
    uint32_t root;
    uint64_t block;

    uint64_t buf[PAGE_WORDS]; /* pointers found on a page */
};

/* ---- pages that wait ---- */

static chain_segment *segment(graph_mark *g, uint32_t k) {
    return &g->segments[(g->first_segment + k) % g->cap_segments];
}

static bool chain_is_empty(const graph_mark *g) { return g->chain_head == g->chain_tail; }

/* The n oldest pages of the ring go to the newest segment of the chain, or to one more. Go: (*spanQueue).drain */
static void spill(graph_mark *g, uint32_t n) {
    g->puts = 0;
    if (!g->nsegments) *segment(g, g->nsegments++) = (chain_segment){CHAIN_FIRST, 0};
    chain_segment *newest = segment(g, g->nsegments - 1);
    if (newest->n + n > newest->cap) {
        uint32_t cap = newest->cap < CHAIN_LAST ? 2 * newest->cap : CHAIN_LAST;
        newest = segment(g, g->nsegments++);
        *newest = (chain_segment){cap, 0};
    }
    for (uint32_t i = 0; i < n; i++) g->chain[g->chain_tail++ & g->chain_mask] = g->ring[g->head++ % RING];
    newest->n += n;
}

/* Go: (*spanQueue).put */
static inline void queue_put(graph_mark *g, uint32_t page) {
    uint32_t n = g->tail - g->head;
    if (n == RING) spill(g, RING / 2);
    g->ring[g->tail++ % RING] = page;
    if (n == RING || ++g->puts < SPILL_PERIOD) return;
    g->puts = 0;
    uint32_t spilt = (n + 1) / 2 < SPILL_MAX ? (n + 1) / 2 : SPILL_MAX;
    if (spilt > 4 && chain_is_empty(g)) spill(g, spilt);
}

/* Half of the oldest segment that has any comes back to the ring. Go: (*spanQueue).refill, steal */
static bool queue_refill(graph_mark *g) {
    for (; g->nsegments; g->first_segment++, g->nsegments--) {
        chain_segment *oldest = segment(g, 0);
        uint32_t n = oldest->n - oldest->n / 2;
        if (n == 0 && g->nsegments == 1) return false;
        if (n == 0) continue;
        if (n > RING / 2) n = RING / 2;
        for (uint32_t i = 0; i < n; i++) g->ring[i] = g->chain[g->chain_head++ & g->chain_mask];
        oldest->n -= n;
        g->head = 0;
        g->tail = n;
        return true;
    }
    return false;
}

/* ---- objects that wait ---- */

static void put_full(graph_mark *g, work_buf *b) {
    memcpy(&g->full[g->full_top], b->obj, b->n * sizeof *b->obj);
    g->full_top += b->n;
    g->full_n[g->nfull++] = b->n;
    b->n = 0;
}

static bool get_full(graph_mark *g, work_buf *b) {
    if (!g->nfull) return false;
    b->n = g->full_n[--g->nfull];
    g->full_top -= b->n;
    memcpy(b->obj, &g->full[g->full_top], b->n * sizeof *b->obj);
    return true;
}

static void swap_bufs(graph_mark *g) {
    work_buf *b = g->wbuf1;
    g->wbuf1 = g->wbuf2;
    g->wbuf2 = b;
}

/* Go: (*gcWork).putObj */
static void put_object(graph_mark *g, uint64_t addr) {
    if (g->wbuf1->n == WORK_BUF) swap_bufs(g);
    if (g->wbuf1->n == WORK_BUF) put_full(g, g->wbuf1);
    g->wbuf1->obj[g->wbuf1->n++] = addr;
}

/* Go: (*gcWork).tryGetObj; 0: nothing waits */
static uint64_t get_object(graph_mark *g) {
    if (!g->wbuf1->n) swap_bufs(g);
    if (!g->wbuf1->n && !get_full(g, g->wbuf1)) return 0;
    return g->wbuf1->obj[--g->wbuf1->n];
}

/* Something to share for other workers, had there been any. Go: (*gcWork).balance, handoff */
static inline void balance(graph_mark *g) {
    if (g->nfull) return;
    if (g->wbuf2->n) {
        put_full(g, g->wbuf2);
    } else if (g->wbuf1->n > 4) {
        work_buf *b = g->wbuf1;
        uint32_t n = b->n / 2, left = b->n - n;
        uint64_t kept[WORK_BUF];
        memcpy(kept, &b->obj[left], n * sizeof *kept);
        b->n = left;
        put_full(g, b);
        memcpy(b->obj, kept, n * sizeof *kept);
        b->n = n;
    }
}

/* ---- white becomes grey ---- */

static void bad_pointer(graph_mark *g, uint64_t addr) {
    if (!g->bad) g->bad = addr;
}

static void count_black(graph_mark *g, uint64_t objects, uint64_t bytes) {
    g->sum->objects_marked += objects;
    g->sum->bytes_marked += bytes;
}

/* The page where the span begins that has the address in its slots. Large spans are looked up, they are few. */
static bool find_slot(pymem_heap *h, uint64_t addr, uint64_t *page, uint32_t *slot, const class_info **class) {
    const object_memory *m = h->memory;
    *page = page_of(h, addr);
    *slot = 0;
    uint32_t info = m->info[*page];
    *class = &h->mark->classes[info & 255];
    if ((info & 255) < PAGE_CLASS) return false;
    if ((info & 255) < PAGE_CLASS + 2) {
        *page = page_of(h, span_at(h, *page)->base);
        return true;
    }
    *page -= info >> 8;
    *slot = (uint32_t)((addr - page_addr(h, *page)) * (*class)->magic >> 32);
    return *slot < (*class)->pairs;
}

/* An object that waits by itself. Its class's pairs are its slots. Go: findObject, greyobject */
static void grey_alone(pymem_heap *h, uint64_t addr) {
    graph_mark *g = h->mark;
    const object_memory *m = g->memory;
    uint64_t page;
    uint32_t slot;
    const class_info *c;
    if (m->info[page_of(h, addr)] == PAGE_MANUAL) return;
    if (!find_slot(h, addr, &page, &slot, &c)) {
        bad_pointer(g, addr);
        return;
    }
    uint64_t *word = &m->bits[page][slot >> 6], bit = 1ull << (slot & 63);
    if (*word & bit) return;
    *word |= bit;
    m->state[page] |= PAGE_MARKED;
    uint32_t info = m->info[page];
    uint64_t size = c->size ? c->size : span_at(h, page)->elem_size;
    if (info & 1) count_black(g, 1, size);
    else put_object(g, page_addr(h, page) + slot * size);
}

/* Go: tryDeferToSpanScan. It leaves the span's bit in pageMarks alone, which only the reclaimer sees. */
static inline void grey(pymem_heap *h, graph_mark *g, uint64_t addr) {
    uint64_t off = addr - g->arena;
    if (off >= g->extent) return;
    uint64_t page = off >> PAGE_SHIFT;
    uint32_t info = g->memory->info[page];
    if (info - INFO_INLINE >= g->inline_infos) {
        grey_alone(h, addr);
        return;
    }
    const class_info *c = &g->classes[info];
    uint32_t slot = (uint32_t)((off & (PAGE_SIZE - 1)) * c->magic >> 32);
    uint64_t *pair = &g->memory->bits[page][slot >> 6 << 1], bit = 1ull << (slot & 63);
    if (pair[0] & bit) return;
    pair[0] |= bit;
    if (info & 1) {
        count_black(g, 1, c->size);
        return;
    }
    pair[1] |= bit;
    if (g->memory->state[page] & PAGE_QUEUED) return;
    g->memory->state[page] |= PAGE_QUEUED;
    queue_put(g, (uint32_t)page);
}

/* ---- grey becomes black: a page ---- */

static uint32_t bit_length(uint64_t x) { return x ? 64 - (uint32_t)__builtin_clzll(x) : 0; }

/* Reads the pointers of one object into out; returns how many are not nil. */
static inline uint32_t read_pointers(const uint64_t *object, uint64_t mask, uint64_t *out) {
    uint32_t n = 0;
    for (; mask; mask &= mask - 1) {
        uint64_t p = object[__builtin_ctzll(mask)];
        out[n] = p;
        n += p != 0;
    }
    return n;
}

/* The grey objects of one word of bits; work: the bytes up to their last pointers. */
static uint32_t scan_bits(graph_mark *g, uint64_t page, uint32_t first, uint64_t bits, const class_info *c,
                          uint64_t *out, int64_t *work) {
    const object_memory *m = g->memory;
    const char *base = m->base + (page << PAGE_SHIFT);
    bool mixed = m->state[page] & PAGE_MIXED;
    uint64_t mask = m->mask[page];
    uint32_t n = 0;
    for (; bits; bits &= bits - 1) {
        uint32_t slot = first + (uint32_t)__builtin_ctzll(bits);
        if (mixed) mask = memory_read_bits(m, page, c->size, slot);
        *work += bit_length(mask) * 8;
        n += read_pointers((const uint64_t *)(base + (uint64_t)slot * c->size), mask, out + n);
    }
    return n;
}

/* Go: scanSpan */
static void scan_page(pymem_heap *h, graph_mark *g, uint64_t page) {
    const object_memory *m = g->memory;
    const class_info *c = &g->classes[m->info[page]];
    uint64_t *bits = m->bits[page];
    uint32_t n = 0, count = 0;
    int64_t work = 0;
    for (uint32_t i = 0; i < c->pairs; i++) {
        uint64_t found = bits[2 * i + 1];
        if (!found) continue;
        bits[2 * i + 1] = 0;
        count += (uint32_t)__builtin_popcountll(found);
        n += scan_bits(g, page, i * 64, found, c, g->buf + n, &work);
    }
    m->state[page] = (uint8_t)((m->state[page] & ~PAGE_QUEUED) | (count > 1 ? PAGE_MARKED : 0));
    if (g->packed && count > 1 && count >= c->eighth) work = (int64_t)count * c->size;
    g->sum->heap_scan += (uint64_t)work;
    count_black(g, count, (uint64_t)count * c->size);
    for (uint32_t i = 0; i < n; i++) grey(h, g, g->buf[i]);
}

/* ---- grey becomes black: an object by itself ---- */

static inline uint64_t *words_at(const graph_mark *g, uint64_t addr) {
    return (uint64_t *)(g->memory->base + (addr - g->arena));
}

/* Every word of [from, to) */
static uint64_t scan_words(pymem_heap *h, graph_mark *g, uint64_t from, uint64_t to) {
    const uint64_t *p = words_at(g, from);
    for (uint64_t i = 0; i < (to - from) / 8; i++)
        if (p[i]) grey(h, g, p[i]);
    return to;
}

/* The pointer words in [from, to) of the element at elem; returns the end of the last one, or last. */
static uint64_t scan_element(pymem_heap *h, graph_mark *g, const type_map *t, uint64_t elem, uint64_t from, uint64_t to,
                             uint64_t last) {
    for (uint64_t w = 0; w < t->words; w++) {
        for (uint64_t mask = t->mask[w]; mask; mask &= mask - 1) {
            uint64_t at = elem + (w * 64 + (uint64_t)__builtin_ctzll(mask)) * 8;
            if (at < from) continue;
            if (at >= to) return last;
            last = at + 8;
            uint64_t p = *words_at(g, at);
            if (p) grey(h, g, p);
        }
    }
    return last;
}

/* What lies in [from, to) of an array of t that begins at start. Returns the end of the last pointer word, or from. */
static uint64_t scan_range(pymem_heap *h, graph_mark *g, const type_map *t, uint64_t start, uint64_t from,
                           uint64_t to) {
    if (!t || (t->size == 8 && t->ptrdata == 8)) return scan_words(h, g, from, to);
    uint64_t last = from;
    if (!t->ptrdata) return last;
    for (uint64_t elem = start + (from - start) / t->size * t->size; elem < to; elem += t->size)
        last = scan_element(h, g, t, elem, from, to, last);
    return last;
}

/* A large object waits oblet by oblet, so that no step takes long. */
static uint64_t scan_large(pymem_heap *h, graph_mark *g, const mspan *s, uint64_t b, uint64_t *bytes) {
    uint64_t end = s->base + s->elem_size;
    if (b == s->base)
        for (uint64_t oblet = b + OBLET; oblet < end; oblet += OBLET) put_object(g, oblet);
    *bytes = end - b < OBLET ? end - b : OBLET;
    return scan_range(h, g, memory_type(h, s->large_type), s->base, b, b + *bytes);
}

/* Go: scanObject */
static void scan_object(pymem_heap *h, graph_mark *g, uint64_t b) {
    const mspan *s = span_at(h, (b - g->arena) >> PAGE_SHIFT);
    uint64_t bytes = s->elem_size, end;
    if (!(s->span_class >> 1)) end = scan_large(h, g, s, b, &bytes);
    else if (bytes == 8) end = scan_words(h, g, b, b + 8);
    else end = scan_range(h, g, memory_type(h, *words_at(g, b)), b + 8, b + 8, b + bytes);
    if (end == b + 8 && bytes > 8 && s->span_class >> 1) end = b; /* a header and no pointer */
    g->sum->heap_scan += end - b;
    count_black(g, s->base == b || s->span_class >> 1, bytes);
}

/* ---- roots ---- */

/* Go: markrootBlock, scanstack */
static uint64_t scan_roots(pymem_heap *h, graph_mark *g, const root_set *r, uint64_t first, uint64_t n) {
    for (uint64_t i = first; i < first + n; i++)
        if (r->addrs[i]) grey(h, g, r->addrs[i]);
    return n * 8;
}

static root_set *next_root(graph_mark *g) {
    const object_memory *m = g->memory;
    for (;; g->root++) {
        if (g->root >= m->nroots) {
            if (g->stacks) return NULL;
            g->stacks = true;
            g->root = 0;
        }
        if (g->root < m->nroots && m->roots[g->root].used && m->roots[g->root].stack == g->stacks &&
            !m->roots[g->root].scanned)
            return &m->roots[g->root];
    }
}

/* One block of globals or one stack. Go: markroot */
static bool scan_next_root(pymem_heap *h, graph_mark *g) {
    root_set *r = next_root(g);
    if (!r) return false;
    uint64_t first = r->stack ? 0 : g->block, n = r->n - first;
    if (r->n < first) first = n = 0;
    if (!r->stack && n > ROOT_BLOCK) n = ROOT_BLOCK;
    g->block = first + n;
    r->scanned = first + n >= r->n;
    if (r->scanned) g->block = 0;
    uint64_t bytes = scan_roots(h, g, r, first, n);
    *(r->stack ? &g->sum->stack_scan : &g->sum->globals_scan) += bytes;
    return true;
}

/* ---- draining ---- */

/* One step: an object of the first buffer, a new page, an object, an old page. Go: the loop of gcDrain */
static bool scan_next(pymem_heap *h, graph_mark *g) {
    balance(g);
    uint64_t b = g->wbuf1->n ? g->wbuf1->obj[--g->wbuf1->n] : 0;
    if (!b && g->tail == g->head) {
        b = get_object(g);
        if (!b && !queue_refill(g)) return false;
    }
    if (b) scan_object(h, g, b);
    else scan_page(h, g, g->ring[g->head++ % RING]);
    return true;
}

static uint64_t work_of(const pymem_mark_totals *t) { return t->heap_scan + t->stack_scan + t->globals_scan; }

bool mark_is_idle(const pymem_heap *h) {
    graph_mark *g = h->mark;
    return g->tail == g->head && chain_is_empty(g) && !g->wbuf1->n && !g->wbuf2->n && !g->nfull && !next_root(g);
}

int mark_graph_drain(pymem_heap *h, int64_t budget, pymem_mark_progress *out) {
    graph_mark *g = h->mark;
    pymem_mark_totals before = h->marks;
    uint64_t until = work_of(&before) + (budget > 0 ? (uint64_t)budget : 0);
    g->extent = h->cur_page << PAGE_SHIFT;
    while (work_of(&h->marks) < until && !g->bad && scan_next_root(h, g)) continue;
    while (work_of(&h->marks) < until && !g->bad && scan_next(h, g)) continue;
    *out = (pymem_mark_progress){.heap_scan = (int64_t)(h->marks.heap_scan - before.heap_scan),
                                 .stack_scan = (int64_t)(h->marks.stack_scan - before.stack_scan),
                                 .globals_scan = (int64_t)(h->marks.globals_scan - before.globals_scan),
                                 .objects = h->marks.objects_marked - before.objects_marked,
                                 .idle = mark_is_idle(h)};
    if (!g->bad) return PYMEM_OK;
    return fail(h, PYMEM_ETHROW, "found bad pointer in Go heap: 0x%llx is in no span of objects", (ull)g->bad);
}

/* ---- the barrier, and objects born black ---- */

/* What a store removes and what it adds become grey. Go keeps up to 512 of them in a buffer first. Go: wbBufFlush1 */
void mark_barrier(pymem_heap *h, uint64_t old, uint64_t target) {
    graph_mark *g = h->mark;
    g->extent = h->cur_page << PAGE_SHIFT;
    if (old) grey(h, g, old);
    if (target) grey(h, g, target);
}

static uint64_t *mark_word(const object_memory *m, uint64_t page, const mspan *s, uint32_t slot) {
    bool by_page = s->elem_size >= 16 && s->elem_size <= MIN_HEADER_SIZE && s->span_class >> 1;
    return &m->bits[page][by_page ? slot >> 6 << 1 : slot >> 6];
}

bool mark_is_marked(const pymem_heap *h, const mspan *s, uint32_t slot) {
    return *mark_word(h->memory, page_of(h, s->base), s, slot) >> (slot & 63) & 1;
}

/* Go: gcmarknewobject */
void mark_new_object(pymem_heap *h, mspan *s, uint32_t slot) {
    uint64_t page = page_of(h, s->base);
    *mark_word(h->memory, page, s, slot) |= 1ull << (slot & 63);
    h->memory->state[page] |= PAGE_MARKED;
}

/* ---- start ---- */

static void fill_classes(graph_mark *g) {
    const size_classes *t = size_classes_go();
    for (uint32_t sc = 2; sc < NUM_SPAN_CLASSES; sc++) {
        class_info *c = &g->classes[sc + PAGE_CLASS];
        c->magic = t->div_magic[sc >> 1];
        c->size = t->size[sc >> 1];
        c->eighth = t->nelems[sc] / 8u;
        c->pairs = t->nelems[sc]; /* of those that wait alone */
        if (c->size < 16 || c->size > MIN_HEADER_SIZE) continue;
        c->pairs = bit_words(PAGE_SIZE / c->size);
        g->inline_infos = sc + PAGE_CLASS + 1 - INFO_INLINE;
    }
    g->classes[PAGE_CLASS].pairs = g->classes[PAGE_CLASS + 1].pairs = 1;
}

/* How many pages, and how many objects and oblets, may have to wait at most. */
static void count_waiting(const pymem_heap *h, uint64_t *pages, uint64_t *objects) {
    *pages = *objects = 0;
    for (const mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++) {
            const mspan *s = &slab->spans[i];
            if (s->state != SPAN_IN_USE || s->span_class & 1) continue;
            if (!(s->span_class >> 1)) *objects += s->elem_size / OBLET + 1;
            else if (s->elem_size < 16 || s->elem_size > MIN_HEADER_SIZE) *objects += s->nelems;
            else ++*pages;
        }
}

static void *table(pymem_heap *h, uint64_t n, size_t size) { return os_alloc(h, n * size); }

static void free_tables(pymem_heap *h, graph_mark *g) {
    os_free(h, g->chain, (g->chain_mask + 1) * sizeof *g->chain);
    os_free(h, g->segments, g->cap_segments * sizeof *g->segments);
    os_free(h, g->full, g->cap_full * sizeof *g->full);
    os_free(h, g->full_n, g->cap_full * sizeof *g->full_n);
    os_free(h, g, sizeof *g);
}

static bool alloc_tables(pymem_heap *h, graph_mark *g) {
    uint64_t pages, objects, cap = RING;
    count_waiting(h, &pages, &objects);
    while (cap < pages) cap *= 2;
    g->chain_mask = cap - 1;
    g->cap_segments = (uint32_t)(cap / CHAIN_LAST * 2 + 16);
    g->cap_full = objects + WORK_BUF;
    g->chain = table(h, cap, sizeof *g->chain);
    g->segments = table(h, g->cap_segments, sizeof *g->segments);
    g->full = table(h, g->cap_full, sizeof *g->full);
    g->full_n = table(h, g->cap_full, sizeof *g->full_n);
    return g->chain && g->segments && g->full && g->full_n;
}

/* Go: gcMarkTinyAllocs */
static void grey_tiny_blocks(pymem_heap *h, graph_mark *g) {
    for (int32_t i = 0; i < h->nprocs; i++)
        if (h->procs[i] && h->procs[i]->cache->tiny) grey(h, g, h->procs[i]->cache->tiny);
    if (h->no_p.cache && h->no_p.cache->tiny) grey(h, g, h->no_p.cache->tiny);
}

int mark_graph_reserve(pymem_heap *h) {
    int rc = memory_on(h);
    if (rc) return rc;
    graph_mark *g = os_alloc(h, sizeof *g);
    if (!g || !alloc_tables(h, g)) {
        if (g) free_tables(h, g);
        return fail(h, PYMEM_ENOMEM, "no memory for the queues of a mark");
    }
    g->arena = h->config.arena_base;
    g->extent = h->cur_page << PAGE_SHIFT;
    g->memory = h->memory;
    g->packed = !h->config.scan_sparse;
    g->sum = &h->marks;
    g->wbuf1 = &g->bufs[0];
    g->wbuf2 = &g->bufs[1];
    fill_classes(g);
    h->mark = g;
    return PYMEM_OK;
}

void mark_graph_start(pymem_heap *h) {
    for (uint32_t i = 0; i < h->memory->nroots; i++) h->memory->roots[i].scanned = 0;
    grey_tiny_blocks(h, h->mark);
}

void mark_release(pymem_heap *h) {
    if (h->mark) free_tables(h, h->mark);
    h->mark = NULL;
}

/* ---- a mark under way as a value ---- */

static uint64_t ring_entry_page(uint64_t entry) { return entry; }

/* A page that waits does so once, and is one of those that wait. Its state, as it was read, says that it waits. */
static bool page_may_wait(const pymem_heap *h, uint64_t page) {
    const object_memory *m = h->memory;
    return page < h->cur_page && m->info[page] - (uint32_t)INFO_INLINE < h->mark->inline_infos &&
           !(m->info[page] & 1) && m->state[page] & PAGE_QUEUED;
}

/* Entries of the ring and the chain, oldest first. seen: a bit a page. */
static void stream_page(pymem_heap *h, stream *s, uint32_t *entry, uint64_t *seen) {
    STREAM(s, *entry, UINT32_MAX);
    if (!s->reading || s->status) return;
    uint64_t page = ring_entry_page(*entry);
    if (!page_may_wait(h, page) || bit_get(seen, (uint32_t)page)) stream_wrong(s, "a page waits that cannot");
    else bit_set(seen, (uint32_t)page);
}

static void stream_ring(pymem_heap *h, stream *s, uint64_t *seen) {
    graph_mark *g = h->mark;
    uint32_t n = g->tail - g->head;
    STREAM(s, n, RING);
    if (s->reading) g->tail = n;
    for (uint32_t i = 0; i < n; i++) stream_page(h, s, &g->ring[(g->head + i) % RING], seen);
    STREAM(s, g->puts, SPILL_PERIOD);
}

/* Between the oldest and the newest segment all are nearly full, and each has room for twice as many as the one before:
 * so they cannot be more than there is room for. */
static void stream_segments(graph_mark *g, stream *s) {
    uint32_t n = g->nsegments, last = CHAIN_FIRST / 2;
    STREAM(s, n, g->cap_segments - 2);
    g->nsegments = n;
    for (uint32_t k = 0; k < n; k++) {
        chain_segment *c = segment(g, k);
        STREAM(s, c->cap, CHAIN_LAST);
        STREAM(s, c->n, c->cap);
        bool grows = k == 0 ? c->cap >= CHAIN_FIRST : c->cap == (last < CHAIN_LAST ? 2 * last : CHAIN_LAST);
        bool full = k == 0 || k == n - 1 || c->n + RING > c->cap;
        if (s->reading && (!grows || !full)) stream_wrong(s, "a queue that cannot have come about");
        last = c->cap;
        if (s->reading) g->chain_tail += c->n;
    }
    if (s->reading && g->chain_tail > g->chain_mask + 1) stream_wrong(s, "more pages wait than there are");
}

static void stream_chain(pymem_heap *h, stream *s, uint64_t *seen) {
    graph_mark *g = h->mark;
    stream_segments(g, s);
    for (uint64_t i = g->chain_head; i != g->chain_tail && !s->status; i++)
        stream_page(h, s, &g->chain[i & g->chain_mask], seen);
}

/* An object that waits by itself has its mark, which is taken off here so that it is found but once; or a large one's
 * further oblet. */
static bool object_may_wait(pymem_heap *h, uint64_t addr) {
    const mspan *span = mheap_span_of(h, addr);
    if (!span || span->state != SPAN_IN_USE || span->span_class & 1) return false;
    if (!(span->span_class >> 1) && addr > span->base)
        return (addr - span->base) % OBLET == 0 && addr - span->base < span->elem_size;
    uint32_t slot = span_slot_of(span, addr), info = h->memory->info[page_of(h, span->base)];
    if (info - (uint32_t)INFO_INLINE < h->mark->inline_infos || slot >= span->nelems) return false;
    uint64_t *word = mark_word(h->memory, page_of(h, span->base), span, slot), bit = 1ull << (slot & 63);
    bool marked = addr == span->base + slot * span->elem_size && *word & bit;
    *word &= ~bit;
    return marked;
}

static void stream_objects(pymem_heap *h, stream *s, uint64_t *addrs, uint32_t n) {
    for (uint32_t i = 0; i < n && !s->status; i++) {
        STREAM(s, addrs[i], UINT64_MAX);
        if (s->reading && !s->status && !object_may_wait(h, addrs[i])) stream_wrong(s, "an object waits that cannot");
    }
}

static void remark(pymem_heap *h, const uint64_t *addrs, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        const mspan *span = mheap_span_of(h, addrs[i]);
        uint32_t slot = span_slot_of(span, addrs[i]);
        *mark_word(h->memory, page_of(h, span->base), span, slot) |= 1ull << (slot & 63);
    }
}

static void stream_buf(pymem_heap *h, stream *s, work_buf *b) {
    STREAM(s, b->n, WORK_BUF);
    stream_objects(h, s, b->obj, b->n);
}

/* Oblets may repeat in a file that lies: so there is room for all that it names beside all that may yet come. */
static bool grow_full(pymem_heap *h, graph_mark *g, uint64_t more) {
    uint64_t cap = g->cap_full + more;
    uint64_t *full = os_grow(h, g->full, g->cap_full * sizeof *full, cap * sizeof *full);
    if (full) g->full = full;
    uint32_t *full_n = full ? os_grow(h, g->full_n, g->cap_full * sizeof *full_n, cap * sizeof *full_n) : NULL;
    if (full_n) g->full_n = full_n;
    if (full_n) g->cap_full = cap;
    return full_n;
}

static void stream_full(pymem_heap *h, stream *s) {
    graph_mark *g = h->mark;
    uint64_t nfull = g->nfull, objects = g->full_top, at = 0;
    STREAM(s, nfull, UINT32_MAX);
    STREAM(s, objects, UINT64_MAX);
    if (s->reading && (objects > stream_left(s) || nfull > stream_left(s))) stream_wrong(s, "more waits than bytes");
    if (s->reading && !s->status && !grow_full(h, g, objects + nfull + 2 * WORK_BUF)) stream_no_memory(s);
    for (uint64_t i = 0; i < nfull && !s->status; i++) {
        STREAM(s, g->full_n[i], WORK_BUF);
        if (g->full_n[i] > objects - at) stream_wrong(s, "buffers hold more than there is");
        if (s->status) return;
        stream_objects(h, s, &g->full[at], g->full_n[i]);
        at += g->full_n[i];
    }
    if (at != objects) stream_wrong(s, "buffers hold less than there is");
    if (s->status) return;
    g->nfull = nfull;
    g->full_top = at;
}

static void stream_waiting(pymem_heap *h, stream *s) {
    graph_mark *g = h->mark;
    stream_buf(h, s, g->wbuf1);
    stream_buf(h, s, g->wbuf2);
    stream_full(h, s);
    if (!s->reading || s->status) return;
    remark(h, g->wbuf1->obj, g->wbuf1->n);
    remark(h, g->wbuf2->obj, g->wbuf2->n);
    remark(h, g->full, g->full_top);
}

void mark_stream(pymem_heap *h, stream *s) {
    graph_mark *g = h->mark;
    uint64_t words = h->cur_page / 64 + 1, *seen = os_alloc(h, words * sizeof *seen);
    if (!seen) {
        stream_no_memory(s);
        return;
    }
    STREAM(s, g->bad, UINT64_MAX);
    STREAM(s, g->stacks, 1);
    STREAM(s, g->root, UINT32_MAX);
    STREAM(s, g->block, UINT64_MAX);
    stream_ring(h, s, seen);
    stream_chain(h, s, seen);
    os_free(h, seen, words * sizeof *seen);
    stream_waiting(h, s);
}

/* ---- stop: marks go where the sweep looks for them ---- */

static uint64_t allocated_bits(const mspan *s, uint32_t w) {
    if (s->freeindex >= (w + 1) * 64) return UINT64_MAX;
    return s->alloc_bits[w] | (s->freeindex > w * 64 ? (1ull << (s->freeindex - w * 64)) - 1 : 0);
}

/* A mark on what is no object was left by a bad pointer; it is dropped. */
static bool settle_marks(pymem_heap *h, mspan *s) {
    object_memory *m = h->memory;
    uint64_t page = page_of(h, s->base), bad = 0;
    for (uint32_t w = 0; w < bit_words(s->nelems); w++) {
        uint64_t marks = *mark_word(m, page, s, w * 64), used = allocated_bits(s, w);
        s->mark_bits[w] = marks & used;
        bad |= marks & ~used;
    }
    memset(m->bits[page], 0, sizeof m->bits[page]);
    s->page_mark = (m->state[page] & PAGE_MARKED) != 0;
    m->state[page] &= (uint8_t)~(PAGE_MARKED | PAGE_QUEUED);
    h->last_mark.objects_before += s->alloc_count;
    h->last_mark.bytes_before += s->alloc_count * s->elem_size;
    return !bad;
}

/* It must be idle. */
int mark_graph_stop(pymem_heap *h) {
    const mspan *bad = NULL;
    h->last_mark = (pymem_cycle){0};
    for (mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++)
            if (slab->spans[i].state == SPAN_IN_USE && !settle_marks(h, &slab->spans[i])) bad = &slab->spans[i];
    mark_release(h);
    if (!bad) return PYMEM_OK;
    return fail(h, PYMEM_ETHROW, "found bad pointer in Go heap: a free slot of the span at 0x%llx was reached",
                (ull)bad->base);
}

/* ---- sets of roots ---- */

root_set *roots_of(pymem_heap *h, uint32_t id) {
    if (h->memory && id < h->memory->nroots && h->memory->roots[id].used) return &h->memory->roots[id];
    fail(h, PYMEM_EINVAL, "there is no set of roots %u", id);
    return NULL;
}

static int roots_reserve(pymem_heap *h, uint32_t *id) {
    object_memory *m = h->memory;
    for (*id = 0; *id < m->nroots; ++*id)
        if (!m->roots[*id].used) return PYMEM_OK;
    uint32_t n = m->nroots ? 2 * m->nroots : 16;
    void *q = os_grow(h, m->roots, m->nroots * sizeof *m->roots, n * sizeof *m->roots);
    if (!q) return fail(h, PYMEM_ENOMEM, "no memory for sets of roots");
    m->roots = q;
    m->nroots = n;
    return PYMEM_OK;
}

/* One that is made while marking has nothing to scan. */
int roots_new(pymem_heap *h, bool stack, uint32_t *id) {
    int rc = memory_on(h);
    if (!rc) rc = roots_reserve(h, id);
    if (!rc) h->memory->roots[*id] = (root_set){.used = 1, .stack = stack, .scanned = h->mark != NULL};
    return rc;
}

static int targets_check(pymem_heap *h, const uint64_t *addrs, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        if (!memory_is_target(h, addrs[i]))
            return fail(h, PYMEM_EADDRESS, "0x%llx is no living object's address, so it is no root", (ull)addrs[i]);
    return PYMEM_OK;
}

/* Globals have the whole barrier. A stack has none before its scan; after it what is new there is shaded, which a
 * program that got it from the heap or from another stack's scan would not need. */
static void roots_barrier(pymem_heap *h, const root_set *r, uint64_t first, const uint64_t *addrs, uint64_t n) {
    if (!h->mark || (r->stack && !r->scanned)) return;
    for (uint64_t i = 0; i < n; i++) mark_barrier(h, r->stack ? 0 : r->addrs[first + i], addrs ? addrs[i] : 0);
}

int roots_set(pymem_heap *h, uint32_t id, uint64_t first, const uint64_t *addrs, uint64_t n) {
    root_set *r = roots_of(h, id);
    if (!r) return PYMEM_EINVAL;
    if (first > r->n || n > r->n - first)
        return fail(h, PYMEM_EINVAL, "set of roots %u has %llu places: %llu from %llu on are too many", id, (ull)r->n,
                    (ull)n, (ull)first);
    int rc = targets_check(h, addrs, n);
    if (rc) return rc;
    roots_barrier(h, r, first, addrs, n);
    if (n) memcpy(r->addrs + first, addrs, n * sizeof *addrs);
    return PYMEM_OK;
}

int roots_resize(pymem_heap *h, uint32_t id, uint64_t n) {
    root_set *r = roots_of(h, id);
    if (!r) return PYMEM_EINVAL;
    uint64_t *q = os_alloc(h, n * sizeof *q + 8);
    if (!q) return fail(h, PYMEM_ENOMEM, "no memory for %llu roots", (ull)n);
    if (n < r->n) roots_barrier(h, r, n, NULL, r->n - n);
    uint64_t kept = n < r->n ? n : r->n;
    if (kept) memcpy(q, r->addrs, kept * sizeof *q);
    os_free(h, r->addrs, r->n * sizeof *q + 8);
    r->addrs = q;
    r->n = n;
    return PYMEM_OK;
}

int roots_free(pymem_heap *h, uint32_t id) {
    root_set *r = roots_of(h, id);
    if (!r) return PYMEM_EINVAL;
    roots_barrier(h, r, 0, NULL, r->n);
    os_free(h, r->addrs, r->n * sizeof *r->addrs + 8);
    *r = (root_set){0};
    return PYMEM_OK;
}
