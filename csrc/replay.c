/* Runs a recorded program on a heap: columns of events in, addresses out, each held against the recorded one where the
 * recording has it. One C call runs as many rows as there are, so a replay costs no Python per object.
 *
 * Objects, stacks and manual spans are named by handles, small numbers given by whoever wrote the columns; a handle may
 * be used again after its death. The table below maps them to emulated addresses. */
#include <string.h>
#include "internal.h"

enum { MAX_MISSES = 64, MAX_HANDLES_LOG2 = 40 };

struct pymem_replay {
    pymem_heap *h;
    bool follow;
    uint64_t *addr, cap; /* handle -> address, 0 where there is none */
    uint64_t *script, nscript, cap_script; /* spans that the next allocation sweeps */
    uint64_t events[PYMEM_NUM_EVENTS], compared[PYMEM_NUM_EVENTS], matched[PYMEM_NUM_EVENTS];
    pymem_miss misses[MAX_MISSES];
    uint64_t nmisses, row, rows_before; /* row: within this call's columns; rows_before: of earlier calls */
    pymem_cycle *cycles;
    uint64_t ncycles, cap_cycles;
};

typedef struct { uint32_t kind, flags, type; int32_t proc; uint64_t object, size, expect; } event;

/* ---- small tables ---- */

static int grow_table(pymem_heap *h, uint64_t **table, uint64_t *cap, uint64_t need) {
    if (need <= *cap) return PYMEM_OK;
    if (need >> MAX_HANDLES_LOG2) return fail(h, PYMEM_EFORMAT, "handle %llu: handles are small numbers", (unsigned long long)need);
    uint64_t fresh = *cap ? *cap : 1024;
    while (fresh < need) fresh *= 2;
    void *q = os_grow(h, *table, *cap * 8, fresh * 8);
    if (!q) return fail(h, PYMEM_ENOMEM, "no memory for %llu handles", (unsigned long long)fresh);
    *table = q;
    *cap = fresh;
    return PYMEM_OK;
}

static int bind(pymem_replay *r, uint64_t handle, uint64_t addr) {
    int rc = grow_table(r->h, &r->addr, &r->cap, handle + 1);
    if (!rc) r->addr[handle] = addr;
    return rc;
}

static int lookup(pymem_replay *r, const event *e, uint64_t *addr) {
    *addr = e->object < r->cap ? r->addr[e->object] : 0;
    if (*addr) return PYMEM_OK;
    return fail(r->h, PYMEM_EFORMAT, "handle %llu is used but was never allocated", (unsigned long long)e->object);
}

static void compare(pymem_replay *r, const event *e, uint64_t got) {
    if (!e->expect) return;
    r->compared[e->kind]++;
    if (got == e->expect) {
        r->matched[e->kind]++;
    } else if (r->nmisses < MAX_MISSES) {
        r->misses[r->nmisses++] = (pymem_miss){.row = r->rows_before + r->row, .kind = e->kind, .got = got, .want = e->expect};
    }
}

/* ---- events of the program ---- */

static int do_alloc(pymem_replay *r, const event *e, proc *p) {
    uint64_t addr;
    r->h->scripted = r->follow;
    r->h->script = r->script;
    r->h->nscript = r->nscript;
    int rc = heap_malloc(r->h, p, e->size, e->flags & 1, e->type, &addr);
    r->h->scripted = false;
    r->nscript = 0;
    if (rc) return rc;
    compare(r, e, addr);
    return bind(r, e->object, addr);
}

/* One object, or (flags) its whole slot: in a recording a tiny block dies as one. */
static int do_death(pymem_replay *r, const event *e) {
    uint64_t addr;
    int rc = lookup(r, e, &addr);
    if (rc) return rc;
    if (!(e->flags & 1)) {
        r->addr[e->object] = 0;
        uint64_t done;
        rc = heap_declare_dead(r->h, &addr, 1, &done);
        return rc == PYMEM_EADDRESS ? PYMEM_EFORMAT : rc;
    }
    mspan *s = mheap_span_of(r->h, addr);
    uint32_t i = s ? span_slot_of(s, addr) : 0;
    if (!s || s->state != SPAN_IN_USE || i >= s->nelems || !span_is_allocated(s, i))
        return fail(r->h, PYMEM_EFORMAT, "handle %llu dies but is not alive", (unsigned long long)e->object);
    r->addr[e->object] = 0;
    return span_kill_slot(r->h, s, i);
}

