/* Holds the emulator against an execution trace, allocation by allocation. A trace tells where every object went and
 * what every sweep freed, but not which spans were swept without freeing anything, nor (with several Ps) who held which
 * span when it began. So the emulator predicts each address, is compared, and where it was wrong takes reality's span
 * and goes on: one wrong guess about a span costs one miss.
 *
 * What of the record is followed: deaths (read ahead to the next cycle, as a mark would find them), when cycles turn,
 * when a sweep frees something, that a fresh span was taken, by how much a refill raised heapLive: that is the number
 * of free slots of the span it took. Never an address of the allocation to be predicted.
 *
 * What stays: the snapshot does not tell in which order partly filled spans wait. Where several with as many free slots
 * do, the next in order of addresses after the last one taken is guessed, which fails for one in four. A span's place
 * is known once it has been taken or a sweep has freed something in it, so that is over after a cycle or two. With
 * several Ps two that refill at once may also be recorded in the wrong order. */
#include <string.h>
#include "internal.h"

enum { MAX_IN_FLIGHT = 64, LATE_ROWS = 1 << 29 /* looked at in all searches for late events: half a second */ };
enum { MAX_MISSES = 64, NO_CODE = 0, MANUAL_CODE = 1 + 1, TINY_SLOTS = PAGE_SIZE / TINY_SIZE };
enum { LIVES = 8 /* more words of heapLive than can be out of order */ };
enum { GIVEN_BACK = 1 }; /* in a remembered span's base: the sweep gave its pages back */

/* What the record has at a page: code is kindclass + 1 (kindclass 1: manual; else span class << 1), 0 for nothing. Of a
 * span that holds one thing only the first page says so. */
typedef struct {
    uint32_t back, npages;
    uint16_t code;
    uint16_t *opened; /* of a tiny span: by slot, the epoch in which its block was handed out; NULL before the first */
} rec_page;

typedef struct {
    uint64_t *spans, n,
        cap;       /* announced by frees inside a sweep that an allocation makes; swept before the allocation */
    bool in_sweep; /* between SWEEP_BEGIN and SWEEP_END */
    bool grew;     /* a fresh span was recorded since the last allocation */
    uint64_t low;  /* the last object in a slot below the next one, as far as known; 0: none */
    mspan *guess;  /* a span that was swept for the next allocation, though the record has not said so */
    uint64_t live; /* heapLive as the proc left it on its way to the next allocation; 0: no word of it */
    uint8_t seen[NUM_SPAN_CLASSES], seen_pages; /* what of this proc's start is known by now */
} proc_view;

struct pymem_follow {
    pymem_heap *h;
    pymem_trace_rows rows;
    uint64_t row, stats_reason;
    uint64_t live[LIVES], nlives;                    /* heapLive as recorded last, a ring */
    bool repair, started, begun, sweep_due, stopped; /* begun: between GC_BEGIN and GC_END */
    rec_page **arenas;                               /* [arena][page]; NULL where the record has nothing */
    uint64_t narenas;
    uint16_t epoch;                    /* flushes so far, never 0 */
    uint64_t in_flight[MAX_IN_FLIGHT]; /* open loop: slots taken by allocations whose own event is still to come */
    uint32_t nin_flight;
    uint64_t late_rows;
    proc_view *procs; /* [nprocs + 1]; the last for threads without a P */
    int32_t nprocs;
    pymem_follow_counts counts;
    pymem_miss misses[MAX_MISSES];
    uint64_t nmisses;
};

/* ---- the record's own map ---- */

static int map_arena(pymem_follow *f, uint64_t arena) {
    if (f->arenas[arena]) return PYMEM_OK;
    f->arenas[arena] = os_alloc(f->h, ARENA_PAGES * sizeof(rec_page));
    return f->arenas[arena] ? PYMEM_OK : fail(f->h, PYMEM_ENOMEM, "no memory for the record's map of pages");
}

static rec_page *rec_at(const pymem_follow *f, uint64_t page) {
    return &f->arenas[page / ARENA_PAGES][page % ARENA_PAGES];
}
static uint32_t rec_class(const rec_page *r) { return (uint32_t)(r->code - 1) >> 1; }

static void fill_page(rec_page *r, uint32_t back, uint32_t npages, uint16_t code) {
    *r = (rec_page){.back = back, .npages = npages, .code = code, .opened = r->opened};
    if (r->opened) memset(r->opened, 0, TINY_SLOTS * sizeof *r->opened);
}

