/* Compaction: what Go never does, so that people can see what moving would buy. With the world stopped and everything
 * swept, the sparsest spans of a class are emptied into the free slots of the others, and every pointer to what has
 * moved is set right: in roots, and in objects by their pointer maps; an interior pointer keeps its offset.
 *
 * How many spans of a class can go: let S spans of n slots have F free slots and L = S n - F objects. Without k of them
 * L objects fit as long as L <= (S - k) n, so k <= F / n, whichever spans these are; the sparsest cost the least moves.
 * Of them only those go that are filled to max_fill at most. Large objects have nothing to share a span with and stay.
 *
 * Whether a word of an object of no known type is a pointer nobody can tell, so it must not change: what it may point
 * to is pinned, and so are addresses that the caller names. A span with something pinned is not emptied, but may be
 * filled. The object that holds such a word may itself move.
 *
 * Everything is planned and all memory taken before the first object moves. */
#include <stdlib.h>
#include <string.h>
#include "internal.h"

enum { PINNED = UINT32_MAX >> 1 }; /* in of_page */

typedef struct {
    const pymem_heap *h;
    mspan **spans; /* of small objects, swept and in no mcache: by class and address, once victims are chosen */
    uint64_t nspans;
    mspan **victims; /* those to be emptied, by class and address */
    uint64_t *first; /* of each victim: its first slot's place in forward */
    uint64_t nvictims;
    uint64_t *forward; /* where the object in a victim's slot goes: the new slot's address; 0: there is none */
    uint64_t nforward;
    uint32_t
        *of_page; /* of a victim's pages: its number + 1; of the first page of a span with something pinned: PINNED */
    uint64_t npages, cap; /* pages of the heap, and room for spans */
    pymem_compaction sum;
} plan;

/* ---- who takes part ---- */

static void *take(pymem_heap *h, uint64_t n, size_t size) { return os_alloc(h, (n + 1) * size); }

static int plan_reserve(pymem_heap *h, plan *c) {
    *c = (plan){.h = h, .npages = h->cur_page, .cap = h->object_spans};
    c->spans = take(h, c->cap, sizeof *c->spans);
    c->victims = take(h, c->cap, sizeof *c->victims);
    c->first = take(h, c->cap, sizeof *c->first);
    c->of_page = take(h, c->npages, sizeof *c->of_page);
    bool good = c->spans && c->victims && c->first && c->of_page;
    return good ? PYMEM_OK : fail(h, PYMEM_ENOMEM, "no memory for the tables of a compaction");
}

static void plan_release(pymem_heap *h, plan *c) {
    os_free(h, c->spans, (c->cap + 1) * sizeof *c->spans);
    os_free(h, c->victims, (c->cap + 1) * sizeof *c->victims);
    os_free(h, c->first, (c->cap + 1) * sizeof *c->first);
    os_free(h, c->of_page, (c->npages + 1) * sizeof *c->of_page);
    os_free(h, c->forward, (c->nforward + 1) * sizeof *c->forward);
}

static void find_spans(pymem_heap *h, plan *c) {
    for (mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++) {
            mspan *s = &slab->spans[i];
            if (s->state == SPAN_IN_USE && s->span_class >> 1 && s->sweepgen == h->sweepgen) c->spans[c->nspans++] = s;
        }
}

/* ---- words that may be pointers ---- */

typedef void visit_word(pymem_heap *h, plan *c, uint64_t *word);

static void visit_elements(pymem_heap *h, plan *c, const type_map *t, uint64_t addr, uint64_t bytes,
                           visit_word *visit) {
    uint64_t *words = (uint64_t *)memory_at(h, addr);
    if (!t) {
        for (uint64_t i = 0; i < bytes / 8; i++) visit(h, c, &words[i]);
        return;
    }
    for (uint64_t at = 0; t->ptrdata && at < bytes; at += t->size)
        for (uint64_t w = 0; w < t->words; w++)
            for (uint64_t mask = t->mask[w]; mask; mask &= mask - 1) {
                uint64_t i = at / 8 + w * 64 + (uint64_t)__builtin_ctzll(mask);
                if (i < bytes / 8) visit(h, c, &words[i]);
            }
}

