/* Runs a recorded program on a heap: columns of events in, addresses out, each held against the recorded one where the
 * recording has it. One C call runs as many rows as there are, so a replay costs no Python per object.
 *
 * Objects, stacks and manual spans are named by handles, small numbers given by whoever wrote the columns; a handle may
 * be used again after its death. The table below maps them to emulated addresses. */
#include <string.h>
#include "internal.h"

enum { MAX_MISSES = 64, MAX_PROCS = 4096 };

/* Handles are small numbers, so that a few rows cannot ask for a table larger than this machine: below this, or below
 * so many times the rows there are. */
enum { MAX_HANDLES = 1 << 26, MAX_HANDLES_A_ROW = 16 };

enum { PHASE_MARK = 1, MIN_RUNWAY = 64 << 10 };

typedef unsigned long long ull;

/* What the rows may say next of the heap it starts from, and of the cycle. */
enum start_state { START_BEGINS = 0, START_UNDER_WAY, START_OVER };
enum cycle_state { CYCLE_NONE = 0, CYCLE_BEGUN /* swept, and stays so until the flip */ };

struct pymem_replay {
    pymem_heap *h;
    bool follow, own; /* enum pymem_replay_mode */
    int32_t own_procs;
    uint64_t *addr, cap;                   /* handle -> address, 0 where there is none */
    uint64_t *script, nscript, cap_script; /* spans that the next allocation sweeps */
    uint64_t events[PYMEM_NUM_EVENTS], compared[PYMEM_NUM_EVENTS], matched[PYMEM_NUM_EVENTS];
    pymem_miss misses[MAX_MISSES];
    uint64_t nmisses, rows, rows_known; /* rows run; and there are at least so many */
    uint8_t start, cycle;               /* enum start_state, enum cycle_state */
    pymem_cycle *cycles;
    uint64_t ncycles, cap_cycles;
};

typedef struct {
    uint32_t kind, flags, type;
    int32_t proc;
    uint64_t object, size, expect;
} event;

/* ---- small tables ---- */

static int grow_table(pymem_heap *h, uint64_t **table, uint64_t *cap, uint64_t need) {
    if (need <= *cap) return PYMEM_OK;
    uint64_t fresh = *cap ? *cap : 1024;
    while (fresh < need) fresh *= 2;
    void *q = os_grow(h, *table, *cap * 8, fresh * 8);
    if (!q) return fail(h, PYMEM_ENOMEM, "no memory for %llu handles", (ull)fresh);
    *table = q;
    *cap = fresh;
    return PYMEM_OK;
}

/* Before anything is allocated: the handle is free and there is room for it, so that bind cannot fail. */
static int reserve_handle(pymem_replay *r, uint64_t handle) {
    uint64_t most = r->rows_known * MAX_HANDLES_A_ROW;
    if (handle >= MAX_HANDLES && handle >= most)
        return fail(r->h, PYMEM_EFORMAT, "handle %llu: number the objects from 0 on", (ull)handle);
    if (handle < r->cap && r->addr[handle])
        return fail(r->h, PYMEM_EFORMAT, "handle %llu is given out again, but what it named has not died", (ull)handle);
    return grow_table(r->h, &r->addr, &r->cap, handle + 1);
}

static void bind(pymem_replay *r, uint64_t handle, uint64_t addr) { r->addr[handle] = addr; }

static int lookup(pymem_replay *r, const event *e, uint64_t *addr) {
    *addr = e->object < r->cap ? r->addr[e->object] : 0;
    if (*addr) return PYMEM_OK;
    return fail(r->h, PYMEM_EFORMAT, "handle %llu is used but was never allocated", (ull)e->object);
}

static void compare(pymem_replay *r, const event *e, uint64_t got) {
    if (!e->expect) return;
    r->compared[e->kind]++;
    if (got == e->expect) {
        r->matched[e->kind]++;
    } else if (r->nmisses < MAX_MISSES) {
        r->misses[r->nmisses++] = (pymem_miss){.row = r->rows, .kind = e->kind, .got = got, .want = e->expect};
    }
}

/* ---- events of the program ---- */