/* The span's place and kind are good: span_check. */
static int map_set(pymem_follow *f, uint64_t base, uint64_t npages, uint32_t code) {
    uint64_t page = page_of(f->h, base), n = (code - 1) >> 2 ? npages : 1;
    for (uint64_t i = page; i < page + n; i++) {
        int rc = map_arena(f, i / ARENA_PAGES);
        if (rc) return rc;
        fill_page(rec_at(f, i), (uint32_t)(i - page), (uint32_t)npages, (uint16_t)code);
    }
    return PYMEM_OK;
}

static void map_clear(pymem_follow *f, uint64_t base, const rec_page *r) {
    uint64_t page = page_of(f->h, base), n = (r->code - 1) >> 2 ? r->npages : 1;
    for (uint64_t i = page; i < page + n; i++)
        if (f->arenas[i / ARENA_PAGES]) fill_page(rec_at(f, i), 0, 0, NO_CODE);
}

static const rec_page *map_at(const pymem_follow *f, uint64_t addr) {
    if (addr < f->h->config.arena_base) return NULL;
    uint64_t page = page_of(f->h, addr), arena = page / ARENA_PAGES;
    const rec_page *r = arena < f->narenas && f->arenas[arena] ? rec_at(f, page) : NULL;
    return r && r->code != NO_CODE ? r : NULL;
}

/* A trace that says otherwise is damaged. */
static int span_check(const pymem_follow *f, uint64_t base, uint64_t npages, uint32_t kindclass) {
    pymem_heap *h = f->h;
    uint64_t limit = h->config.address_space >> PAGE_SHIFT;
    uint32_t sizeclass = kindclass >> 2;
    bool placed = base >= h->config.arena_base && base % PAGE_SIZE == 0 && page_of(h, base) >= h->padding;
    bool fits = placed && npages && npages <= limit && page_of(h, base) <= limit - npages;
    bool known = kindclass == 1 || (!(kindclass & 1) && sizeclass < NUM_CLASSES);
    bool sized = !sizeclass || !known || npages == size_classes_go()->npages[sizeclass];
    if (fits && known && sized) return PYMEM_OK;
    return fail(h, PYMEM_EFORMAT, "a span of %llu pages, kind and class %u, at 0x%llx cannot be",
                (unsigned long long)npages, kindclass, (unsigned long long)base);
}

static uint64_t rec_base(const pymem_follow *f, uint64_t addr, const rec_page *r) {
    return page_addr(f->h, page_of(f->h, addr) - r->back);
}

/* ---- procs ---- */

static proc *proc_at(pymem_follow *f, uint64_t row, proc_view **view) {
    int16_t p = f->rows.p[row];
    bool known = p >= 0 && p < f->nprocs;
    *view = &f->procs[known ? p : f->nprocs];
    return known ? f->h->procs[p] : f->nprocs == 1 ? f->h->procs[0] : &f->h->no_p;
}

static void miss(pymem_follow *f, uint64_t got, uint64_t want, uint32_t kind) {
    if (f->nmisses < MAX_MISSES)
        f->misses[f->nmisses++] = (pymem_miss){.row = f->row, .got = got, .want = want, .kind = kind};
}

/* ---- sweeping as the record lets it be seen ---- */

static bool frees_something(const mspan *s) { return span_count_marks(s) < s->alloc_count; }
static bool unswept(const pymem_heap *h, const mspan *s) {
    return s->state == SPAN_IN_USE && s->sweepgen == h->sweepgen - 2;
}

/* Is the span the first, in the order of sweeping, that frees something? Then all before it were swept in silence. */
static bool is_next_in_turn(pymem_heap *h, const mspan *wanted) {
    for (uint32_t k = h->sweep_cursor; k < 2 * NUM_SPAN_CLASSES; k++) {
        span_set *q = set_unswept(h, k >> 1, !(k & 1));
        for (const mspan *s = q->first; s; s = s->set_next[1 - swept_parity(h)]) {
            if (s == wanted) return true;
            if (unswept(h, s) && frees_something(s)) return false;
        }
    }
    return false;
}

static int sweep_announced(pymem_follow *f, proc *p, mspan *wanted) {
    pymem_heap *h = f->h;
    bool freed;
    if (is_next_in_turn(h, wanted)) {
        for (mspan *s = NULL; s != wanted;) {
            uint64_t base;
            int rc = sweep_one(h, p, &s, &base);
            if (rc || !base) return rc;
        }
        return PYMEM_OK;
    }
    return sweep_acquire(h, wanted) ? sweep_span(h, p, wanted, false, &freed) : PYMEM_OK;
}

