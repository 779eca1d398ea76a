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
 * Where all small objects with pointers are pointers to their end, order cannot matter: then a page is gone through at
 * once (mgcpage.c). bench/vs_go_mark.py: a tree of 8 million nodes in 3.9 ns a node where real Go takes 17.7.
 *
 * Marking stops the world no longer than a call takes. Meanwhile objects are born black, stores shade what they remove
 * and what they add, and a stack is scanned once. All memory that marking may need is taken at its start: only what is
 * white then can become grey, and that once. Go: mgcmark.go, mgcmark_greenteagc.go, mgcwork.go, mwbbuf.go */
#include <string.h>
#include "mgcwork.h"

enum {
    ROOT_BLOCK = (256 << 10) / 8, /* globals scanned in one go, in words */
    MOSTLY_LOCAL = 8,             /* objects of a page for one pointer out of it */
};

typedef unsigned long long ull;

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

/* What a loop has blackened at once because it holds no pointers: kept in registers until the loop ends. */
typedef struct {
    uint64_t objects, bytes;
} black_count;

static void count_blacks(graph_mark *g, black_count b) { count_black(g, b.objects, b.bytes); }

/* Go: tryDeferToSpanScan. It leaves the span's bit in pageMarks alone, which only the reclaimer sees. */
static inline __attribute__((always_inline)) void grey(pymem_heap *h, graph_mark *g, uint64_t addr, black_count *b) {
    uint64_t off = addr - g->arena;
    if (off >= g->extent) return;
    uint64_t page = off >> PAGE_SHIFT;
    uint32_t info = g->memory->info[page];
    if (info - INFO_INLINE >= g->inline_infos) {
        grey_alone(h, addr);
        return;
    }
    const class_info *c = &g->classes[info];
    uint32_t in_page = off & (PAGE_SIZE - 1), slot = (uint32_t)((uint64_t)in_page * c->magic >> 32);
    uint64_t *pair = &g->memory->bits[page][slot >> 6 << 1], bit = 1ull << (slot & 63);
    if (pair[0] & bit) return;
    pair[0] |= bit;
    if (info & 1) {
        b->objects++;
        b->bytes += c->size;
        return;
    }
    pair[1] |= bit;
    __builtin_prefetch(g->memory->base + off, 0, 2);
    uint8_t *state = &g->memory->state[page];
    if (*state & PAGE_QUEUED) {
        *state |= PAGE_MANY;
        return;
    }
    *state |= PAGE_QUEUED;
    /* A branch, not a product: mostly the object is known before its slot is. */
    if (__builtin_expect(slot * c->size != in_page, 0)) off -= in_page - slot * c->size;
    queue_put(g, off);
}

/* ---- grey becomes black: a page ---- */

/* Reads the pointers of one object into out; returns the end of those that are not nil. */
static inline uint64_t *read_pointers(const uint64_t *object, uint64_t mask, uint64_t *out) {
    for (; mask; mask &= mask - 1) {
        *out = object[__builtin_ctzll(mask)];
        out += *out != 0;
    }
    return out;
}

/* The same for a slot full of pointers. */
static inline uint64_t *read_words(const uint64_t *object, uint32_t words, uint64_t *out) {
    for (uint32_t i = 0; i < words; i++) {
        *out = object[i];
        out += *out != 0;
    }
    return out;
}

typedef struct {
    uint64_t *out; /* end of the pointers found */
    uint64_t work; /* bytes up to the objects' last pointers */
    uint32_t count;
} found_objects;

static inline uint32_t take_slot(uint64_t *bits, uint32_t first) {
    uint32_t slot = first + (uint32_t)__builtin_ctzll(*bits);
    *bits &= *bits - 1;
    return slot;
}

static void collect_mixed(const object_memory *m, uint64_t page, uint32_t size, uint32_t first, uint64_t bits,
                          found_objects *f) {
    const char *base = m->base + (page << PAGE_SHIFT);
    for (; bits; f->count++) {
        uint32_t slot = take_slot(&bits, first);
        uint64_t mask = memory_read_bits(m, page, size, slot);
        f->out = read_pointers((const uint64_t *)(base + slot * size), mask, f->out);
        f->work += bit_length(mask) * 8;
    }
}