static int do_alloc(pymem_replay *r, const event *e, proc *p) {
    uint64_t addr;
    int rc = reserve_handle(r, e->object);
    if (rc) return rc;
    r->h->scripted = r->follow;
    r->h->script = r->script;
    r->h->nscript = r->nscript;
    rc = heap_malloc(r->h, p, e->size, e->flags & 1, e->type, &addr);
    if (!rc && r->follow)
        rc = sweep_script(r->h, p, true); /* what a wrong prediction has not come to was swept all the same */
    r->h->scripted = false;
    if (rc || !addr) return rc;
    r->nscript = 0;
    compare(r, e, addr);
    bind(r, e->object, addr);
    return PYMEM_OK;
}

/* One object, or (flags) its whole slot: in a recording a tiny block dies as one. After a wrong prediction the tiny
 * objects may have come to share their blocks differently. */
static int do_death(pymem_replay *r, const event *e) {
    uint64_t addr, done;
    int rc = lookup(r, e, &addr);
    if (rc) return rc;
    if (e->flags & 1) {
        mspan *s = mheap_span_of(r->h, addr);
        uint32_t i = s ? span_slot_of(s, addr) : 0;
        bool lives = s && s->state == SPAN_IN_USE && i < s->nelems && span_slot_lives(r->h, s, i);
        if (!lives && !r->nmisses)
            return fail(r->h, PYMEM_EFORMAT, "handle %llu dies but is not alive", (ull)e->object);
        if (lives) rc = span_kill_slot(r->h, s, i);
    } else {
        rc = heap_declare_dead(r->h, &addr, 1, &done);
    }
    if (!rc) r->addr[e->object] = 0;
    return rc;
}

static int do_stack(pymem_replay *r, const event *e, proc *p) {
    uint64_t addr;
    int rc = reserve_handle(r, e->object);
    if (!rc) rc = stack_alloc(r->h, p, e->size, e->flags & 1, &addr);
    if (rc) return rc;
    compare(r, e, addr);
    bind(r, e->object, addr);
    return PYMEM_OK;
}

static int do_stack_free(pymem_replay *r, const event *e, proc *p) {
    uint64_t addr;
    int rc = lookup(r, e, &addr);
    if (!rc) rc = stack_free(r->h, p, addr, e->size, e->flags & 1);
    if (!rc) r->addr[e->object] = 0;
    return rc;
}

static int do_manual(pymem_replay *r, const event *e, proc *p) {
    mspan *s;
    int rc = reserve_handle(r, e->object);
    if (!rc) rc = mheap_alloc_span(r->h, p, e->size, (int)e->flags, 0, &s);
    if (rc) return rc;
    compare(r, e, s->base);
    bind(r, e->object, s->base);
    return PYMEM_OK;
}

/* Not a stack's span, nor a pool of stacks: those go when their last stack does. */
static int do_manual_free(pymem_replay *r, const event *e, proc *p) {
    uint64_t addr;
    int rc = lookup(r, e, &addr);
    if (rc) return rc;
    mspan *s = mheap_span_of(r->h, addr);
    bool whole = s && s->base == addr && s->state == SPAN_MANUAL && !s->alloc_count && !s->nfree_stacks;
    if (!whole) return fail(r->h, PYMEM_EFORMAT, "handle %llu is no manual span", (ull)e->object);
    r->addr[e->object] = 0;
    mheap_free_span(r->h, p, s);
    return PYMEM_OK;
}

/* ---- events of the collector ---- */

/* The processor whose caches are meant, which need not be the one that runs. Checked by check_row. */
static proc *owner_of(pymem_heap *h, const event *e) {
    return e->object == UINT64_MAX ? &h->no_p : h->procs[e->object];
}

static int do_flush(pymem_replay *r, const event *e, proc *p) {
    proc *owner = owner_of(r->h, e);
    owner->flush_gen = r->h->sweepgen;
    return mcache_release_all(r->h, p, owner->cache);
}

static int do_sweep(pymem_replay *r, const event *e, proc *p) {
    mspan *s;
    uint64_t base = e->expect;
    bool due;
    if (!r->follow) {
        int rc = sweep_one(r->h, p, &s, &base);
        compare(r, e, base);
        return rc;
    }
    int rc = sweep_recorded(r->h, p, base, true, &due);
    compare(r, e, due ? base : 0);
    return rc;
}

static int do_sweep_in(pymem_replay *r, const event *e) {
    int rc = grow_table(r->h, &r->script, &r->cap_script, r->nscript + 1);
    if (!rc) r->script[r->nscript++] = (e->expect & ~(uint64_t)SCRIPT_RECLAIM) | (e->flags & 1 ? SCRIPT_RECLAIM : 0);
    return rc;
}

