/* The part of a snapshot that only programs with pointers have: types, the bytes of living objects, their pointer maps,
 * roots, and a mark under way. Of the bytes only words that are not 0 are written, and nothing of what no longer lives:
 * a slot is zeroed before it is used again. */
#include <string.h>
#include "snapshot.h"

#define ANY UINT64_MAX

/* ---- types ---- */

static void write_types(walk *w) {
    for (uint32_t id = 1; id < w->h->ntypes; id++) {
        type_map *t = &w->h->types[id];
        if (!t->size) continue;
        STREAM(&w->s, id, UINT32_MAX);
        STREAM(&w->s, t->size, ANY);
        STREAM(&w->s, t->ptrdata, ANY);
        stream_words(&w->s, t->mask, t->words);
    }
    uint64_t end = 0;
    stream_number(&w->s, &end, ANY);
}

static bool read_type(walk *w, uint32_t id) {
    uint64_t size = 0, ptrdata = 0;
    STREAM(&w->s, size, ANY);
    STREAM(&w->s, ptrdata, ANY);
    uint64_t words = ptrdata / 8 ? (ptrdata / 8 + 63) / 64 : 1, bytes = words * 8;
    if (words > stream_left(&w->s)) stream_wrong(&w->s, "a type is larger than the file");
    uint64_t *mask = w->s.status ? NULL : os_alloc(w->h, bytes);
    if (!mask) stream_no_memory(&w->s);
    if (!mask) return false;
    stream_words(&w->s, mask, words);
    int rc = w->s.status ? PYMEM_OK : memory_type_add(w->h, id, size, ptrdata, mask, words);
    os_free(w->h, mask, bytes);
    if (rc == PYMEM_ENOMEM) stream_no_memory(&w->s);
    else if (rc) stream_wrong(&w->s, "a type that cannot be");
    return !w->s.status;
}

static void read_types(walk *w) {
    uint32_t id = 0;
    do STREAM(&w->s, id, UINT32_MAX);
    while (id && read_type(w, id));
}

/* Before there are spans: each then enters itself in the tables. */
void snapshot_memory_on(walk *w) {
    bool on = w->h->memory != NULL;
    if (w->s.reading) read_types(w);
    else write_types(w);
    STREAM(&w->s, on, 1);
    if (!on || w->s.status || !w->s.reading) return;
    if (memory_on(w->h)) stream_no_memory(&w->s);
}

/* ---- what the tables tell of pages ---- */

/* The mask counts where the state says so; elsewhere it is left over. Who waits is told by the queue. */
static void walk_page_tables(walk *w, uint64_t page) {
    object_memory *m = w->h->memory;
    uint64_t masks[CHUNK_PAGES];
    uint8_t states[CHUNK_PAGES];
    for (uint32_t i = 0; i < CHUNK_PAGES; i++) {
        states[i] = m->state[page + i];
        masks[i] = states[i] & PAGE_MASK ? m->mask[page + i] : 0;
    }
    stream_runs(&w->s, states, CHUNK_PAGES, sizeof *states);
    stream_runs(&w->s, masks, CHUNK_PAGES, sizeof *masks);
    if (!w->s.reading || w->s.status) return;
    memcpy(m->state + page, states, sizeof states);
    memcpy(m->mask + page, masks, sizeof masks);
}

/* ---- what objects hold ---- */

/* Slots to which something may still lead. */
static bool slot_lives(const mspan *s, uint32_t i, bool unswept) {
    return span_is_allocated(s, i) && (!unswept || bit_get(s->mark_bits, i));
}

/* The end of the run of slots from i on that live, or do not. */
static uint32_t run_end(const mspan *s, uint32_t i, bool unswept) {
    bool lives = slot_lives(s, i, unswept);
    while (++i < s->nelems && slot_lives(s, i, unswept) == lives) continue;
    return i;
}

static void set_bits(uint64_t *bits, uint64_t from, uint64_t end) {
    for (uint64_t w = from / 64; w * 64 < end; w++) {
        uint64_t first = from > w * 64 ? from - w * 64 : 0;
        uint64_t below = end - w * 64 < 64 ? (1ull << (end - w * 64)) - 1 : UINT64_MAX;
        bits[w] |= below & ~((1ull << first) - 1);
    }
}

