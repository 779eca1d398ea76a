/* A second mark to prove the first: with the world stopped all is followed again from the roots, and an object that is
 * reached without a mark would be lost. It is told with the way that leads to it. Slow and plain on purpose: it shares
 * no step with the mark that it checks. Go: mcheckmark.go, GODEBUG=gccheckmark=1 */
#include <stdio.h>
#include <string.h>
#include "internal.h"

typedef unsigned long long ull;

enum { FIRST_SEEN = 1024, NO_PARENT = -1 };

typedef struct {
    uint64_t addr;   /* of the slot */
    int64_t parent;  /* place of the one that points to it; NO_PARENT: a root does */
    uint64_t offset; /* at which it does, from the parent's slot; of a root: set << 32 | place */
} reached;

typedef struct {
    reached *list;
    uint64_t n, cap;
    uint64_t *seen; /* a bit for each 8 bytes of the heap */
    uint64_t seen_words;
    int64_t lost; /* place of the first object without a mark; NO_PARENT: none */
} walk;

static int walk_reserve(pymem_heap *h, walk *w) {
    if (w->n < w->cap) return PYMEM_OK;
    uint64_t cap = w->cap ? 2 * w->cap : FIRST_SEEN;
    void *q = os_grow(h, w->list, w->cap * sizeof *w->list, cap * sizeof *w->list);
    if (!q) return fail(h, PYMEM_ENOMEM, "no memory to check a mark");
    w->list = q;
    w->cap = cap;
    return PYMEM_OK;
}

static int reach(pymem_heap *h, walk *w, uint64_t addr, int64_t parent, uint64_t offset) {
    mspan *s = mheap_span_of(h, addr);
    if (!s || s->state != SPAN_IN_USE || w->lost != NO_PARENT) return PYMEM_OK;
    uint32_t slot = span_slot_of(s, addr);
    if (slot >= s->nelems) return PYMEM_OK;
    uint64_t first = s->base + slot * s->elem_size, word = (first - h->config.arena_base) / 8;
    if ((w->seen[word >> 6] >> (word & 63) & 1)) return PYMEM_OK;
    w->seen[word >> 6] |= 1ull << (word & 63);
    int rc = walk_reserve(h, w);
    if (rc) return rc;
    if (!mark_is_marked(h, s, slot)) w->lost = (int64_t)w->n;
    w->list[w->n++] = (reached){.addr = first, .parent = parent, .offset = offset};
    return PYMEM_OK;
}

/* The address at an offset of the slot, 0 where there is no pointer. */
static uint64_t pointer_at(const pymem_heap *h, const mspan *s, uint32_t slot, uint64_t offset) {
    uint64_t p = 0;
    if (memory_is_pointer_word(h, s, slot, offset)) memcpy(&p, memory_at(h, s->base + slot * s->elem_size + offset), 8);
    return p;
}

static int follow_object(pymem_heap *h, walk *w, uint64_t k) {
    uint64_t addr = w->list[k].addr;
    const mspan *s = mheap_span_of(h, addr);
    uint32_t slot = span_slot_of(s, addr);
    int rc = PYMEM_OK;
    for (uint64_t at = 0; at < s->elem_size && !rc; at += 8) {
        uint64_t p = pointer_at(h, s, slot, at);
        if (p) rc = reach(h, w, p, (int64_t)k, at);
    }
    return rc;
}

static int follow_all(pymem_heap *h, walk *w) {
    const object_memory *m = h->memory;
    int rc = PYMEM_OK;
    for (uint32_t r = 0; r < m->nroots && !rc; r++)
        for (uint64_t i = 0; m->roots[r].used && i < m->roots[r].n && !rc; i++)
            rc = reach(h, w, m->roots[r].addrs[i], NO_PARENT, (uint64_t)r << 32 | i);
    for (uint64_t k = 0; k < w->n && w->lost == NO_PARENT && !rc; k++) rc = follow_object(h, w, k);
    return rc;
}

/* From the root on: set, place; then slot, offset of each object on the way, the last with offset 0. *n: how many
 * numbers that is. */
