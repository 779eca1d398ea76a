/* Marking within one page, where the order of work does not matter: what is found on a page is gone on with while the
 * page is in the cache. Programs allocate together what they use together, so most pointers of a tree lead to their own
 * page: they cost no lookup of page and class, and no queue. mgcmark.c has the rest of the mark. */
#include <string.h>
#include "mgcwork.h"

enum { SLOT_BYTES = PAGE_SIZE - 256 /* of a page of small objects, in front of their mark and heap bits */ };

/* Eight bits to eight bytes of 0 or 1, the lowest bit first. */
static inline void spread_bits(uint8_t *bytes, uint64_t bits) {
    for (uint32_t i = 0; i < 8; i++) bytes[i] = bits >> i & 1;
}

static void spread_marks(graph_mark *g, const uint64_t *bits, const class_info *c) {
    for (uint32_t i = 0; i < c->pairs; i++, bits += 2) {
        memset(&g->marked[i * 64], 0, 64);
        memset(&g->scanned[i * 64], 0, 64);
        for (uint32_t k = 0; bits[0] && k < 64; k += 8) {
            spread_bits(&g->marked[i * 64 + k], bits[0] >> k);
            spread_bits(&g->scanned[i * 64 + k], (bits[0] & ~bits[1]) >> k);
        }
    }
}

static inline uint64_t eight_bytes(const uint8_t *bytes) {
    uint64_t eight;
    memcpy(&eight, bytes, 8);
    return eight;
}

static void gather_marks(const graph_mark *g, uint64_t *bits, const class_info *c) {
    for (uint32_t i = 0; i < c->pairs; i++) {
        uint64_t word = 0;
        for (uint32_t k = 0; k < 64; k += 8)
            word |= (eight_bytes(&g->marked[i * 64 + k]) * 0x0102040810204080 >> 56) << k;
        bits[2 * i] = word;
        bits[2 * i + 1] = 0;
    }
}

typedef struct {
    const char *base; /* the page's bytes */
    uint64_t first;   /* and its address */
    uint64_t magic;
    uint64_t pointers; /* words of an object that hold pointers */
    uint32_t n;        /* objects in found */
    uint64_t *out;     /* end of the pointers that lead elsewhere */
} page_walk;

/* Without a branch: what a pointer is cannot be foretold. Returns the slot, or what stands for elsewhere. */
static inline __attribute__((always_inline)) uint64_t follow(page_walk *w, uint64_t p, uint32_t size) {
    uint64_t off = p - w->first, slot = size == 16 ? off >> 4 : off * w->magic >> 32;
    *w->out = p;
    w->out += (off >= PAGE_SIZE) & (p != 0);
    return off < PAGE_SIZE ? slot : PAGE_SLOTS;
}

/* Slot by slot: enough where pointers lead to higher addresses, as to what was allocated later. Nil is made the first
 * byte behind the slots, where no object is. Meanwhile the page behind is asked for, which is the next one then. */
static inline __attribute__((always_inline)) void scan_upwards(graph_mark *g, page_walk *w, uint32_t size) {
    const uint64_t first = w->first, magic = w->magic, nil = SLOT_BYTES;
    uint8_t *marked = g->marked, *scanned = g->scanned;
    uint64_t *out = w->out;
    uint8_t kept = marked[nil * magic >> 32];
    for (uint32_t i = 0; i < SLOT_BYTES / size; i++) {
        const char *object = w->base + i * size;
        for (uint32_t at = 0; at < size; at += 64) __builtin_prefetch(object + PAGE_SIZE + at, 0, 3);
        if (marked[i] == scanned[i]) continue;
        scanned[i] = 1;
        for (uint32_t k = 0; k < size; k += 8) {
            uint64_t p = *(const uint64_t *)(object + k), off = p ? p - first : nil;
            if (__builtin_expect(off > nil, 0)) *out++ = p;
            else marked[size == 16 ? off >> 4 : off * magic >> 32] = 1;
        }
    }
    w->out = out;
    marked[nil * magic >> 32] = kept;
}

/* First found first scanned: the next one is known long before its turn, which keeps the processor busy. */
static void scan_found(graph_mark *g, page_walk *w, uint32_t size) {
    g->marked[PAGE_SLOTS] = 1;
    for (uint32_t i = 0; i < w->n; i++) {
        const uint64_t *object = (const uint64_t *)(w->base + g->found[i] * size);
        for (uint64_t mask = w->pointers; mask; mask &= mask - 1) {
            uint64_t slot = follow(w, object[__builtin_ctzll(mask)], size);
            g->found[w->n] = (uint16_t)slot;
            w->n += !g->marked[slot];
            g->marked[slot] = 1;
        }
    }
}

static void list_found(graph_mark *g, page_walk *w, const class_info *c) {
    for (uint32_t i = 0; i < c->pairs * 64; i += 8) {
        uint64_t left = eight_bytes(&g->marked[i]) & ~eight_bytes(&g->scanned[i]);
        for (; left; left &= left - 1) g->found[w->n++] = (uint16_t)(i + (uint32_t)__builtin_ctzll(left) / 8);
    }
}

static bool is_full(const page_walk *w, uint32_t size) {
    return bit_length(w->pointers) == size / 8 && !(w->pointers & (w->pointers + 1));
}

static uint32_t count_marks(const uint64_t *bits, const class_info *c) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->pairs; i++) n += (uint32_t)__builtin_popcountll(bits[2 * i] & ~bits[2 * i + 1]);
    return n;
}

uint32_t page_closure(graph_mark *g, uint64_t page, const class_info *c, uint64_t **end) {
    const object_memory *m = g->memory;
    uint64_t *bits = m->bits[page];
    uint32_t before = count_marks(bits, c);
    page_walk w = {.base = m->base + (page << PAGE_SHIFT), .first = g->arena + (page << PAGE_SHIFT), .out = g->buf};
    w.magic = c->magic;
    w.pointers = m->mask[page];
    spread_marks(g, bits, c);
    if (g->local && is_full(&w, c->size)) {
        if (c->size == 16) scan_upwards(g, &w, 16);
        else scan_upwards(g, &w, c->size);
    }
    list_found(g, &w, c);
    scan_found(g, &w, c->size);
    gather_marks(g, bits, c);
    *end = w.out;
    return count_marks(bits, c) - before;
}