static inline void collect_alike(const char *base, uint64_t mask, uint32_t size, uint32_t first, uint64_t bits,
                                 found_objects *f) {
    uint64_t *out = f->out;
    uint32_t count = 0;
    if (bit_length(mask) == size / 8 && !(mask & (mask + 1)))
        for (; bits; count++)
            out = read_words((const uint64_t *)(base + take_slot(&bits, first) * size), size / 8, out);
    else
        for (; bits; count++) out = read_pointers((const uint64_t *)(base + take_slot(&bits, first) * size), mask, out);
    f->out = out;
    f->count += count;
    f->work += count * (bit_length(mask) * 8ull);
}

/* Of 64 slots from first on those there are. A pointer that went past the barrier may lead into a page's tail. */
static uint64_t slots_below(uint32_t nelems, uint32_t first) {
    return first < nelems ? (1ull << (nelems - first)) - 1 : 0;
}

/* All that is grey on a page, which is black then. */
static found_objects collect(graph_mark *g, uint64_t page, const class_info *c) {
    const object_memory *m = g->memory;
    const char *base = m->base + (page << PAGE_SHIFT);
    uint64_t *bits = m->bits[page], mask = m->mask[page];
    found_objects f = {.out = g->buf};
    for (uint32_t i = 0; i < c->pairs; i++) {
        uint64_t grey_slots = bits[2 * i + 1];
        if (!grey_slots) continue;
        bits[2 * i + 1] = 0;
        if (i * 64 + 64 > c->nelems) grey_slots &= slots_below(c->nelems, i * 64);
        if (m->state[page] & PAGE_MIXED) collect_mixed(m, page, c->size, i * 64, grey_slots, &f);
        else if (c->size == 16) collect_alike(base, mask, 16, i * 64, grey_slots, &f);
        else collect_alike(base, mask, c->size, i * 64, grey_slots, &f);
    }
    return f;
}

static bool page_has_grey(const graph_mark *g, uint64_t page, const class_info *c) {
    uint64_t any = 0;
    for (uint32_t i = 0; i < c->pairs; i++) any |= g->memory->bits[page][2 * i + 1];
    return any;
}

/* All that waits on a page at once. Go: scanSpan */
static __attribute__((noinline)) void scan_grey(pymem_heap *h, graph_mark *g, uint64_t page, const class_info *c) {
    found_objects f = collect(g, page, c);
    if (f.count > 1) g->memory->state[page] |= PAGE_MARKED;
    if (g->packed && f.count > 1 && f.count >= c->eighth) f.work = (uint64_t)f.count * c->size;
    g->sum->heap_scan += f.work;
    count_black(g, f.count, (uint64_t)f.count * c->size);
    black_count b = {0};
    for (const uint64_t *p = g->buf; p < f.out; p++) grey(h, g, *p, &b);
    count_blacks(g, b);
}

/* The one object that waits on a page. Go: scanSpan, scanObjectSmall */
static inline void scan_single(pymem_heap *h, graph_mark *g, uint64_t off, const class_info *c) {
    const object_memory *m = g->memory;
    const uint64_t *object = (const uint64_t *)(m->base + off);
    uint64_t page = off >> PAGE_SHIFT, slot = (off & (PAGE_SIZE - 1)) * c->magic >> 32;
    uint64_t mask = m->state[page] & PAGE_MIXED ? memory_read_bits(m, page, c->size, (uint32_t)slot) : m->mask[page];
    m->bits[page][(slot >> 6 << 1) + 1] &= ~(1ull << (slot & 63));
    if (slot >= c->nelems) return;
    g->sum->heap_scan += bit_length(mask) * 8;
    count_black(g, 1, c->size);
    black_count b = {0};
    for (; mask; mask &= mask - 1) {
        uint64_t p = object[__builtin_ctzll(mask)];
        if (p) grey(h, g, p, &b);
    }
    count_blacks(g, b);
}