static int do_stack(pymem_replay *r, const event *e, proc *p) {
    uint64_t addr;
    int rc = stack_alloc(r->h, p, e->size, e->flags & 1, &addr);
    if (rc) return rc;
    compare(r, e, addr);
    return bind(r, e->object, addr);
}

static int do_stack_free(pymem_replay *r, const event *e, proc *p) {
    uint64_t addr;
    int rc = lookup(r, e, &addr);
    return rc ? rc : stack_free(r->h, p, addr, e->size, e->flags & 1);
}

static int do_manual(pymem_replay *r, const event *e, proc *p) {
    mspan *s;
    int rc = mheap_alloc_span(r->h, p, e->size, (int)e->flags, 0, &s);
    if (rc) return rc;
    compare(r, e, s->base);
    return bind(r, e->object, s->base);
}

static int do_manual_free(pymem_replay *r, const event *e, proc *p) {
    uint64_t addr;
    int rc = lookup(r, e, &addr);
    if (rc) return rc;
    mspan *s = mheap_span_of(r->h, addr);
    bool whole = s && s->base == addr && s->state == SPAN_MANUAL && !s->alloc_count && !s->nfree_stacks; /* no pool of stacks */
    if (!whole) return fail(r->h, PYMEM_EFORMAT, "a manual span is freed twice");
    r->addr[e->object] = 0;
    mheap_free_span(r->h, p, s);
    return PYMEM_OK;
}

/* ---- events of the collector ---- */

/* The processor whose caches are meant, which need not be the one that runs. Checked by check_row. */
static proc *owner_of(pymem_heap *h, const event *e) { return e->object == UINT64_MAX ? &h->no_p : h->procs[e->object]; }

static int do_flush(pymem_replay *r, const event *e, proc *p) {
    proc *owner = owner_of(r->h, e);
    owner->flush_gen = r->h->sweepgen;
    return mcache_release_all(r->h, p, owner->cache);
}

static int do_sweep(pymem_replay *r, const event *e, proc *p) {
    mspan *s;
    uint64_t base = e->expect;
    bool freed;
    if (!r->follow) {
        int rc = sweep_one(r->h, p, &s, &base);
        compare(r, e, base);
        return rc;
    }
    s = mheap_span_of(r->h, base);
    bool due = s && s->base == base && sweep_acquire(r->h, s);
    compare(r, e, due ? base : 0);
    return due ? sweep_span(r->h, p, s, false, &freed) : PYMEM_OK;
}

static int do_sweep_in(pymem_replay *r, const event *e) {
    int rc = grow_table(r->h, &r->script, &r->cap_script, r->nscript + 1);
    if (!rc) r->script[r->nscript++] = e->expect;
    return rc;
}

static int do_sweep_all(pymem_replay *r, proc *p) {
    for (;;) {
        mspan *s;
        uint64_t base;
        int rc = sweep_one(r->h, p, &s, &base);
        if (rc || !base) return rc;
    }
}

static void do_scavenge(pymem_heap *h, const event *e) {
    uint64_t page = page_of(h, e->object);
    if (!(e->flags & 1)) {
        page_alloc_take(&h->pages, page, e->size); /* nobody may have them meanwhile */
        return;
    }
    page_alloc_free(&h->pages, page, e->size);
    for (uint64_t i = page; i < page + e->size; i++) h->pages.chunks[i / CHUNK_PAGES].scav[i % CHUNK_PAGES / 64] |= 1ull << (i & 63);
    h->heap_free -= e->size << PAGE_SHIFT;
    h->heap_released += e->size << PAGE_SHIFT;
}

