/* A mark under way as a value: what waits, in the order in which it will come out, which is what a snapshot taken amid
 * a mark by graph needs beside the pages' mark bits. Those are read before; what is said to wait here is held against
 * them, so that a file cannot have memory scanned that is no object's. */
#include "mgcwork.h"

/* A page that waits does so once, and is one of those that wait: its state, as it was read, says so. What it waits for
 * is a slot of it that is grey. */
static bool page_may_wait(const pymem_heap *h, uint64_t entry) {
    const object_memory *m = h->memory;
    uint64_t page = entry >> PAGE_SHIFT, offset = entry & (PAGE_SIZE - 1);
    if (page >= h->cur_page || m->info[page] - (uint32_t)INFO_INLINE >= h->mark->inline_infos) return false;
    if (m->info[page] & 1 || !(m->state[page] & PAGE_QUEUED)) return false;
    const class_info *c = &h->mark->classes[m->info[page]];
    uint32_t slot = (uint32_t)(offset / c->size);
    return slot * c->size == offset && slot < c->nelems && bit_get(&m->bits[page][(slot >> 6 << 1) + 1], slot & 63);
}

/* Entries of the ring and the chain, oldest first. seen: a bit a page. */
static void stream_page(pymem_heap *h, stream *s, uint64_t *entry, uint64_t *seen) {
    STREAM(s, *entry, UINT64_MAX);
    if (!s->reading || s->status) return;
    uint32_t page = (uint32_t)(*entry >> PAGE_SHIFT);
    if (!page_may_wait(h, *entry) || bit_get(seen, page)) stream_wrong(s, "a page waits that cannot");
    else bit_set(seen, page);
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

/* What a mark begins with is not what this one has come to. any_order was settled by the heap as it was then. */
static void forget_start(graph_mark *g) {
    g->puts = 0;
    g->first_segment = g->nsegments = 0;
}

void mark_stream(pymem_heap *h, stream *s) {
    graph_mark *g = h->mark;
    uint64_t words = h->cur_page / 64 + 1, *seen = os_alloc(h, words * sizeof *seen);
    if (!seen) {
        stream_no_memory(s);
        return;
    }
    if (s->reading) forget_start(g);
    STREAM(s, g->any_order, 1);
    STREAM(s, g->local, 1);
    STREAM(s, g->bad, UINT64_MAX);
    STREAM(s, g->stacks, 1);
    STREAM(s, g->root, UINT32_MAX);
    stream_ring(h, s, seen);
    stream_chain(h, s, seen);
    os_free(h, seen, words * sizeof *seen);
    stream_waiting(h, s);
}