/* A page is scanned in less time than its bytes take to come, so those of the one after it are asked for before. */
static void prefetch_next(const graph_mark *g) {
    if (g->tail == g->head) return;
    uint64_t page = g->ring[g->head % RING] >> PAGE_SHIFT;
    const char *p = g->memory->base + (page << PAGE_SHIFT);
    for (uint32_t at = 0; at < PAGE_SIZE; at += 64) __builtin_prefetch(p + at, 0, 2);
    __builtin_prefetch(g->memory->bits[page]);
    __builtin_prefetch(g->memory->bits[page] + 8);
}

/* ---- grey becomes black: a page at once, where order does not matter ---- */

static void scan_within(pymem_heap *h, graph_mark *g, uint64_t page, const class_info *c) {
    const object_memory *m = g->memory;
    uint64_t *end;
    uint32_t count = page_closure(g, page, c, &end);
    m->state[page] |= PAGE_MARKED;
    g->local = count > MOSTLY_LOCAL * (uint64_t)(end - g->buf);
    g->sum->heap_scan += count * (bit_length(m->mask[page]) * 8ull);
    count_black(g, count, (uint64_t)count * c->size);
    black_count b = {0};
    for (const uint64_t *p = g->buf; p < end; p++) grey(h, g, *p, &b);
    count_blacks(g, b);
}

static __attribute__((noinline)) void scan_page_at_once(pymem_heap *h, graph_mark *g, uint64_t off,
                                                        const class_info *c) {
    uint64_t page = off >> PAGE_SHIFT;
    uint8_t *state = &g->memory->state[page];
    if (!g->local) prefetch_next(g);
    if (*state & PAGE_MANY) scan_grey(h, g, page, c);
    else scan_single(h, g, off, c);
    if (!page_has_grey(g, page, c)) g->local = false;
    while (page_has_grey(g, page, c))
        if (*state & PAGE_MIXED) scan_grey(h, g, page, c);
        else scan_within(h, g, page, c);
    *state &= (uint8_t)~(PAGE_QUEUED | PAGE_MANY);
}

/* In Go's order the page waits again for what is found on itself. */
static void scan_page(pymem_heap *h, graph_mark *g, uint64_t off) {
    uint64_t page = off >> PAGE_SHIFT;
    const class_info *c = &g->classes[g->memory->info[page]];
    uint8_t *state = &g->memory->state[page], many = *state & PAGE_MANY;
    if (g->any_order) {
        scan_page_at_once(h, g, off, c);
        return;
    }
    *state &= (uint8_t)~(PAGE_QUEUED | PAGE_MANY);
    if (many) scan_grey(h, g, page, c);
    else scan_single(h, g, off, c);
}

/* ---- grey becomes black: an object by itself ---- */

static inline uint64_t *words_at(const graph_mark *g, uint64_t addr) {
    return (uint64_t *)(g->memory->base + (addr - g->arena));
}

/* Pointers in a row to one page of objects without pointers: a word of mark bits is written once. Returns the first
 * that leads elsewhere. */
static const uint64_t *blacken_run(graph_mark *g, const uint64_t *p, const uint64_t *end, black_count *b) {
    uint64_t page = (*p - g->arena) >> PAGE_SHIFT, first = g->arena + (page << PAGE_SHIFT);
    const class_info *c = &g->classes[g->memory->info[page]];
    uint64_t *bits = g->memory->bits[page], *word = bits, marks = *word, objects = 0, magic = c->magic;
    for (; p < end && *p - first < PAGE_SIZE; p++) {
        uint64_t slot = (*p - first) * magic >> 32, *pair = &bits[slot >> 6 << 1];
        if (pair != word) {
            *word = marks;
            word = pair;
            marks = *word;
        }
        objects += ~marks >> (slot & 63) & 1;
        marks |= 1ull << (slot & 63);
    }
    *word = marks;
    b->objects += objects;
    b->bytes += objects * c->size;
    return p;
}