static bool is_free(const pymem_heap *h, uint64_t page) {
    const chunk *c = &h->pages.chunks[page / CHUNK_PAGES];
    return !((c->alloc[page % CHUNK_PAGES / 64] | c->scav[page % CHUNK_PAGES / 64]) >> (page & 63) & 1);
}

static bool all_free(const pymem_heap *h, uint64_t page, uint64_t npages) {
    uint64_t i = 0;
    while (i < npages && page + i < h->cur_page && is_free(h, page + i)) i++;
    return i == npages;
}

static bool scavenging_room(const pymem_heap *h) {
    return h->nscavenging < sizeof h->scavenging / sizeof *h->scavenging;
}

/* Those pages of a run that are free go to the OS. */
static void release_free(pymem_heap *h, uint64_t page, uint64_t npages) {
    for (uint64_t i = page; i < page + npages && i < h->cur_page && scavenging_room(h); i++) {
        if (!is_free(h, i)) continue;
        scavenge_begin(h, i, 1);
        scavenge_end(h, i, 1);
    }
}

/* Index of the run in the list, or its length. */
static uint32_t find_scavenging(const pymem_heap *h, uint64_t page, uint64_t npages) {
    uint32_t i = 0;
    while (i < h->nscavenging && (h->scavenging[i].page != page || h->scavenging[i].npages != npages)) i++;
    return i;
}

/* Pages go to the OS in two steps: taken out, so that nobody gets them meanwhile, and put back. Where predictions have
 * been wrong the recorded pages may be in use; then they stay where they are. */
static void do_scavenge(pymem_replay *r, const event *e) {
    pymem_heap *h = r->h;
    uint64_t page = page_of(h, e->object);
    uint32_t i = find_scavenging(h, page, e->size);
    if (e->flags & 1) {
        if (i < h->nscavenging) scavenge_end(h, page, e->size);
        else release_free(h, page, e->size);
        return;
    }
    bool fits = all_free(h, page, e->size);
    compare(r, e, fits ? e->expect : 0);
    if (fits) scavenge_begin(h, page, e->size);
}

/* A row that has an address to be compared (expect) may not fit: that is a wrong prediction, no error. */
static int scavenge_check(pymem_heap *h, const event *e) {
    ull addr = e->object;
    uint64_t page = e->object >= h->config.arena_base ? page_of(h, e->object) : NO_PAGE;
    uint64_t end = e->expect ? h->config.address_space >> PAGE_SHIFT : h->cur_page;
    if (e->object % PAGE_SIZE || !e->size || page >= end || e->size > end - page)
        return fail(h, PYMEM_EFORMAT, "pages scavenged at 0x%llx are not the heap's", addr);
    if (e->flags & 1) {
        if (e->expect || find_scavenging(h, page, e->size) < h->nscavenging) return PYMEM_OK;
        return fail(h, PYMEM_EFORMAT, "pages come back scavenged at 0x%llx that were never taken out", addr);
    }
    if (!e->expect && !all_free(h, page, e->size))
        return fail(h, PYMEM_EFORMAT, "pages scavenged at 0x%llx are not all free and unscavenged", addr);
    return scavenging_room(h)
               ? PYMEM_OK
               : fail(h, PYMEM_EFORMAT, "more than %u runs of pages are being scavenged at once", h->nscavenging);
}

static int do_span(pymem_replay *r, const event *e) {
    mspan *s = mheap_span_of(r->h, e->expect);
    bool same = s && s->base == e->expect && s->npages == e->size && s->kind == e->type && s->span_class == e->flags;
    compare(r, e, same ? e->expect : 0);
    return PYMEM_OK;
}

/* Bitmaps are recycled cycle by cycle, so no cache may keep a span of the cycle before the last. */
static int caches_fresh(pymem_heap *h) {
    int32_t stale = -1;
    for (int32_t i = h->nprocs - 1; i >= 0; i--)
        if (h->procs[i] && h->procs[i]->flush_gen != h->sweepgen) stale = i;
    bool boot = h->no_p.cache && h->no_p.flush_gen != h->sweepgen;
    if (stale < 0 && !boot) return PYMEM_OK;
    return fail(h, PYMEM_EFORMAT, "processor %d has not given back its spans (FLUSH) since the last cycle turned",
                stale);
}