static int scavenge_check(pymem_heap *h, const event *e) {
    bool inside = e->object >= h->config.arena_base && e->size && page_of(h, e->object) + e->size <= h->cur_page;
    return inside ? PYMEM_OK : fail(h, PYMEM_EFORMAT, "pages scavenged at 0x%llx are not the heap's", (unsigned long long)e->object);
}

static int do_span(pymem_replay *r, const event *e) {
    mspan *s = mheap_span_of(r->h, e->expect);
    bool same = s && s->base == e->expect && s->npages == e->size && s->kind == e->type && s->span_class == e->flags;
    compare(r, e, same ? e->expect : 0);
    return PYMEM_OK;
}

static int do_flip(pymem_replay *r) {
    if (r->ncycles == r->cap_cycles) {
        uint64_t cap = r->cap_cycles ? 2 * r->cap_cycles : 64;
        void *q = os_grow(r->h, r->cycles, r->cap_cycles * sizeof *r->cycles, cap * sizeof *r->cycles);
        if (!q) return fail(r->h, PYMEM_ENOMEM, "no memory for the list of cycles");
        r->cycles = q;
        r->cap_cycles = cap;
    }
    gc_mark_record(r->h);
    gc_flip(r->h);
    r->cycles[r->ncycles] = r->h->last_mark;
    r->cycles[r->ncycles++].row = r->rows_before + r->row;
    return PYMEM_OK;
}

/* ---- the heap it starts from ---- */

static int do_start_span(pymem_replay *r, const event *e) {
    mspan *s;
    if (e->type > PYMEM_SPAN_OTHER) return fail(r->h, PYMEM_EFORMAT, "there is no span of kind %u", e->type);
    int rc = restore_span(r->h, e->expect, e->size, (int)e->type, e->flags, &s);
    return rc || e->type == PYMEM_SPAN_HEAP ? rc : bind(r, e->object, s->base);
}

static int do_start_object(pymem_replay *r, const event *e) {
    uint64_t object;
    int rc = restore_object(r->h, e->expect, e->type, &object);
    return rc ? rc : bind(r, e->object, object);
}

/* ---- one row ---- */

static int owner_check(pymem_heap *h, const event *e) {
    bool is_proc = e->object < (uint64_t)h->nprocs && h->procs[e->object];
    bool boot = e->object == UINT64_MAX && h->no_p.cache && e->kind != PYMEM_EV_PROC_DESTROY;
    return is_proc || boot ? PYMEM_OK : fail(h, PYMEM_EFORMAT, "there is no processor %lld", (long long)e->object);
}

static int check_row(pymem_heap *h, const event *e, proc **p) {
    unsigned long long size = e->size;
    bool has_proc = e->proc >= 0 && e->proc < h->nprocs && h->procs[e->proc];
    if (e->proc != PYMEM_NO_PROC && !has_proc) return fail(h, PYMEM_EFORMAT, "there is no processor %d", e->proc);
    *p = has_proc ? h->procs[e->proc] : &h->no_p;
    switch (e->kind) {
    case PYMEM_EV_ALLOC:
        if (!size || size > h->config.address_space) return fail(h, PYMEM_EFORMAT, "an object of %llu bytes", size);
        break;
    case PYMEM_EV_STACK_ALLOC:
    case PYMEM_EV_STACK_FREE:
        if (size < FIXED_STACK || (size & (size - 1)) || size > 1 << 30) return fail(h, PYMEM_EFORMAT, "a stack of %llu bytes", size);
        break;
    case PYMEM_EV_MANUAL_ALLOC:
        if (!size || e->flags < PYMEM_SPAN_STACK || e->flags > PYMEM_SPAN_OTHER) return fail(h, PYMEM_EFORMAT, "a manual span of %llu pages", size);
        break;
    case PYMEM_EV_PERSISTENT:
        if (!size || (e->object & (e->object - 1)) || e->object > PAGE_SIZE) return fail(h, PYMEM_EFORMAT, "%llu persistent bytes", size);
        break;
    case PYMEM_EV_SCAVENGE: return scavenge_check(h, e);
    case PYMEM_EV_FLUSH:
    case PYMEM_EV_STACK_CLEAR:
    case PYMEM_EV_PAGES_FLUSH:
    case PYMEM_EV_PROC_DESTROY: return owner_check(h, e);
    }
    if (e->kind == PYMEM_EV_ALLOC && !(*p)->cache) return fail(h, PYMEM_EFORMAT, "an object is allocated without a processor");
    bool stat = e->kind == PYMEM_EV_PERSISTENT || e->kind == PYMEM_EV_SYS;
    if (stat && (e->flags < PYMEM_STAT_STACKS_SYS || e->flags >= PYMEM_NUM_STATS)) return fail(h, PYMEM_EFORMAT, "statistic %u", e->flags);
    return PYMEM_OK;
}