static int remember(pymem_follow *f, proc_view *v, uint64_t base) {
    if (v->n && (v->spans[v->n - 1] & ~(uint64_t)GIVEN_BACK) == (base & ~(uint64_t)GIVEN_BACK)) {
        v->spans[v->n - 1] |= base;
        return PYMEM_OK;
    }
    if (v->n == v->cap) {
        uint64_t cap = v->cap ? 2 * v->cap : 64;
        void *q = os_grow(f->h, v->spans, v->cap * 8, cap * 8);
        if (!q) return fail(f->h, PYMEM_ENOMEM, "no memory for announced sweeps");
        v->spans = q;
        v->cap = cap;
    }
    v->spans[v->n++] = base;
    return PYMEM_OK;
}

/* A refill ends its sweeping with the first span that has a free slot. So the last span announced may be the one
 * that it came upon, if it is of the class and not given back, and the only such one: others were swept in turn. */
static mspan *came_upon(const pymem_follow *f, const proc_view *v, uint32_t span_class) {
    mspan *found = NULL;
    for (uint64_t i = 0; i < v->n && span_class > 1; i++) {
        mspan *s = mheap_span_of(f->h, v->spans[i] & ~(uint64_t)GIVEN_BACK);
        bool own = s && unswept(f->h, s) && s->span_class == span_class && !(v->spans[i] & GIVEN_BACK);
        if (own && (found || i + 1 < v->n)) return NULL;
        if (own) found = s;
    }
    return found;
}

/* The spans announced on the way to an allocation are swept before it, all but one. */
static int sweep_remembered(pymem_follow *f, proc *p, proc_view *v, const mspan *spare) {
    for (uint64_t i = 0; i < v->n; i++) {
        mspan *s = mheap_span_of(f->h, v->spans[i] & ~(uint64_t)GIVEN_BACK);
        if (!s || s == spare || !unswept(f->h, s)) continue;
        int rc = sweep_announced(f, p, s);
        if (rc) return rc;
    }
    v->n = 0;
    return PYMEM_OK;
}

/* Where heapLive falls while the world is stopped, all that was said of it before has come in. */
static void on_heap_live(pymem_follow *f, proc_view *v) {
    if (f->stopped && f->rows.a[f->row] < f->live[(f->nlives - 1) % LIVES]) memset(f->live, 0, sizeof f->live);
    v->live = f->live[f->nlives++ % LIVES] = f->rows.a[f->row];
}

/* What heapLive was before the proc changed it: several Ps' words of it may stand in the wrong order. */
static uint64_t live_before(const pymem_follow *f, uint64_t live) {
    uint64_t before = 0;
    for (uint32_t i = 0; i < LIVES; i++)
        if (f->live[i] < live && f->live[i] > before) before = f->live[i];
    return before;
}

/* heapLive grows by a span's free slots when a proc takes it. Their number, or 0 if this cannot be that. */
static uint32_t announced_slots(const pymem_follow *f, const proc_view *v, uint32_t span_class) {
    if (!v->live || span_class < 2) return 0;
    const size_classes *t = size_classes_go();
    uint64_t size = t->size[span_class >> 1], bytes = (uint64_t)t->npages[span_class >> 1] << PAGE_SHIFT;
    uint64_t grown = v->live - live_before(f, v->live), used = (bytes - grown) / size;
    bool fits = grown <= bytes && (bytes - grown) % size == 0 && used < t->nelems[span_class];
    return fits ? t->nelems[span_class] - (uint32_t)used : 0;
}

/* Did the refill sweep own, and take it? Not where a swept one was waiting. A swept one without objects is a wrong
 * guess of the past. */
static bool took_own(pymem_follow *f, const mspan *own, uint32_t slots) {
    const mspan *waits = set_swept(f->h, own->span_class, false)->first;
    if (!slots) return !waits;
    bool fits = waits && waits->alloc_count && restore_slots_left(f->h, waits) == slots;
    return !fits && restore_slots_left(f->h, own) == slots;
}