/* Pointer maps of the slots that live. Spans with such maps have one page. */
static void walk_heap_bits(walk *w, const mspan *s, const uint64_t *living) {
    uint64_t *bits = memory_heap_bits(w->h->memory, page_of(w->h, s->base), s->elem_size), kept[HEAP_BITS_WORDS] = {0};
    for (uint32_t i = 0; i < HEAP_BITS_WORDS && !w->s.reading; i++) kept[i] = bits[i] & living[i];
    stream_words(&w->s, kept, HEAP_BITS_WORDS);
    for (uint32_t i = 0; i < HEAP_BITS_WORDS && w->s.reading; i++) bits[i] = kept[i] & living[i];
}

/* Runs of living slots are one table of words. */
static void walk_slots(walk *w, const mspan *s) {
    bool unswept = span_is_unswept(w->h, s), small = s->span_class > 1 && s->elem_size <= MIN_HEADER_SIZE;
    bool maps = small && !(s->span_class & 1);
    uint64_t living[HEAP_BITS_WORDS] = {0}, words = s->elem_size / 8;
    for (uint32_t i = 0, end; i < s->nelems && !w->s.status; i = end) {
        end = run_end(s, i, unswept);
        if (!slot_lives(s, i, unswept)) continue;
        stream_words(&w->s, (uint64_t *)memory_at(w->h, s->base + i * s->elem_size), (end - i) * words);
        if (maps) set_bits(living, i * words, end * words);
    }
    if (maps) walk_heap_bits(w, s, living);
}

static void walk_contents(walk *w) {
    for (uint64_t i = 0; i < w->nspans && !w->s.status; i++) {
        if (w->spans[i]->state == SPAN_IN_USE) walk_slots(w, w->spans[i]);
    }
}

/* ---- roots ---- */

static void walk_root_set(walk *w, root_set *r) {
    uint64_t n = r->n;
    STREAM(&w->s, r->used, 1);
    STREAM(&w->s, r->kind, PYMEM_ROOTS_HELD);
    STREAM(&w->s, r->begun, ANY);
    STREAM(&w->s, r->scanned, 1);
    STREAM(&w->s, n, ANY);
    if (w->s.reading && n) {
        if (n > 8 * stream_left(&w->s) || !r->used) stream_wrong(&w->s, "more roots than bytes");
        r->addrs = w->s.status ? NULL : os_alloc(w->h, n * sizeof *r->addrs + 8);
        if (!r->addrs) stream_no_memory(&w->s);
        r->n = r->addrs ? n : 0;
        r->cap = r->addrs ? n + 1 : 0;
    }
    if (r->n) stream_words(&w->s, r->addrs, r->n);
}

static void walk_roots(walk *w) {
    object_memory *m = w->h->memory;
    uint32_t n = m->nroots;
    STREAM(&w->s, m->points, 1);
    STREAM(&w->s, n, UINT32_MAX);
    if (w->s.reading && n) {
        if (n > stream_left(&w->s)) stream_wrong(&w->s, "more sets of roots than bytes");
        m->roots = w->s.status ? NULL : os_alloc(w->h, n * sizeof *m->roots);
        if (!m->roots) stream_no_memory(&w->s);
        m->nroots = m->roots ? n : 0;
    }
    for (uint32_t i = 0; i < m->nroots && !w->s.status; i++) walk_root_set(w, &m->roots[i]);
}

/* ---- a mark under way ---- */

static void walk_mark(walk *w) {
    pymem_heap *h = w->h;
    bool on = h->mark != NULL;
    STREAM(&w->s, on, 1);
    if (on && !h->marking) stream_wrong(&w->s, "a mark while none is on");
    if (!on || w->s.status) return;
    for (uint64_t page = 0; page < h->cur_page && !w->s.status; page++)
        stream_words(&w->s, h->memory->bits[page], PAGE_BIT_WORDS);
    if (w->s.status) return;
    if (w->s.reading && mark_graph_reserve(h)) stream_no_memory(&w->s);
    else mark_stream(h, &w->s);
}

void snapshot_walk_memory(walk *w) {
    pymem_heap *h = w->h;
    if (!h->memory || w->s.status) return;
    for (uint64_t page = 0; page < h->cur_page && !w->s.status; page += CHUNK_PAGES) walk_page_tables(w, page);
    walk_contents(w);
    walk_roots(w);
    walk_mark(w);
}