static void visit_slot(pymem_heap *h, plan *c, const mspan *s, uint32_t slot, const type_map *t, visit_word *visit) {
    uint64_t addr = s->base + slot * s->elem_size, object = span_object_addr(s, slot);
    if (!(s->span_class >> 1) || s->elem_size > MIN_HEADER_SIZE) {
        visit_elements(h, c, t, object, addr + s->elem_size - object, visit);
        return;
    }
    uint64_t *words = (uint64_t *)memory_at(h, addr);
    for (uint64_t mask = memory_read_bits(h->memory, page_of(h, addr), s->elem_size, slot); mask; mask &= mask - 1)
        visit(h, c, &words[__builtin_ctzll(mask)]);
}

static const type_map *slot_type(const pymem_heap *h, const mspan *s, uint32_t slot) {
    if (!(s->span_class >> 1)) return memory_type(h, s->large_type);
    return s->types ? memory_type(h, s->types[slot]) : NULL;
}

/* The words of living objects whose types are known, or of those whose are not. */
static void visit_span(pymem_heap *h, plan *c, const mspan *s, bool known, visit_word *visit) {
    for (uint32_t i = 0; i < s->nelems; i++) {
        if (!span_is_allocated(s, i)) continue;
        const type_map *t = slot_type(h, s, i);
        if (known == (t != NULL)) visit_slot(h, c, s, i, t, visit);
    }
}

static bool is_victim(const plan *c, const mspan *s) {
    uint32_t k = c->of_page[page_of(c->h, s->base)];
    return k && k != PINNED;
}

/* Of all spans but the victims. */
static void visit_all(pymem_heap *h, plan *c, bool known, visit_word *visit) {
    for (mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++) {
            const mspan *s = &slab->spans[i];
            if (s->state == SPAN_IN_USE && !(s->span_class & 1) && !is_victim(c, s)) visit_span(h, c, s, known, visit);
        }
}

/* ---- pins ---- */

static void pin(pymem_heap *h, plan *c, uint64_t *word) {
    const mspan *s = mheap_span_of(h, *word);
    if (!s || s->state != SPAN_IN_USE) return;
    uint32_t slot = span_slot_of(s, *word);
    if (slot < s->nelems && span_is_allocated(s, slot)) c->of_page[page_of(h, s->base)] = PINNED;
}

static void pin_all(pymem_heap *h, plan *c, const uint64_t *pins, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) pin(h, c, &(uint64_t){pins[i]});
    if (h->memory) visit_all(h, c, false, pin);
}

/* ---- the choice ---- */

static int by_address(const void *a, const void *b) {
    const mspan *s = *(mspan *const *)a, *t = *(mspan *const *)b;
    if (s->span_class != t->span_class) return s->span_class < t->span_class ? -1 : 1;
    return s->base < t->base ? -1 : s->base > t->base;
}

/* Of equally full spans the highest first, so that what is left lies low. */
static int by_fill(const void *a, const void *b) {
    const mspan *s = *(mspan *const *)a, *t = *(mspan *const *)b;
    if (s->span_class == t->span_class && s->alloc_count != t->alloc_count)
        return s->alloc_count < t->alloc_count ? -1 : 1;
    return s->span_class == t->span_class ? by_address(b, a) : by_address(a, b);
}

/* Of the n spans of one class, the sparsest first. */
static void choose_of_class(plan *c, mspan *const *spans, uint64_t n, double max_fill) {
    uint64_t free_slots = 0, slots = spans[0]->nelems;
    for (uint64_t i = 0; i < n; i++) free_slots += (uint64_t)(slots - spans[i]->alloc_count);
    uint64_t most = free_slots / slots;
    for (uint64_t i = 0; i < n && most && spans[i]->alloc_count <= max_fill * (double)slots; i++) {
        if (c->of_page[page_of(c->h, spans[i]->base)] == PINNED) {
            c->sum.spans_pinned++;
            continue;
        }
        c->victims[c->nvictims++] = spans[i];
        most--;
    }
}

static uint64_t class_end(const plan *c, uint64_t i) {
    uint32_t span_class = c->spans[i]->span_class;
    while (i < c->nspans && c->spans[i]->span_class == span_class) i++;
    return i;
}

static void number_victims(plan *c) {
    qsort(c->victims, c->nvictims, sizeof *c->victims, by_address);
    for (uint64_t k = 0; k < c->nvictims; k++) {
        const mspan *s = c->victims[k];
        c->first[k] = c->nforward;
        c->nforward += s->nelems;
        for (uint64_t i = 0; i < s->npages; i++) c->of_page[page_of(c->h, s->base) + i] = (uint32_t)k + 1;
        c->sum.pages_won += s->npages;
        c->sum.objects_moved += s->alloc_count;
        c->sum.bytes_moved += s->alloc_count * s->elem_size;
    }
    c->sum.spans_freed = c->nvictims;
}