static void tell_path(const walk *w, uint64_t *path, uint64_t cap, uint64_t *n) {
    uint64_t depth = 0, offset = 0;
    for (int64_t k = w->lost; k != NO_PARENT; k = w->list[k].parent) depth++;
    *n = 2 * (depth + 1);
    uint64_t at = *n;
    for (int64_t k = w->lost; k != NO_PARENT; k = w->list[k].parent) {
        at -= 2;
        if (at + 1 < cap) path[at] = w->list[k].addr, path[at + 1] = offset;
        offset = w->list[k].offset;
    }
    if (cap > 1) path[0] = offset >> 32, path[1] = offset & UINT32_MAX;
}

static int lost_object(pymem_heap *h, const walk *w) {
    char text[sizeof h->message];
    uint64_t steps = 0, shown = 0;
    size_t used = 0;
    uint64_t addr = w->list[w->lost].addr;
    for (int64_t k = w->list[w->lost].parent; k != NO_PARENT; k = w->list[k].parent) steps++;
    text[0] = 0;
    uint64_t offset = w->list[w->lost].offset;
    for (int64_t k = w->list[w->lost].parent; k != NO_PARENT; k = w->list[k].parent) {
        if (shown++ < 4)
            used +=
                (size_t)snprintf(text + used, sizeof text - used, " <- 0x%llx+%llu", (ull)w->list[k].addr, (ull)offset);
        offset = w->list[k].offset;
    }
    if (steps > 4) used += (size_t)snprintf(text + used, sizeof text - used, " <- %llu more", (ull)(steps - 4));
    return fail(h, PYMEM_ETHROW, "checkmark found unmarked object 0x%llx%s <- root %llu[%llu]", (ull)addr, text,
                (ull)(offset >> 32), (ull)(offset & UINT32_MAX));
}

int mark_check(pymem_heap *h, uint64_t *path, uint64_t cap, uint64_t *n) {
    walk w = {.lost = NO_PARENT, .seen_words = ((h->cur_page << PAGE_SHIFT) / 8 + 63) / 64 + 1};
    w.seen = os_alloc(h, w.seen_words * 8);
    int rc = w.seen ? follow_all(h, &w) : fail(h, PYMEM_ENOMEM, "no memory to check a mark");
    if (!rc && w.lost != NO_PARENT) {
        tell_path(&w, path, cap, n);
        rc = lost_object(h, &w);
    }
    os_free(h, w.seen, w.seen_words * 8);
    os_free(h, w.list, w.cap * sizeof *w.list);
    return rc;
}

/* ---- deaths that somebody told ---- */

static bool is_dead(const pymem_heap *h, uint64_t addr) {
    const mspan *s = mheap_span_of(h, addr);
    if (!s || s->state != SPAN_IN_USE || !s->dead_bits) return false;
    uint32_t slot = span_slot_of(s, addr);
    return slot < s->nelems && bit_get(s->dead_bits, slot);
}

static int check_dead_from(pymem_heap *h, const mspan *s) {
    for (uint32_t i = 0; i < s->nelems; i++) {
        bool lives = span_is_allocated(s, i) && !(span_is_unswept(h, s) && !bit_get(s->mark_bits, i));
        if (!lives || (s->dead_bits && bit_get(s->dead_bits, i))) continue;
        for (uint64_t at = 0; at < s->elem_size; at += 8) {
            uint64_t p = pointer_at(h, s, i, at);
            if (p && is_dead(h, p))
                return fail(h, PYMEM_EADDRESS, "0x%llx cannot die: 0x%llx in the object at 0x%llx points to it", (ull)p,
                            (ull)(s->base + i * s->elem_size + at), (ull)span_object_addr(s, i));
        }
    }
    return PYMEM_OK;
}

/* Nobody is marking. A pointer that leads to a free slot would be a bad one for the next mark by graph. */
int mark_check_dead(pymem_heap *h) {
    const object_memory *m = h->memory;
    for (uint32_t r = 0; r < m->nroots; r++)
        for (uint64_t i = 0; m->roots[r].used && i < m->roots[r].n; i++)
            if (is_dead(h, m->roots[r].addrs[i]))
                return fail(h, PYMEM_EADDRESS, "0x%llx cannot die: it is in a variable, at root %u[%llu]",
                            (ull)m->roots[r].addrs[i], r, (ull)i);
    for (const mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int k = 0; k < SLAB_SPANS; k++) {
            const mspan *s = &slab->spans[k];
            int rc = s->state == SPAN_IN_USE && !(s->span_class & 1) ? check_dead_from(h, s) : PYMEM_OK;
            if (rc) return rc;
        }
    return PYMEM_OK;
}
