/* A span class's spans that no proc holds, in four FIFO sets: with free slots or full, swept or not. A new cycle swaps
 * swept with unswept by adding 2 to sweepgen. A span that is swept out of turn stays behind in its unswept set; whoever
 * pops it sees by its sweepgen that there is nothing to do. Go: mcentral.go, mspanset.go */
#include "internal.h"

enum { SET_BLOCK_SPANS = 512, SET_BLOCK_BYTES = 4608, SET_BLOCK_ALIGN = 512, SPINE_FIRST = 256, SPINE_ALIGN = 64 };
enum { IN_PARTIAL = 1, IN_FULL = 2 };

int swept_parity(const pymem_heap *h) { return h->sweepgen / 2 % 2; }

static span_set *set_of(pymem_heap *h, uint32_t span_class, bool full, int parity) {
    mcentral *c = &h->central[span_class];
    return full ? &c->full[parity] : &c->partial[parity];
}

span_set *set_swept(pymem_heap *h, uint32_t span_class, bool full) {
    return set_of(h, span_class, full, swept_parity(h));
}

span_set *set_unswept(pymem_heap *h, uint32_t span_class, bool full) {
    return set_of(h, span_class, full, 1 - swept_parity(h));
}

/* The block that the next push goes to may have to be fetched, and the spine to grow. Go: (*spanSet).push */
static void account_push(pymem_heap *h, proc *p, span_set *q) {
    uint32_t top = q->tail++ / SET_BLOCK_SPANS;
    if (top < q->spine_len) return;
    if (q->spine_len == q->spine_cap) {
        q->spine_cap = q->spine_cap ? 2 * q->spine_cap : SPINE_FIRST;
        persistent_alloc(h, p, q->spine_cap * 8ull, SPINE_ALIGN, PYMEM_STAT_GC_MISC_SYS);
    }
    if (h->set_blocks_pool) h->set_blocks_pool--;
    else persistent_alloc(h, p, SET_BLOCK_BYTES, SET_BLOCK_ALIGN, PYMEM_STAT_GC_MISC_SYS);
    q->spine_len++;
}

static void account_pop(pymem_heap *h, span_set *q) {
    if (++q->head % SET_BLOCK_SPANS == 0) h->set_blocks_pool++;
}

void span_set_push(pymem_heap *h, proc *p, mspan *s, bool full) {
    int parity = swept_parity(h);
    span_set *q = set_of(h, s->span_class, full, parity);
    account_push(h, p, q);
    s->in_set[parity] = full ? IN_FULL : IN_PARTIAL;
    s->set_class[parity] = s->span_class;
    s->set_next[parity] = NULL;
    s->set_prev[parity] = q->last;
    if (q->last) q->last->set_next[parity] = s;
    else q->first = s;
    q->last = s;
}

static void unlink_span(pymem_heap *h, span_set *q, mspan *s, int parity) {
    mspan *next = s->set_next[parity], *prev = s->set_prev[parity];
    if (prev) prev->set_next[parity] = next;
    else q->first = next;
    if (next) next->set_prev[parity] = prev;
    else q->last = prev;
    s->in_set[parity] = 0;
    account_pop(h, q);
}

mspan *span_set_pop(pymem_heap *h, uint32_t span_class, bool full, bool swept) {
    int parity = swept ? swept_parity(h) : 1 - swept_parity(h);
    span_set *q = set_of(h, span_class, full, parity);
    mspan *s = q->first;
    if (s) unlink_span(h, q, s, parity);
    return s;
}

void span_set_remove(pymem_heap *h, mspan *s, int parity) {
    if (s->in_set[parity])
        unlink_span(h, set_of(h, s->set_class[parity], s->in_set[parity] == IN_FULL, parity), s, parity);
}

/* The last of its swept set becomes the first: it had been popped by mistake. */
void span_set_to_front(pymem_heap *h, mspan *s) {
    int parity = swept_parity(h);
    span_set *q = set_of(h, s->set_class[parity], s->in_set[parity] == IN_FULL, parity);
    if (q->first == s) return;
    q->last = s->set_prev[parity];
    q->last->set_next[parity] = NULL;
    s->set_prev[parity] = NULL;
    s->set_next[parity] = q->first;
    q->first->set_prev[parity] = s;
    q->first = s;
}

/* The spans ahead of s in its set go behind all others, in their order. */
void span_set_rotate(pymem_heap *h, mspan *s, int parity) {
    if (!s->in_set[parity] || !s->set_prev[parity]) return;
    span_set *q = set_of(h, s->set_class[parity], s->in_set[parity] == IN_FULL, parity);
    q->last->set_next[parity] = q->first;
    q->first->set_prev[parity] = q->last;
    q->last = s->set_prev[parity];
    q->last->set_next[parity] = NULL;
    s->set_prev[parity] = NULL;
    q->first = s;
}

/* A drained set starts over; a block it had begun to pop goes back to the pool. Go: (*spanSet).reset */
static void set_reset(pymem_heap *h, span_set *q) {
    if (q->head / SET_BLOCK_SPANS < q->spine_len && q->head % SET_BLOCK_SPANS) h->set_blocks_pool++;
    q->head = q->tail = q->spine_len = 0;
}

void span_sets_reset(pymem_heap *h) {
    for (uint32_t c = 0; c < NUM_SPAN_CLASSES; c++) {
        set_reset(h, set_unswept(h, c, false));
        set_reset(h, set_unswept(h, c, true));
    }
}