/* Bytes that may hold pointers: what is born while a mark runs is not scanned by it. */
static uint64_t scan_born(const pymem_heap *h) {
    uint64_t sum = h->heap_scan;
    for (int32_t i = 0; i < h->nprocs; i++)
        if (h->procs[i]) sum += h->procs[i]->cache->scan_alloc;
    return sum;
}

static int do_sweep_done(pymem_replay *r, proc *p) {
    pymem_heap *h = r->h;
    if (r->cycle == CYCLE_BEGUN) return fail(h, PYMEM_EFORMAT, "a cycle begins before the last one has turned (FLIP)");
    int rc = caches_fresh(h);
    if (rc) return rc;
    bool running = h->gc_running;
    rc = gc_begin(h, p);
    h->gc_running = running; /* the record has its own rows for the phase */
    if (rc) return rc;
    r->cycle = CYCLE_BEGUN;
    h->born_before = scan_born(h); /* a trace has no row for the phase; where there is one, it comes next and decides */
    return PYMEM_OK;
}

static int do_flip(pymem_replay *r) {
    if (r->cycle != CYCLE_BEGUN) return fail(r->h, PYMEM_EFORMAT, "a cycle turns that has not begun (SWEEP_DONE)");
    if (r->ncycles == r->cap_cycles) {
        uint64_t cap = r->cap_cycles ? 2 * r->cap_cycles : 64;
        void *q = os_grow(r->h, r->cycles, r->cap_cycles * sizeof *r->cycles, cap * sizeof *r->cycles);
        if (!q) return fail(r->h, PYMEM_ENOMEM, "no memory for the list of cycles");
        r->cycles = q;
        r->cap_cycles = cap;
    }
    uint64_t born = scan_born(r->h) - r->h->born_before;
    gc_mark_start(r->h);
    gc_mark_record(r->h);
    r->h->marks.heap_scan -= born < r->h->marks.heap_scan ? born : r->h->marks.heap_scan;
    gc_mark_stop(r->h);
    gc_flip(r->h);
    r->cycle = CYCLE_NONE;
    r->cycles[r->ncycles] = r->h->last_mark;
    r->cycles[r->ncycles++].row = r->rows;
    return PYMEM_OK;
}

/* A cycle that starts late, at or beyond its goal, gets a little room. Go: startCycle, heapGoalInternal */
static void do_phase(pymem_heap *h, const event *e) {
    uint64_t floor = (uint64_t)h->heap_live + MIN_RUNWAY;
    h->gc_running = e->size != 0;
    if (e->size != PHASE_MARK) return;
    if (h->goal_floor < floor) h->goal_floor = floor;
    h->born_before = scan_born(h);
}

static void do_goal(pymem_heap *h, const event *e) {
    if (e->flags) return;
    h->gc_goal = e->object;
    h->goal_floor = 0;
    h->heap_marked = e->size;
}

static int finalizer_check(pymem_heap *h, const event *e) {
    uint64_t most = h->config.address_space, held = h->finalizer_bytes;
    if (e->flags == PYMEM_FINALIZER_REVIVES) held = most - h->revived_bytes;
    bool good = e->flags == PYMEM_FINALIZER_SET ? e->size <= most - held : e->size <= held;
    return good ? PYMEM_OK : fail(h, PYMEM_EFORMAT, "finalizers of %llu bytes of objects", (ull)e->size);
}

static void do_finalizer(pymem_heap *h, const event *e) {
    if (e->flags == PYMEM_FINALIZER_REVIVES) h->revived_bytes += e->size;
    else h->finalizer_bytes += e->flags == PYMEM_FINALIZER_SET ? e->size : -e->size;
}

static int do_gc_end(pymem_replay *r, const event *e, proc *p) {
    if (r->h->num_gc >= r->ncycles) return fail(r->h, PYMEM_EFORMAT, "a cycle ends that has not turned (FLIP)");
    gc_end(r->h, p, e->flags & 1);
    return PYMEM_OK;
}

/* ---- the heap it starts from ---- */

/* Its rows come first, with those that make processors, in one piece and once. */
static int start_check(pymem_replay *r, const event *e) {
    bool of_start =
        e->kind == PYMEM_EV_START_SPAN || e->kind == PYMEM_EV_START_OBJECT || e->kind == PYMEM_EV_START_DONE;
    if (of_start && r->start == START_OVER)
        return fail(r->h, PYMEM_EFORMAT, "a row of the start heap comes after others");
    if (!of_start && e->kind != PYMEM_EV_PROC_NEW && r->start == START_UNDER_WAY)
        return fail(r->h, PYMEM_EFORMAT, "the start heap is not complete (START_DONE)");
    return PYMEM_OK;
}