/* The proc takes the span that it took in reality before this allocation, as far as the record has told by now. */
static int refill_as_told(pymem_follow *f, proc *p, proc_view *v, uint32_t span_class) {
    pymem_heap *h = f->h;
    mspan *own = came_upon(f, v, span_class);
    int rc = sweep_remembered(f, p, v, own);
    if (rc) return rc;
    uint32_t slots = announced_slots(f, v, span_class);
    if (own && !v->grew && took_own(f, own, slots)) return restore_use(h, p, own);
    if (own) rc = sweep_announced(f, p, own);
    if (rc || v->grew || !slots) return rc;
    mspan *s = restore_choose(h, span_class, slots);
    if (s && unswept(h, s)) v->guess = s;
    return s ? restore_use(h, p, s) : PYMEM_OK;
}

/* A sweep frees the object at addr or (given_back) the whole span there. */
static int on_freed(pymem_follow *f, uint64_t addr, uint64_t given_back) {
    proc_view *v;
    proc *p = proc_at(f, f->row, &v);
    mspan *s = mheap_span_of(f->h, addr);
    if (!f->repair || !s || !unswept(f->h, s)) return PYMEM_OK;
    return v->in_sweep ? remember(f, v, s->base | given_back) : sweep_announced(f, p, s);
}

/* ---- cycles ---- */

/* What the sweeps of this cycle will free is dead now. A slot met twice is fine. */
static int read_deaths(pymem_follow *f, uint64_t *deaths) {
    const pymem_trace_rows *t = &f->rows;
    *deaths = 0;
    for (uint64_t i = f->row + 1; i < t->n && t->kind[i] != TRACE_GC_END; i++) {
        if (t->kind[i] != TRACE_OBJECT_FREE) continue;
        mspan *s = mheap_span_of(f->h, t->a[i]);
        if (!s || s->state != SPAN_IN_USE) continue;
        uint32_t slot = span_slot_of(s, t->a[i]);
        if (slot >= s->nelems || !span_is_allocated(s, slot)) continue;
        int rc = span_kill_slot(f->h, s, slot);
        if (rc) return rc;
        ++*deaths;
    }
    return PYMEM_OK;
}

static int flush_all(pymem_follow *f, proc *p) {
    if (++f->epoch == 0) f->epoch = 1;
    for (int32_t i = 0; i < f->nprocs; i++) {
        int rc = proc_flush(f->h, p, f->h->procs[i]);
        if (rc) return rc;
    }
    return PYMEM_OK;
}

static int begin_cycle(pymem_follow *f, proc *p, bool forced) {
    if (f->begun) return fail(f->h, PYMEM_EFORMAT, "a cycle begins before the last one has ended");
    for (int32_t i = 0; i <= f->nprocs; i++) {
        int rc = sweep_remembered(f, p, &f->procs[i], NULL);
        if (rc) return rc;
    }
    int rc = gc_begin(f->h, p);
    if (rc) return rc;
    f->begun = true;
    f->sweep_due = forced;
    f->counts.cycles++;
    f->counts.forced += forced;
    return PYMEM_OK;
}

/* A cycle that was asked for is swept before the caller goes on. The first one may have begun before the trace did. */
static int on_gc_end(pymem_follow *f, proc *p) {
    uint64_t deaths;
    int rc = f->begun ? PYMEM_OK : begin_cycle(f, p, false);
    if (!rc) rc = read_deaths(f, &deaths);
    if (rc) return rc;
    f->begun = false;
    gc_mark_record(f->h);
    gc_flip(f->h);
    rc = flush_all(f, p);
    gc_end(f->h, p, f->sweep_due);
    if (!rc && f->sweep_due) rc = sweep_all(f->h, p, NULL);
    f->sweep_due = false;
    return rc;
}

/* ---- predictions ----
 *
 * A goroutine may be preempted after it has taken a slot and before it writes its event; others allocate meanwhile, and
 * the record has the two in the wrong order. Following, that costs a miss; in the open loop all that comes after would
 * be off. So there an allocation that takes a fresh span is dated by the span's event, which is written on the spot;
 * and where the predicted slot turns up in a later event, that allocation was the first of the two. */

static int predict(pymem_follow *f, proc *p, uint32_t span_class, uint64_t npages, uint32_t type, uint64_t *addr) {
    f->h->scripted = f->repair;
    f->h->nscript = 0;
    int rc = heap_malloc_class(f->h, p, span_class, npages, type, addr);
    f->h->scripted = false;
    return rc;
}

static bool in_flight_take(pymem_follow *f, uint64_t slot) {
    for (uint32_t i = 0; i < f->nin_flight; i++) {
        if (f->in_flight[i] != slot) continue;
        f->in_flight[i] = f->in_flight[--f->nin_flight];
        return true;
    }
    return false;
}