static void choose(plan *c, double max_fill) {
    qsort(c->spans, c->nspans, sizeof *c->spans, by_fill);
    for (uint64_t i = 0, end; i < c->nspans; i = end) {
        end = class_end(c, i);
        choose_of_class(c, &c->spans[i], end - i, max_fill);
    }
    qsort(c->spans, c->nspans, sizeof *c->spans, by_address);
    number_victims(c);
}

/* ---- where each object goes ---- */

typedef struct {
    uint64_t span; /* place in the plan's spans */
    uint32_t slot; /* the next to look at */
} cursor;

/* The next free slot of the class in address order; there is one for each object to be moved. */
static uint64_t next_free_slot(const plan *c, cursor *at, uint32_t span_class) {
    for (;; at->span++, at->slot = 0) {
        const mspan *s = c->spans[at->span];
        if (s->span_class != span_class || is_victim(c, s)) continue;
        for (; at->slot < s->nelems; at->slot++)
            if (!span_is_allocated(s, at->slot)) return s->base + at->slot++ * s->elem_size;
    }
}

static void assign_slots(plan *c) {
    cursor at = {0};
    for (uint64_t k = 0; k < c->nvictims; k++) {
        const mspan *s = c->victims[k];
        for (uint32_t i = 0; i < s->nelems; i++)
            if (span_is_allocated(s, i)) c->forward[c->first[k] + i] = next_free_slot(c, &at, s->span_class);
    }
}

/* ---- one object: called for each that moves ---- */

typedef int move_slot(pymem_heap *h, mspan *from, uint32_t i, mspan *to, uint32_t j);

static int each_move(pymem_heap *h, const plan *c, move_slot *move) {
    int rc = PYMEM_OK;
    for (uint64_t k = 0; k < c->nvictims; k++)
        for (uint32_t i = 0; i < c->victims[k]->nelems && !rc; i++) {
            uint64_t addr = c->forward[c->first[k] + i];
            mspan *to = addr ? mheap_span_of(h, addr) : NULL;
            if (to) rc = move(h, c->victims[k], i, to, span_slot_of(to, addr));
        }
    return rc;
}

static bool has_type(const mspan *s, uint32_t i) { return s->types && s->types[i]; }
static bool has_tiny(const mspan *s, uint32_t i) { return s->tiny_live && s->tiny_live[i]; }
static bool is_dead(const mspan *s, uint32_t i) { return s->dead_bits && bit_get(s->dead_bits, i); }

/* What is kept of a slot beside its bit needs its table in the span that it comes to. */
static int reserve_tables(pymem_heap *h, mspan *from, uint32_t i, mspan *to, uint32_t j) {
    if (has_type(from, i) && !to->types) to->types = os_alloc(h, to->nelems * sizeof *to->types);
    if (has_tiny(from, i) && !to->tiny_live) to->tiny_live = os_alloc(h, to->nelems * sizeof *to->tiny_live);
    if (is_dead(from, i) && !to->dead_bits) to->dead_bits = os_alloc(h, bit_words(to->nelems) * 8);
    bool good = (!has_type(from, i) || to->types) && (!has_tiny(from, i) || to->tiny_live) &&
                (!is_dead(from, i) || to->dead_bits);
    return good ? PYMEM_OK : fail(h, PYMEM_ENOMEM, "no memory for a span's slot table");
}

static int move_object(pymem_heap *h, mspan *from, uint32_t i, mspan *to, uint32_t j) {
    if (h->memory) memory_move_slot(h, from, i, to, j);
    if (to->types) to->types[j] = from->types ? from->types[i] : 0;
    if (to->tiny_live) to->tiny_live[j] = from->tiny_live ? from->tiny_live[i] : 0;
    if (is_dead(from, i)) bit_set(to->dead_bits, j);
    bit_set(to->alloc_bits, j);
    to->alloc_count++;
    return PYMEM_OK;
}

/* ---- what points to it ---- */