static void start_advance(pymem_replay *r, uint32_t kind) {
    if (kind == PYMEM_EV_START_SPAN || kind == PYMEM_EV_START_OBJECT) r->start = START_UNDER_WAY;
    else if (kind != PYMEM_EV_PROC_NEW) r->start = START_OVER;
}

static int do_start_span(pymem_replay *r, const event *e) {
    mspan *s;
    if (e->type > PYMEM_SPAN_OTHER) return fail(r->h, PYMEM_EFORMAT, "there is no span of kind %u", e->type);
    bool manual = e->type != PYMEM_SPAN_HEAP;
    int rc = manual ? reserve_handle(r, e->object) : PYMEM_OK;
    if (!rc) rc = restore_is_vacant(r->h, e->expect, e->size);
    if (!rc) rc = restore_span(r->h, e->expect, e->size, (int)e->type, e->flags, &s);
    if (!rc && manual) bind(r, e->object, s->base);
    return rc;
}

static int do_start_object(pymem_replay *r, const event *e) {
    uint64_t object;
    int rc = reserve_handle(r, e->object);
    if (!rc) rc = restore_object(r->h, e->expect, e->type, &object);
    if (!rc) bind(r, e->object, object);
    return rc;
}

/* ---- one row ---- */

static int owner_check(pymem_heap *h, const event *e) {
    bool is_proc = e->object < (uint64_t)h->nprocs && h->procs[e->object];
    bool boot = e->object == UINT64_MAX && h->no_p.cache && e->kind != PYMEM_EV_PROC_DESTROY;
    return is_proc || boot ? PYMEM_OK : fail(h, PYMEM_EFORMAT, "there is no processor %lld", (long long)e->object);
}

static int stat_check(pymem_heap *h, const event *e) {
    if (e->flags < PYMEM_STAT_STACKS_SYS || e->flags >= PYMEM_NUM_STATS)
        return fail(h, PYMEM_EFORMAT, "statistic %u", e->flags);
    int64_t bytes = (int64_t)e->size, most = (int64_t)h->config.address_space;
    bool sane = e->kind == PYMEM_EV_PERSISTENT ? bytes > 0 && bytes <= most : -most <= bytes && bytes <= most;
    if (!sane) return fail(h, PYMEM_EFORMAT, "%lld bytes of statistic %u", (long long)bytes, e->flags);
    if (bytes < 0 && h->sys[e->flags] < (uint64_t)-bytes)
        return fail(h, PYMEM_EFORMAT, "more memory is given back than statistic %u has", e->flags);
    if (e->kind == PYMEM_EV_PERSISTENT && ((e->object & (e->object - 1)) || e->object > PAGE_SIZE))
        return fail(h, PYMEM_EFORMAT, "persistent memory aligned to %llu", (ull)e->object);
    return PYMEM_OK;
}

static int alloc_check(pymem_heap *h, const event *e, const proc *p) {
    if (!e->size || e->size > h->config.address_space)
        return fail(h, PYMEM_EFORMAT, "an object of %llu bytes", (ull)e->size);
    if (!p->cache) return fail(h, PYMEM_EFORMAT, "an object is allocated without a processor");
    if (p->flush_gen == h->sweepgen) return PYMEM_OK;
    return fail(h, PYMEM_EFORMAT, "processor %d allocates before it has given back its spans (FLUSH) after a cycle",
                e->proc);
}