static void in_flight_add(pymem_follow *f, uint64_t slot) {
    if (f->nin_flight < MAX_IN_FLIGHT) f->in_flight[f->nin_flight++] = slot;
}

/* Does the event of an object in this slot come later, in the same cycle? */
static bool comes_late(pymem_follow *f, uint64_t slot) {
    const pymem_trace_rows *t = &f->rows;
    uint64_t size = mheap_span_of(f->h, slot)->elem_size, i = f->row + 1;
    bool found = false;
    for (; i < t->n && t->kind[i] != TRACE_GC_END && f->late_rows < LATE_ROWS && !found; i++, f->late_rows++)
        found = t->kind[i] == TRACE_OBJECT_ALLOC && t->a[i] >= slot && t->a[i] - slot < size;
    return found;
}

/* The open loop's answer to an event that says want. */
static int predict_in_order(pymem_follow *f, proc *p, const rec_page *r, uint64_t want, uint64_t *got) {
    *got = want;
    if (in_flight_take(f, want)) return PYMEM_OK;
    for (;;) {
        int rc = predict(f, p, rec_class(r), r->npages, (uint32_t)f->rows.b[f->row], got);
        if (rc || *got == want || f->nin_flight == MAX_IN_FLIGHT || !comes_late(f, *got)) return rc;
        in_flight_add(f, *got);
    }
}

/* ---- spans ---- */

static int on_manual(pymem_follow *f, uint64_t base, uint64_t npages) {
    proc_view *v;
    proc *p = proc_at(f, f->row, &v);
    mspan *s;
    f->counts.manual++;
    if (p->has_p && !v->seen_pages && uses_page_cache(npages) && f->repair) {
        v->seen_pages = 1; /* which block of pages the proc holds shows when it first takes from it */
        int rc = restore_page_block(f->h, p, base, npages);
        if (rc) return rc;
    }
    int rc = mheap_alloc_span(f->h, p, npages, PYMEM_SPAN_STACK, 0, &s);
    if (rc) return rc;
    if (s->base == base) {
        f->counts.manual_matched++;
        return PYMEM_OK;
    }
    miss(f, s->base, base, TRACE_SPAN_ALLOC);
    if (!f->repair) return PYMEM_OK;
    restore_drop(f->h, s);
    if (uses_page_cache(npages) && p->has_p) restore_claim_page(f->h, p, base);
    rc = restore_span(f->h, base, npages, PYMEM_SPAN_STACK, 0, &s);
    if (!rc && uses_page_cache(npages) && p->has_p) restore_adopt_block(f->h, p, base, npages);
    return rc;
}

static int on_span_alloc(pymem_follow *f) {
    uint64_t base = f->rows.a[f->row], npages = f->rows.b[f->row];
    uint32_t kindclass = f->rows.c[f->row];
    int rc = span_check(f, base, npages, kindclass);
    if (!rc) rc = map_set(f, base, npages, kindclass + 1);
    if (rc) return rc;
    if (kindclass & 1) return on_manual(f, base, npages);
    proc_view *v;
    proc *p = proc_at(f, f->row, &v);
    v->grew = true;
    if (!f->repair && p->cache) {
        uint64_t slot;
        rc = predict(f, p, kindclass >> 1, npages, 0, &slot);
        if (!rc) in_flight_add(f, slot);
        return rc;
    }
    if (p->has_p && !v->seen_pages && uses_page_cache(npages) && f->repair) {
        v->seen_pages = 1;
        return restore_page_block(f->h, p, base, npages);
    }
    return PYMEM_OK;
}

static int on_span_free(pymem_follow *f) {
    uint64_t base = f->rows.a[f->row];
    const rec_page *r = map_at(f, base);
    if (!r || r->back || base % PAGE_SIZE) return PYMEM_OK;
    bool manual = r->code == MANUAL_CODE;
    map_clear(f, base, r);
    mspan *s = mheap_span_of(f->h, base);
    if (!s || s->base != base) return PYMEM_OK;
    bool kept = !manual && f->repair && !unswept(f->h, s) && s->alloc_count == 0;
    if (kept) restore_drop(f->h, s); /* a wrong guess had it swept for its slots */
    if (!manual) return kept ? PYMEM_OK : on_freed(f, base, GIVEN_BACK);
    if (s->state == SPAN_MANUAL) mheap_free_span(f->h, &f->h->no_p, s);
    return PYMEM_OK;
}