/* Two pointers to one page of small objects without pointers. */
static inline bool begins_run(const graph_mark *g, const uint64_t *p, const uint64_t *end) {
    uint64_t off = *p - g->arena;
    if (p + 1 >= end || (p[0] ^ p[1]) >= PAGE_SIZE || off >= g->extent) return false;
    uint32_t info = g->memory->info[off >> PAGE_SHIFT];
    return info & 1 && info - INFO_INLINE < g->inline_infos;
}

/* Every word of [from, to) */
static uint64_t scan_words(pymem_heap *h, graph_mark *g, uint64_t from, uint64_t to) {
    const uint64_t *p = words_at(g, from), *end = words_at(g, to);
    black_count b = {0};
    while (p < end) {
        if (begins_run(g, p, end)) {
            p = blacken_run(g, p, end, &b);
            continue;
        }
        if (*p) grey(h, g, *p, &b);
        p++;
    }
    count_blacks(g, b);
    return to;
}

/* The pointer words in [from, to) of the element at elem; returns the end of the last one, or last. */
static uint64_t scan_element(pymem_heap *h, graph_mark *g, const type_map *t, uint64_t elem, uint64_t from, uint64_t to,
                             uint64_t last) {
    black_count b = {0};
    for (uint64_t w = 0; w < t->words; w++) {
        for (uint64_t mask = t->mask[w]; mask; mask &= mask - 1) {
            uint64_t at = elem + (w * 64 + (uint64_t)__builtin_ctzll(mask)) * 8;
            if (at < from) continue;
            if (at >= to) break;
            last = at + 8;
            uint64_t p = *words_at(g, at);
            if (p) grey(h, g, p, &b);
        }
    }
    count_blacks(g, b);
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
static __attribute__((noinline)) void scan_object(pymem_heap *h, graph_mark *g, uint64_t b) {
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
    black_count b = {0};
    for (uint64_t i = first; i < first + n; i++)
        if (r->addrs[i]) grey(h, g, r->addrs[i], &b);
    count_blacks(g, b);
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
        const root_set *r = &m->roots[g->root];
        if (g->root < m->nroots && r->used && !r->scanned && g->stacks == (r->kind != PYMEM_ROOTS_GLOBALS))
            return &m->roots[g->root];
    }
}

/* One block of globals or one stack. Go: markroot */
static bool scan_next_root(pymem_heap *h, graph_mark *g) {
    root_set *r = next_root(g);
    if (!r) return false;
    uint64_t first = r->begun < r->n ? r->begun : r->n, n = r->n - first;
    if (r->kind == PYMEM_ROOTS_GLOBALS && n > ROOT_BLOCK) n = ROOT_BLOCK;
    r->begun = first + n;
    r->scanned = first + n >= r->n;
    uint64_t bytes = scan_roots(h, g, r, first, n);
    if (r->kind == PYMEM_ROOTS_GLOBALS) g->sum->globals_scan += bytes;
    if (r->kind == PYMEM_ROOTS_STACK) g->sum->stack_scan += bytes;
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
    else scan_page(h, g, queue_take(g));
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
    until -= h->marks.stack_scan + h->marks.globals_scan; /* at most 0 is left: until < 2^63 + what was done */
    while ((int64_t)(until - h->marks.heap_scan) > 0 && !g->bad && scan_next(h, g)) continue;
    *out = (pymem_mark_progress){.heap_scan = (int64_t)(h->marks.heap_scan - before.heap_scan),
                                 .stack_scan = (int64_t)(h->marks.stack_scan - before.stack_scan),
                                 .globals_scan = (int64_t)(h->marks.globals_scan - before.globals_scan),
                                 .objects = h->marks.objects_marked - before.objects_marked,
                                 .idle = mark_is_idle(h)};
    if (!g->bad) return PYMEM_OK;
    return fail(h, PYMEM_ETHROW, "found bad pointer in Go heap: 0x%llx is in no span of objects", (ull)g->bad);
}