static void forward_word(pymem_heap *h, plan *c, uint64_t *word) {
    uint64_t page = page_of(h, *word);
    uint32_t k = page < c->npages ? c->of_page[page] : 0;
    if (!k || k == PINNED) return;
    const mspan *s = c->victims[k - 1];
    uint32_t slot = span_slot_of(s, *word);
    if (slot >= s->nelems || !c->forward[c->first[k - 1] + slot]) return;
    *word = c->forward[c->first[k - 1] + slot] + (*word - s->base - slot * s->elem_size);
    c->sum.pointers_set++;
}

static void forward_all(pymem_heap *h, plan *c) {
    if (!h->memory || !c->nvictims) return;
    for (uint32_t r = 0; r < h->memory->nroots; r++)
        for (uint64_t i = 0; h->memory->roots[r].used && i < h->memory->roots[r].n; i++)
            forward_word(h, c, &h->memory->roots[r].addrs[i]);
    visit_all(h, c, true, forward_word);
}

/* ---- the spans afterwards ---- */

static void free_victims(pymem_heap *h, proc *p, const plan *c) {
    for (uint64_t k = 0; k < c->nvictims; k++) {
        mspan *s = c->victims[k];
        span_set_remove(h, s, swept_parity(h));
        s->alloc_count = 0;
        mheap_free_span(h, p, s);
    }
}

/* Those that have become full go from the partial set to the full one. */
static void settle_filled(pymem_heap *h, proc *p, const plan *c) {
    const uint8_t partial = 1;
    for (uint64_t i = 0; i < c->nspans; i++) {
        mspan *s = c->spans[i];
        if (is_victim(c, s) || s->alloc_count < s->nelems || s->in_set[swept_parity(h)] != partial) continue;
        span_set_remove(h, s, swept_parity(h));
        span_set_push(h, p, s, true);
    }
}

static void tell_moves(const plan *c, pymem_moves *moves) {
    moves->n = 0;
    for (uint64_t k = 0; k < c->nvictims; k++)
        for (uint32_t i = 0; i < c->victims[k]->nelems; i++) {
            const mspan *s = c->victims[k];
            uint64_t to = c->forward[c->first[k] + i];
            if (!to) continue;
            moves->before[moves->n] = s->base + i * s->elem_size;
            moves->size[moves->n] = s->elem_size;
            moves->after[moves->n++] = to;
        }
}

/* ---- the whole ---- */

/* Nobody holds a span, and everything is swept. */
static int come_to_rest(pymem_heap *h, proc *p) {
    int rc = gc_settle(h, p);
    for (int32_t i = 0; i < h->nprocs && !rc; i++)
        if (h->procs[i]) rc = proc_flush(h, p, h->procs[i]);
    return rc || !h->no_p.cache ? rc : proc_flush(h, p, &h->no_p);
}

static int make_plan(pymem_heap *h, plan *c, double max_fill, const uint64_t *pins, uint64_t npins) {
    int rc = plan_reserve(h, c);
    if (rc) return rc;
    find_spans(h, c);
    pin_all(h, c, pins, npins);
    choose(c, max_fill);
    c->forward = take(h, c->nforward, sizeof *c->forward);
    if (!c->forward) return fail(h, PYMEM_ENOMEM, "no memory for the forwarding table of a compaction");
    assign_slots(c);
    return PYMEM_OK;
}

/* From here on nothing can fail. */
static void carry_out(pymem_heap *h, proc *p, plan *c) {
    each_move(h, c, move_object);
    forward_all(h, c);
    settle_filled(h, p, c);
    free_victims(h, p, c);
}

static int check_room(pymem_heap *h, const plan *c, const pymem_moves *moves) {
    if (moves->cap >= c->sum.objects_moved) return PYMEM_OK;
    return fail(h, PYMEM_EINVAL, "%llu objects are to move, but there is room to tell of %llu",
                (unsigned long long)c->sum.objects_moved, (unsigned long long)moves->cap);
}

int compact(pymem_heap *h, proc *p, double max_fill, const uint64_t *pins, uint64_t npins, pymem_moves *moves,
            pymem_compaction *out) {
    plan c;
    int rc = come_to_rest(h, p);
    if (rc) return rc;
    rc = make_plan(h, &c, max_fill, pins, npins);
    if (!rc && moves) rc = check_room(h, &c, moves);
    if (!rc && moves) rc = each_move(h, &c, reserve_tables);
    if (!rc && moves) {
        tell_moves(&c, moves);
        carry_out(h, p, &c);
    }
    if (!rc) *out = c.sum;
    plan_release(h, &c);
    return rc;
}