/* ---- allocations ---- */

/* The object is in a slot below the proc's next one: it comes late, or another one did that was taken for this proc's
 * last, and the proc is still down here. The second in a row tells. */
static void catch_up(pymem_follow *f, proc *p, proc_view *v, uint64_t want) {
    mspan *s = mheap_span_of(f->h, want), *last = v->low ? mheap_span_of(f->h, v->low) : NULL;
    if (!s || !(s->span_class >> 1) || p->cache->alloc[s->span_class] != s) return;
    uint32_t slot = span_slot_of(s, want);
    if (slot >= s->freeindex) return;
    if (s == last && v->low < want) restore_rewind(s, slot);
    v->low = want;
}

static int repair_alloc(pymem_follow *f, proc *p, proc_view *v, uint64_t got, bool fresh, uint64_t want,
                        const rec_page *r) {
    pymem_heap *h = f->h;
    uint64_t base = rec_base(f, want, r);
    uint32_t span_class = rec_class(r);
    mspan *guess = v->guess == mheap_span_of(h, got) ? v->guess : NULL;
    restore_undo(h, p, got, fresh);
    if (guess && guess->in_set[1 - swept_parity(h)]) restore_unsweep(h, guess);
    if (span_class >> 1)
        return restore_cached(h, p, base, r->npages, span_class,
                              (uint32_t)((want - base) / size_classes_go()->size[span_class >> 1]));
    mspan *s;
    int rc = restore_span(h, base, r->npages, PYMEM_SPAN_HEAP, span_class, &s);
    if (!rc) restore_large(h, p, s);
    return rc;
}

/* With several Ps a proc's span of a class shows when it first allocates from it. */
static bool learn_span(pymem_follow *f, proc *p, proc_view *v, uint64_t want, const rec_page *r, int *rc) {
    uint32_t span_class = rec_class(r);
    if (f->nprocs < 2 || !f->repair || v->seen[span_class] || span_class < 2) return false;
    v->seen[span_class] = 1;
    uint64_t base = rec_base(f, want, r);
    mspan *s = mheap_span_of(f->h, base);
    if (!s || s->base != base || s->span_class != span_class || p->cache->alloc[span_class] != &empty_span)
        return false;
    *rc = restore_cached(f->h, p, base, r->npages, span_class, (uint32_t)((want - base) / s->elem_size));
    f->counts.learned++;
    return true;
}

/* A trace names a tiny object by its block, and all 16-byte objects without pointers alike. One at a block handed out
 * since the procs were last flushed, which ends all current blocks, is another part of it; else the slot is new. */
static bool joins_tiny_block(const pymem_follow *f, uint64_t block) {
    const rec_page *r = rec_at(f, page_of(f->h, block));
    return r->opened && r->opened[(block & (PAGE_SIZE - 1)) / TINY_SIZE] == f->epoch;
}

static int open_tiny_block(pymem_follow *f, uint64_t block) {
    rec_page *r = rec_at(f, page_of(f->h, block));
    if (!r->opened) r->opened = os_alloc(f->h, TINY_SLOTS * sizeof *r->opened);
    if (!r->opened) return fail(f->h, PYMEM_ENOMEM, "no memory for the tiny blocks of a page");
    r->opened[(block & (PAGE_SIZE - 1)) / TINY_SIZE] = f->epoch;
    return PYMEM_OK;
}

/* Does a slot of the recorded span begin there? */
static bool is_slot(const pymem_follow *f, uint64_t addr, const rec_page *r) {
    uint32_t span_class = rec_class(r);
    uint64_t offset = addr - rec_base(f, addr, r), size = size_classes_go()->size[span_class >> 1];
    return span_class >> 1 ? offset % size == 0 && offset / size < size_classes_go()->nelems[span_class] : offset == 0;
}

/* The slot that the object at addr lies in, by the record, 0 for none. With several Ps the record may have the object
 * on the wrong side of its span's event; with one a trace that has none there is damaged. */
static int recorded_slot(pymem_follow *f, uint64_t addr, const rec_page *r, uint64_t *slot) {
    uint32_t span_class = rec_class(r);
    bool header = !(span_class & 1) && span_class >> 1 && size_classes_go()->size[span_class >> 1] > MIN_HEADER_SIZE;
    *slot = header ? addr - MALLOC_HEADER : addr;
    if (span_class == TINY_SPAN_CLASS) *slot &= ~(uint64_t)(TINY_SIZE - 1);
    if (map_at(f, *slot) == r && is_slot(f, *slot, r)) return PYMEM_OK;
    *slot = 0;
    if (f->nprocs > 1) return PYMEM_OK;
    return fail(f->h, PYMEM_EFORMAT, "an object at 0x%llx is in no slot of its span", (unsigned long long)addr);
}