static int check_row(pymem_heap *h, const event *e, proc **p) {
    uint64_t size = e->size;
    bool has_proc = e->proc >= 0 && e->proc < h->nprocs && h->procs[e->proc];
    if (e->proc != PYMEM_NO_PROC && !has_proc) return fail(h, PYMEM_EFORMAT, "there is no processor %d", e->proc);
    *p = has_proc ? h->procs[e->proc] : &h->no_p;
    switch (e->kind) {
    case PYMEM_EV_ALLOC: return alloc_check(h, e, *p);
    case PYMEM_EV_STACK_ALLOC:
    case PYMEM_EV_STACK_FREE:
        if (size < FIXED_STACK || (size & (size - 1)) || size > 1 << 30)
            return fail(h, PYMEM_EFORMAT, "a stack of %llu bytes", (ull)size);
        return PYMEM_OK;
    case PYMEM_EV_MANUAL_ALLOC:
        if (!size || e->flags < PYMEM_SPAN_STACK || e->flags > PYMEM_SPAN_OTHER)
            return fail(h, PYMEM_EFORMAT, "a manual span of %llu pages and kind %u", (ull)size, e->flags);
        return PYMEM_OK;
    case PYMEM_EV_PERSISTENT:
    case PYMEM_EV_SYS: return stat_check(h, e);
    case PYMEM_EV_SCAVENGE: return scavenge_check(h, e);
    case PYMEM_EV_FINALIZER: return finalizer_check(h, e);
    case PYMEM_EV_PROC_NEW:
        return h->nprocs < MAX_PROCS ? PYMEM_OK : fail(h, PYMEM_EFORMAT, "more than %d processors", MAX_PROCS);
    case PYMEM_EV_FLUSH:
    case PYMEM_EV_STACK_CLEAR:
    case PYMEM_EV_PAGES_FLUSH: return owner_check(h, e);
    case PYMEM_EV_PROC_DESTROY:
        if (e->proc >= 0 && e->object == (uint64_t)e->proc)
            return fail(h, PYMEM_EFORMAT, "processor %d ends itself", e->proc);
        return owner_check(h, e);
    }
    return PYMEM_OK;
}

/* ---- collections of one's own ---- */

/* Of the collector's rows only those stay that also tell of the program. */
static bool is_passed_over(const pymem_replay *r, const event *e) {
    switch (e->kind) {
    case PYMEM_EV_FLUSH:
    case PYMEM_EV_STACK_CLEAR:
    case PYMEM_EV_GC_PHASE:
    case PYMEM_EV_SWEEP_DONE:
    case PYMEM_EV_FLIP:
    case PYMEM_EV_SWEEP:
    case PYMEM_EV_SWEEP_IN:
    case PYMEM_EV_SWEEP_ALL:
    case PYMEM_EV_GC_END:
    case PYMEM_EV_PROC_DESTROY:
    case PYMEM_EV_PAGES_FLUSH:
    case PYMEM_EV_SCAVENGE:
    case PYMEM_EV_GOAL:
    case PYMEM_EV_SPAN:
    case PYMEM_EV_STATS: return true;
    case PYMEM_EV_MANUAL_ALLOC: return e->flags == PYMEM_SPAN_WORKBUF;
    case PYMEM_EV_MANUAL_FREE: return e->object >= r->cap || !r->addr[e->object];
    default: return false;
    }
}

/* All at once, where the record has its first. */
static int own_procs_new(pymem_replay *r) {
    int32_t id;
    int rc = PYMEM_OK;
    while (!rc && r->h->nprocs < r->own_procs) rc = proc_new(r->h, &id);
    return rc;
}

static int do_row(pymem_replay *r, const event *e);

/* As do_row does it, less what such a row need not be asked. */
static int do_own_alloc(pymem_replay *r, const event *e, proc *p) {
    int rc = p->flush_gen == r->h->sweepgen ? PYMEM_OK : proc_flush(r->h, p, p);
    if (!rc) rc = start_check(r, e);
    if (!rc) rc = alloc_check(r->h, e, p);
    return rc ? rc : do_alloc(r, e, p);
}

static int do_own_row(pymem_replay *r, event *e) {
    pymem_heap *h = r->h;
    bool dies = e->kind == PYMEM_EV_DEATH && r->start == START_OVER;
    if (dies && e->proc >= PYMEM_NO_PROC && h->nprocs) return do_death(r, e);
    if (is_passed_over(r, e)) return PYMEM_OK;
    if (e->kind == PYMEM_EV_PROC_NEW) return own_procs_new(r);
    bool needs_proc = e->kind == PYMEM_EV_ALLOC && e->proc < 0;
    if (h->nprocs && (e->proc >= h->nprocs || needs_proc)) e->proc = e->proc < 0 ? 0 : e->proc % h->nprocs;
    if (e->kind == PYMEM_EV_ALLOC && e->proc >= 0 && e->proc < h->nprocs) {
        return do_own_alloc(r, e, h->procs[e->proc]);
    }
    return do_row(r, e);
}

