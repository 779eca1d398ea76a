/* Where grey objects wait while a mark by graph runs, and in which order they come out again; see mgcmark.c, which
 * works with it, mgcpage.c and snapmark.c. All memory is taken at the mark's start. Go: mgcwork.go, spanQueue in
 * mgcmark_greenteagc.go */
#ifndef PYMEM_MGCWORK_H
#define PYMEM_MGCWORK_H

#include <string.h>
#include "internal.h"

enum {
    RING = 256,        /* newest pages of the span queue */
    SPILL_PERIOD = 64, /* puts between looks at whether some should go to the chain */
    SPILL_MAX = 16,
    CHAIN_FIRST = 1024, /* pages in the first segment of the chain; each next one has twice as many */
    CHAIN_LAST = 1 << 17,
    WORK_BUF = 253, /* objects in a work buffer of 2 KB */
    PAGE_WORDS = PAGE_SIZE / 8,
    PAGE_SLOTS = PAGE_SIZE / 16,
    OBLET = 128 << 10,
    INFO_INLINE = (2 << 1) + PAGE_CLASS, /* first page info of a class of 16 to 512 bytes */
};

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
    uint32_t nelems;              /* slots; bits beyond are those of pointers into a page's tail */
} class_info;

struct graph_mark {
    /* copies of what every step reads */
    uint64_t arena, extent; /* address of the first arena, and bytes mapped from there on */
    const object_memory *memory;
    class_info classes[256]; /* by page info */
    uint32_t inline_infos;   /* page infos from INFO_INLINE on that stand for 16 to 512 bytes */
    bool packed;
    bool any_order; /* the scan work is the same in any order */
    pymem_mark_totals *sum;
    uint64_t bad, bad_from; /* the first bad pointer and where it was; 0: none */

    /* pages that hold grey objects: a ring for the newest, a chain of segments for the rest, both first in first out */
    uint64_t ring[RING]; /* where the object that made the page wait begins, in bytes from the first arena on */
    uint32_t head, tail, puts;
    uint64_t *chain;
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

    uint64_t buf[PAGE_WORDS + 64]; /* pointers found on a page; a bad pointer may have made a slot of what is none */

    /* one page's slots, while pointers among them are followed. A byte a slot, for bytes can be written without having
     * been read; the last one stands for all that is elsewhere */
    uint8_t marked[PAGE_SLOTS + 1], scanned[PAGE_SLOTS];
    uint16_t found[PAGE_SLOTS + 1];
    bool local; /* the last page had pointers to itself, almost all */
};

static inline uint32_t bit_length(uint64_t x) { return x ? 64 - (uint32_t)__builtin_clzll(x) : 0; }

/* mgcmark.c: the word that has a slot's mark bit. */
uint64_t *mark_word(const object_memory *m, uint64_t page, const mspan *s, uint32_t slot);

/* ---- mgcpage.c ---- */

/* Blackens all that can be reached from what is grey on the page without leaving it; all its objects have the same
 * pointer map. Returns how many; the pointers out of the page are in buf, up to end. */
uint32_t page_closure(graph_mark *g, uint64_t page, const class_info *c, uint64_t **end);

/* ---- pages that wait ---- */

static inline chain_segment *segment(graph_mark *g, uint32_t k) {
    return &g->segments[(g->first_segment + k) % g->cap_segments];
}

static inline bool chain_is_empty(const graph_mark *g) { return g->chain_head == g->chain_tail; }

/* Room is for all that was white at the start. More comes only where pointers lead to slots that hold no object. */
static inline void overflow(graph_mark *g, uint64_t addr) {
    if (!g->bad) g->bad = addr;
}

/* The n oldest pages of the ring go to the newest segment of the chain, or to one more. Go: (*spanQueue).drain */
static inline void spill(graph_mark *g, uint32_t n) {
    g->puts = 0;
    if (g->chain_tail - g->chain_head + n > g->chain_mask + 1) {
        overflow(g, g->arena + g->ring[g->head % RING]);
        g->head += n;
        return;
    }
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
static inline void queue_put(graph_mark *g, uint64_t waiting) {
    uint32_t n = g->tail - g->head;
    if (n == RING) spill(g, RING / 2);
    g->ring[g->tail++ % RING] = waiting;
    if (n == RING || ++g->puts < SPILL_PERIOD) return;
    g->puts = 0;
    uint32_t spilt = (n + 1) / 2 < SPILL_MAX ? (n + 1) / 2 : SPILL_MAX;
    if (spilt > 4 && chain_is_empty(g)) spill(g, spilt);
}

/* In Go's order the oldest. Where order does not matter and pointers lead to where they come from, the newest: pages
 * are then come by in about the order in which they were allocated; where they lead anywhere, the oldest, on which most
 * will have gathered. */
static inline uint64_t queue_take(graph_mark *g) { return g->ring[(g->local ? --g->tail : g->head++) % RING]; }

/* Half of the oldest segment that has any comes back to the ring. Go: (*spanQueue).refill, steal */
static inline bool queue_refill(graph_mark *g) {
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

static inline void put_full(graph_mark *g, work_buf *b) {
    if (g->full_top + b->n > g->cap_full) {
        overflow(g, b->obj[0]);
        b->n = 0;
        return;
    }
    memcpy(&g->full[g->full_top], b->obj, b->n * sizeof *b->obj);
    g->full_top += b->n;
    g->full_n[g->nfull++] = b->n;
    b->n = 0;
}

static inline bool get_full(graph_mark *g, work_buf *b) {
    if (!g->nfull) return false;
    b->n = g->full_n[--g->nfull];
    g->full_top -= b->n;
    memcpy(b->obj, &g->full[g->full_top], b->n * sizeof *b->obj);
    return true;
}

static inline void swap_bufs(graph_mark *g) {
    work_buf *b = g->wbuf1;
    g->wbuf1 = g->wbuf2;
    g->wbuf2 = b;
}

/* Go: (*gcWork).putObj */
static inline void put_object(graph_mark *g, uint64_t addr) {
    if (g->wbuf1->n == WORK_BUF) swap_bufs(g);
    if (g->wbuf1->n == WORK_BUF) put_full(g, g->wbuf1);
    g->wbuf1->obj[g->wbuf1->n++] = addr;
}

/* Go: (*gcWork).tryGetObj; 0: nothing waits */
static inline uint64_t get_object(graph_mark *g) {
    if (!g->wbuf1->n) swap_bufs(g);
    if (!g->wbuf1->n && !get_full(g, g->wbuf1)) return 0;
    return g->wbuf1->obj[--g->wbuf1->n];
}

static __attribute__((noinline)) void share_half(graph_mark *g, work_buf *b) {
    uint32_t n = b->n / 2, left = b->n - n;
    uint64_t kept[WORK_BUF];
    memcpy(kept, &b->obj[left], n * sizeof *kept);
    b->n = left;
    put_full(g, b);
    memcpy(b->obj, kept, n * sizeof *kept);
    b->n = n;
}

/* Something to share for other workers, had there been any. Go: (*gcWork).balance, handoff */
static inline void balance(graph_mark *g) {
    if (g->nfull) return;
    if (g->wbuf2->n) put_full(g, g->wbuf2);
    else if (g->wbuf1->n > 4) share_half(g, g->wbuf1);
}

#endif