static int predict_and_compare(pymem_follow *f, proc *p, proc_view *v, bool grew, uint64_t want, const rec_page *r) {
    pymem_heap *h = f->h;
    uint64_t got, pages = h->pages_in_use;
    f->counts.allocations++;
    h->must_grow = f->repair && grew;
    int rc = f->repair ? predict(f, p, rec_class(r), r->npages, (uint32_t)f->rows.b[f->row], &got)
                       : predict_in_order(f, p, r, want, &got);
    h->must_grow = false;
    if (rc) return rc;
    if (got == want) {
        f->counts.matched++;
        return PYMEM_OK;
    }
    miss(f, got, want, TRACE_OBJECT_ALLOC);
    if (!f->repair) return PYMEM_OK;
    rc = repair_alloc(f, p, v, got, h->pages_in_use > pages, want, r);
    if (!rc) catch_up(f, p, v, want);
    return rc;
}

static int on_alloc(pymem_follow *f) {
    uint64_t want;
    const rec_page *r = map_at(f, f->rows.a[f->row]);
    proc_view *v;
    proc *p = proc_at(f, f->row, &v);
    if (!r || r->code == MANUAL_CODE || !p->cache) {
        f->counts.unknown++;
        return PYMEM_OK;
    }
    bool tiny = rec_class(r) == TINY_SPAN_CLASS, grew = v->grew;
    int rc = recorded_slot(f, f->rows.a[f->row], r, &want);
    if (!rc && !want) {
        f->counts.allocations++;
        miss(f, 0, f->rows.a[f->row], TRACE_OBJECT_ALLOC);
        return PYMEM_OK;
    }
    bool joins = !rc && tiny && joins_tiny_block(f, want);
    if (!rc && f->repair) rc = joins ? sweep_remembered(f, p, v, NULL) : refill_as_told(f, p, v, rec_class(r));
    if (rc) return rc;
    if (joins) {
        f->counts.tiny++;
        f->h->tiny_allocs++;
        return PYMEM_OK;
    }
    v->live = 0;
    if (!learn_span(f, p, v, want, r, &rc)) {
        v->grew = false;
        rc = predict_and_compare(f, p, v, grew, want, r);
    }
    v->guess = NULL;
    return !rc && tiny ? open_tiny_block(f, want) : rc;
}

/* ---- the start ---- */

static int start_spans(pymem_follow *f) {
    const pymem_trace_rows *t = &f->rows;
    for (uint64_t i = 0; i < t->n; i++) {
        if (t->kind[i] == TRACE_STW_END || t->kind[i] == TRACE_OBJECT_ALLOC) break;
        if (t->kind[i] != TRACE_SPAN) continue;
        bool manual = t->c[i] & 1;
        mspan *s;
        int rc = span_check(f, t->a[i], t->b[i], t->c[i]);
        if (!rc) rc = map_set(f, t->a[i], t->b[i], t->c[i] + 1u);
        if (!rc)
            rc = restore_span(f->h, t->a[i], t->b[i], manual ? PYMEM_SPAN_STACK : PYMEM_SPAN_HEAP,
                              manual ? 0 : t->c[i] >> 1, &s);
        if (rc) return rc;
    }
    return PYMEM_OK;
}

static int start_objects(pymem_follow *f) {
    const pymem_trace_rows *t = &f->rows;
    uint64_t i = 0, object;
    for (; i < t->n && t->kind[i] != TRACE_STW_END && t->kind[i] != TRACE_OBJECT_ALLOC; i++) {
        if (t->kind[i] != TRACE_OBJECT) continue;
        int rc = restore_object(f->h, t->a[i], (uint32_t)t->b[i], &object);
        bool tiny = !rc && mheap_span_of(f->h, object)->span_class == TINY_SPAN_CLASS;
        if (tiny) rc = open_tiny_block(f, object); /* it may be some proc's current block */
        if (rc) return rc;
    }
    f->row = i;
    uint64_t deaths;
    int rc = f->repair ? read_deaths(f, &deaths) : PYMEM_OK;
    if (rc) return rc;
    if (f->repair && deaths) restore_unswept(f->h);
    return restore_done(f->h);
}