static int do_row(pymem_replay *r, const event *e) {
    pymem_heap *h = r->h;
    proc *p = NULL;
    int32_t id;
    int rc = start_check(r, e);
    if (!rc) rc = check_row(h, e, &p);
    if (rc) return rc;
    switch (e->kind) {
    case PYMEM_EV_ALLOC: return do_alloc(r, e, p);
    case PYMEM_EV_DEATH: return do_death(r, e);
    case PYMEM_EV_STACK_ALLOC: return do_stack(r, e, p);
    case PYMEM_EV_STACK_FREE: return do_stack_free(r, e, p);
    case PYMEM_EV_MANUAL_ALLOC: return do_manual(r, e, p);
    case PYMEM_EV_MANUAL_FREE: return do_manual_free(r, e, p);
    case PYMEM_EV_FLUSH: return do_flush(r, e, p);
    case PYMEM_EV_STACK_CLEAR: stack_cache_clear(h, p, owner_of(h, e)->cache); return PYMEM_OK;
    case PYMEM_EV_GC_PHASE: do_phase(h, e); return PYMEM_OK;
    case PYMEM_EV_SWEEP_DONE: return do_sweep_done(r, p);
    case PYMEM_EV_FLIP: return do_flip(r);
    case PYMEM_EV_SWEEP: return do_sweep(r, e, p);
    case PYMEM_EV_SWEEP_IN: return do_sweep_in(r, e);
    case PYMEM_EV_SWEEP_ALL: return sweep_all(h, p, NULL);
    case PYMEM_EV_GC_END: return do_gc_end(r, e, p);
    case PYMEM_EV_PROC_NEW: return proc_new(h, &id);
    case PYMEM_EV_PROC_DESTROY: return proc_destroy(h, p, (int32_t)e->object);
    case PYMEM_EV_PERSISTENT: persistent_alloc(h, p, e->size, e->object, (int)e->flags); return PYMEM_OK;
    case PYMEM_EV_SYS: h->sys[e->flags] += e->size; return PYMEM_OK;
    case PYMEM_EV_PAGES_FLUSH: page_cache_flush(&h->pages, &owner_of(h, e)->pages); return PYMEM_OK;
    case PYMEM_EV_SCAVENGE: do_scavenge(r, e); return PYMEM_OK;
    case PYMEM_EV_GOAL: do_goal(h, e); return PYMEM_OK;
    case PYMEM_EV_SPAN: return do_span(r, e);
    case PYMEM_EV_STATS: return PYMEM_OK;
    case PYMEM_EV_TINY: h->tiny_allocs++; return PYMEM_OK;
    case PYMEM_EV_START_SPAN: return do_start_span(r, e);
    case PYMEM_EV_START_OBJECT: return do_start_object(r, e);
    case PYMEM_EV_START_DONE: return restore_done(h);
    case PYMEM_EV_FINALIZER: do_finalizer(h, e); return PYMEM_OK;
    default: return fail(h, PYMEM_EFORMAT, "there is no event of kind %u", e->kind);
    }
}

/* ---- the calls ---- */

int pymem_replay_new(pymem_heap *h, int mode, int32_t procs, pymem_replay **out) {
    *out = NULL;
    if (mode == PYMEM_REPLAY_OWN && (procs < 1 || procs > MAX_PROCS))
        return fail(h, PYMEM_EINVAL, "a replay on %d processors: give 1 to %d", procs, MAX_PROCS);
    *out = os_alloc(h, sizeof **out);
    if (!*out) return fail(h, PYMEM_ENOMEM, "no memory for a replay");
    **out = (pymem_replay){
        .h = h, .follow = mode == PYMEM_REPLAY_FOLLOW, .own = mode == PYMEM_REPLAY_OWN, .own_procs = procs};
    return PYMEM_OK;
}

void pymem_replay_free(pymem_replay *r) {
    if (!r) return;
    os_free(r->h, r->addr, r->cap * 8);
    os_free(r->h, r->script, r->cap_script * 8);
    os_free(r->h, r->cycles, r->cap_cycles * sizeof *r->cycles);
    os_free(r->h, r, sizeof *r);
}

static event row_at(const pymem_columns *c, uint64_t i) {
    return (event){.kind = c->kind[i],
                   .flags = c->flags[i],
                   .type = c->type[i],
                   .proc = c->proc[i],
                   .object = c->object[i],
                   .size = c->size[i],
                   .expect = c->expect ? c->expect[i] : 0};
}