/* ---- the barrier, and objects born black ---- */

/* What stores have removed and added, as mwbbuf.c has buffered it. Go: wbBufFlush1 */
void mark_shade(pymem_heap *h, const uint64_t *addrs, uint64_t n) {
    graph_mark *g = h->mark;
    g->extent = h->cur_page << PAGE_SHIFT;
    black_count b = {0};
    for (uint64_t i = 0; i < n; i++)
        if (addrs[i]) grey(h, g, addrs[i], &b);
    count_blacks(g, b);
}

uint64_t *mark_word(const object_memory *m, uint64_t page, const mspan *s, uint32_t slot) {
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
        c->nelems = t->nelems[sc];
        c->pairs = t->nelems[sc]; /* of those that wait alone */
        if (c->size < 16 || c->size > MIN_HEADER_SIZE) continue;
        c->pairs = bit_words(PAGE_SIZE / c->size);
        g->inline_infos = sc + PAGE_CLASS + 1 - INFO_INLINE;
    }
    g->classes[PAGE_CLASS].pairs = g->classes[PAGE_CLASS + 1].pairs = 1;
}

/* Objects of the page count for less when few of them are scanned at once. */
static bool depends_on_order(const pymem_heap *h, const mspan *s) {
    const object_memory *m = h->memory;
    uint64_t page = page_of(h, s->base);
    return m->state[page] & PAGE_MIXED || bit_length(m->mask[page]) * 8 != s->elem_size;
}

/* How many pages, and how many objects and oblets, may have to wait at most. */
static void count_waiting(const pymem_heap *h, uint64_t *pages, uint64_t *objects, bool *any_order) {
    *pages = *objects = 0;
    *any_order = true;
    for (const mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++) {
            const mspan *s = &slab->spans[i];
            if (s->state != SPAN_IN_USE || s->span_class & 1) continue;
            if (!(s->span_class >> 1)) *objects += s->elem_size / OBLET + 1;
            else if (s->elem_size < 16 || s->elem_size > MIN_HEADER_SIZE) *objects += s->nelems;
            else ++*pages, *any_order = *any_order && !depends_on_order(h, s);
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
    count_waiting(h, &pages, &objects, &g->any_order);
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
    black_count b = {0};
    for (int32_t i = 0; i < h->nprocs; i++)
        if (h->procs[i] && h->procs[i]->cache->tiny) grey(h, g, h->procs[i]->cache->tiny, &b);
    if (h->no_p.cache && h->no_p.cache->tiny) grey(h, g, h->no_p.cache->tiny, &b);
    count_blacks(g, b);
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
    g->any_order |= !g->packed;
    g->sum = &h->marks;
    g->wbuf1 = &g->bufs[0];
    g->wbuf2 = &g->bufs[1];
    fill_classes(g);
    g->puts = h->queue_puts;
    if (h->queue_cap) *segment(g, g->nsegments++) = (chain_segment){h->queue_cap, 0};
    h->mark = g;
    return PYMEM_OK;
}

void mark_graph_start(pymem_heap *h) {
    for (uint32_t i = 0; i < h->memory->nroots; i++) h->memory->roots[i].scanned = h->memory->roots[i].begun = 0;
    grey_tiny_blocks(h, h->mark);
}

void mark_release(pymem_heap *h) {
    if (h->mark) free_tables(h, h->mark);
    h->mark = NULL;
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
    m->state[page] &= (uint8_t)~(PAGE_MARKED | PAGE_QUEUED | PAGE_MANY);
    h->last_mark.objects_before += s->alloc_count;
    h->last_mark.bytes_before += s->alloc_count * s->elem_size;
    return !bad;
}

/* It must be idle. The queue's counter and its newest segment stay for the next mark, as in Go. */
int mark_graph_stop(pymem_heap *h) {
    graph_mark *g = h->mark;
    h->queue_puts = g->puts;
    if (g->nsegments) h->queue_cap = segment(g, g->nsegments - 1)->cap;
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