/* ---- one row, all rows ---- */

static int do_row(pymem_follow *f) {
    proc_view *v;
    proc *p = proc_at(f, f->row, &v);
    switch (f->rows.kind[f->row]) {
    case TRACE_OBJECT_ALLOC: return on_alloc(f);
    case TRACE_OBJECT_FREE: return on_freed(f, f->rows.a[f->row], 0);
    case TRACE_SPAN_ALLOC: return on_span_alloc(f);
    case TRACE_SPAN_FREE: return on_span_free(f);
    case TRACE_GC_BEGIN: return begin_cycle(f, p, f->rows.c[f->row] == 1);
    case TRACE_GC_END: return on_gc_end(f, p);
    case TRACE_HEAP_ALLOC: on_heap_live(f, v); return PYMEM_OK;
    case TRACE_SWEEP_BEGIN: v->in_sweep = true; return PYMEM_OK;
    case TRACE_SWEEP_END: v->in_sweep = false; return PYMEM_OK;
    case TRACE_STW_END: f->stopped = false; return PYMEM_OK;
    case TRACE_STW_BEGIN:
        f->stopped = true;
        if (f->stats_reason && f->rows.b[f->row] == f->stats_reason) return flush_all(f, p);
        return PYMEM_OK;
    default: return PYMEM_OK;
    }
}

static int start(pymem_follow *f) {
    int rc = start_spans(f);
    if (!rc) rc = start_objects(f);
    f->started = !rc;
    return rc;
}

int follow_run(pymem_follow *f, uint64_t rows, int *done) {
    *done = 0;
    if (!f->started) {
        int rc = start(f);
        if (rc) return rc;
    }
    uint64_t end = rows < f->rows.n - f->row ? f->row + rows : f->rows.n;
    for (; f->row < end; f->row++) {
        int rc = do_row(f);
        if (rc) return rc;
    }
    *done = f->row == f->rows.n;
    return PYMEM_OK;
}

pymem_heap *follow_heap(const pymem_follow *f) { return f->h; }

int pymem_follow_new(pymem_heap *h, const pymem_trace_rows *rows, uint64_t stats_reason, int repair,
                     pymem_follow **out) {
    pymem_follow *f = *out = os_alloc(h, sizeof *f);
    if (!f) return fail(h, PYMEM_ENOMEM, "no memory for a follower");
    *f = (pymem_follow){
        .h = h, .rows = *rows, .stats_reason = stats_reason, .repair = repair, .epoch = 1, .nprocs = h->nprocs};
    f->narenas = (h->config.address_space >> PAGE_SHIFT) / ARENA_PAGES;
    f->arenas = os_alloc(h, f->narenas * sizeof *f->arenas);
    f->procs = os_alloc(h, ((size_t)h->nprocs + 1) * sizeof *f->procs);
    if (f->procs && f->arenas) return PYMEM_OK;
    pymem_follow_free(f);
    *out = NULL;
    return fail(h, PYMEM_ENOMEM, "no memory for a follower");
}

static void free_arena(pymem_heap *h, rec_page *arena) {
    for (uint64_t i = 0; arena && i < ARENA_PAGES; i++)
        os_free(h, arena[i].opened, TINY_SLOTS * sizeof *arena[i].opened);
    os_free(h, arena, ARENA_PAGES * sizeof *arena);
}

void pymem_follow_free(pymem_follow *f) {
    if (!f) return;
    pymem_heap *h = f->h;
    for (int32_t i = 0; f->procs && i <= f->nprocs; i++) os_free(h, f->procs[i].spans, f->procs[i].cap * 8);
    for (uint64_t i = 0; f->arenas && i < f->narenas; i++) free_arena(h, f->arenas[i]);
    os_free(h, f->arenas, f->narenas * sizeof *f->arenas);
    os_free(h, f->procs, ((size_t)f->nprocs + 1) * sizeof *f->procs);
    os_free(h, f, sizeof *f);
}

uint64_t pymem_follow_row(const pymem_follow *f) { return f->row; }

void pymem_follow_result(const pymem_follow *f, pymem_follow_counts *out) { *out = f->counts; }

uint64_t pymem_follow_misses(const pymem_follow *f, pymem_miss *out, uint64_t cap) {
    uint64_t n = f->nmisses < cap ? f->nmisses : cap;
    memcpy(out, f->misses, n * sizeof *out);
    return n;
}