/* ---- what comes next ----
 *
 * An object that dies lies anywhere, and the way to it is a chain: its handle's entry, its span, the bits of its slot.
 * None is in the processor's cache, and waiting for them took half the time of a rerun. So each link is asked for some
 * rows before the next one needs it. Only asked for: a handle that is bound or dies until then is merely no help. */
enum { AHEAD = 12 /* rows that take about as long as memory does to answer */ };

static const mspan *dying_span(const pymem_replay *r, const pymem_columns *c, uint64_t row, uint64_t *addr) {
    if (c->kind[row] != PYMEM_EV_DEATH || c->object[row] >= r->cap) return NULL;
    *addr = r->addr[c->object[row]];
    return *addr ? mheap_span_of(r->h, *addr) : NULL;
}

static void ask_for_bit(const uint64_t *bits, uint32_t slot) {
    if (bits) __builtin_prefetch(bits + slot / 64, 1);
}

static void look_ahead(const pymem_replay *r, const pymem_columns *c, uint64_t row) {
    if (c->n - row <= 3 * AHEAD) return;
    uint64_t addr, handle = c->object[row + 3 * AHEAD];
    if (handle < r->cap) __builtin_prefetch(&r->addr[handle], 1);
    const mspan *s = dying_span(r, c, row + 2 * AHEAD, &addr);
    if (s) {
        __builtin_prefetch(&s->base);
        __builtin_prefetch(&s->dead_bits);
    }
    s = dying_span(r, c, row + AHEAD, &addr);
    if (!s) return;
    ask_for_bit(s->alloc_bits, span_slot_of(s, addr));
    ask_for_bit(s->dead_bits, span_slot_of(s, addr));
}

static int why_stopped(const pymem_replay *r, const event *e) {
    bool stats = !r->own && e->kind == PYMEM_EV_STATS, goal = !r->own && e->kind == PYMEM_EV_GOAL && e->flags;
    if (!r->own) return stats ? PYMEM_REPLAY_STATS : goal ? PYMEM_REPLAY_GOAL : PYMEM_REPLAY_GOES_ON;
    if (r->h->stops.due) return PYMEM_REPLAY_STOP;
    return e->kind == PYMEM_EV_GC_END && e->flags & 1 ? PYMEM_REPLAY_FORCED : PYMEM_REPLAY_GOES_ON;
}

int replay_run(pymem_replay *r, const pymem_columns *c, uint64_t *row, int *stopped) {
    *stopped = 0;
    r->rows_known = r->rows + (c->n - *row);
    r->h->stops.due = PYMEM_STOP_NONE;
    while (*row < c->n && !*stopped) {
        look_ahead(r, c, *row);
        event e = row_at(c, *row);
        int rc = r->own ? do_own_row(r, &e) : do_row(r, &e);
        if (rc) return rc == PYMEM_EADDRESS ? PYMEM_EFORMAT : rc; /* what the row names is not there */
        *stopped = why_stopped(r, &e);
        if (r->h->stops.due & PYMEM_STOP_ASSIST) break; /* the row is not done */
        start_advance(r, e.kind);
        r->events[e.kind]++;
        r->rows++;
        ++*row;
    }
    return PYMEM_OK;
}

pymem_heap *replay_heap(const pymem_replay *r) { return r->h; }

void pymem_replay_counts(const pymem_replay *r, uint64_t *events, uint64_t *compared, uint64_t *matched) {
    memcpy(events, r->events, sizeof r->events);
    memcpy(compared, r->compared, sizeof r->compared);
    memcpy(matched, r->matched, sizeof r->matched);
}

uint64_t pymem_replay_cycles(const pymem_replay *r, uint64_t first, pymem_cycle *out, uint64_t cap) {
    for (uint64_t i = 0; i < cap && first + i < r->ncycles; i++) out[i] = r->cycles[first + i];
    return r->ncycles;
}

uint64_t pymem_replay_misses(const pymem_replay *r, pymem_miss *out, uint64_t cap) {
    uint64_t n = r->nmisses < cap ? r->nmisses : cap;
    memcpy(out, r->misses, n * sizeof *out);
    return n;
}

int pymem_replay_addresses(const pymem_replay *r, uint64_t first, uint64_t n, uint64_t *out) {
    for (uint64_t i = 0; i < n; i++) out[i] = first + i < r->cap ? r->addr[first + i] : 0;
    return PYMEM_OK;
}