static int do_row(pymem_replay *r, const event *e) {
    pymem_heap *h = r->h;
    proc *p = NULL;
    int32_t id;
    int rc = check_row(h, e, &p);
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
    case PYMEM_EV_GC_PHASE: h->gc_running = e->size != 0; return PYMEM_OK;
    case PYMEM_EV_SWEEP_DONE: {
        bool running = h->gc_running;
        rc = gc_begin(h, p);
        h->gc_running = running; /* the record has its own rows for the phase */
        return rc;
    }
    case PYMEM_EV_FLIP: return do_flip(r);
    case PYMEM_EV_SWEEP: return do_sweep(r, e, p);
    case PYMEM_EV_SWEEP_IN: return do_sweep_in(r, e);
    case PYMEM_EV_SWEEP_ALL: return do_sweep_all(r, p);
    case PYMEM_EV_GC_END: gc_end(h, p, e->flags & 1); return PYMEM_OK;
    case PYMEM_EV_PROC_NEW: return proc_new(h, &id);
    case PYMEM_EV_PROC_DESTROY: return proc_destroy(h, p, (int32_t)e->object);
    case PYMEM_EV_PERSISTENT: persistent_alloc(h, p, e->size, e->object, (int)e->flags); return PYMEM_OK;
    case PYMEM_EV_SYS: h->sys[e->flags] += e->size; return PYMEM_OK;
    case PYMEM_EV_PAGES_FLUSH: page_cache_flush(&h->pages, &owner_of(h, e)->pages); return PYMEM_OK;
    case PYMEM_EV_SCAVENGE: do_scavenge(h, e); return PYMEM_OK;
    case PYMEM_EV_GOAL: h->gc_goal = e->object; h->heap_marked = e->size; return PYMEM_OK;
    case PYMEM_EV_SPAN: return do_span(r, e);
    case PYMEM_EV_STATS: return PYMEM_OK;
    case PYMEM_EV_TINY: h->tiny_allocs++; return PYMEM_OK;
    case PYMEM_EV_START_SPAN: return do_start_span(r, e);
    case PYMEM_EV_START_OBJECT: return do_start_object(r, e);
    case PYMEM_EV_START_DONE: return restore_done(h);
    default: return fail(h, PYMEM_EFORMAT, "there is no event of kind %u", e->kind);
    }
}

/* ---- the calls ---- */

int pymem_replay_new(pymem_heap *h, int follow, pymem_replay **out) {
    *out = os_alloc(h, sizeof **out);
    if (!*out) return fail(h, PYMEM_ENOMEM, "no memory for a replay");
    **out = (pymem_replay){.h = h, .follow = follow};
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
    return (event){.kind = c->kind[i], .flags = c->flags[i], .type = c->type[i], .proc = c->proc[i], .object = c->object[i],
                   .size = c->size[i], .expect = c->expect ? c->expect[i] : 0};
}

int replay_run(pymem_replay *r, const pymem_columns *c, uint64_t *row, int *stopped) {
    *stopped = 0;
    while (*row < c->n) {
        event e = row_at(c, *row);
        r->row = *row;
        int rc = do_row(r, &e);
        if (rc) return rc;
        r->events[e.kind]++;
        ++*row;
        if (e.kind == PYMEM_EV_STATS) {
            *stopped = 1;
            return PYMEM_OK;
        }
    }
    r->rows_before += c->n;
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
