/* The gate: every call from Python enters through the api files, and there alone arguments are doubted. Here is the way
 * in and out, and what a program does: a heap's life, processors, allocation, stacks, rows of a record. A heap has one
 * owner at a time; a second thread that comes in meanwhile is turned away rather than made to wait. */
#include <stdlib.h>
#include <string.h>
#include "api.h"

#ifndef PYMEM_CHECK
#define PYMEM_CHECK 0
#endif

/* ---- coming in and going out ---- */

int enter(pymem_heap *h) {
    if (!h) return PYMEM_EINVAL;
    if (atomic_flag_test_and_set_explicit(&h->busy, memory_order_acquire)) return PYMEM_EBUSY;
    h->pace.fresh = 0;
    return PYMEM_OK;
}

int leave(pymem_heap *h, int rc) {
    if (PYMEM_CHECK && (rc == PYMEM_OK || rc == PYMEM_ENOMEM)) {
        char sentence[sizeof h->message];
        memcpy(sentence, h->message, sizeof sentence);
        int check = PYMEM_CHECK > 1 ? heap_check(h) : heap_check_cheap(h);
        if (check) rc = check;
        else memcpy(h->message, sentence, sizeof sentence);
    }
    atomic_flag_clear_explicit(&h->busy, memory_order_release);
    return rc;
}

int get_proc(pymem_heap *h, int32_t id, bool mallocs, proc **out) {
    if (id < PYMEM_NO_PROC || id >= h->nprocs || (id >= 0 && !h->procs[id]))
        return fail(h, PYMEM_EINVAL, "there is no processor %d", id);
    *out = id == PYMEM_NO_PROC ? &h->no_p : h->procs[id];
    if (!mallocs) return PYMEM_OK;
    if (!(*out)->cache) return fail(h, PYMEM_EINVAL, "objects are allocated on a processor; this thread has none");
    return (*out)->flush_gen == h->sweepgen ? PYMEM_OK : proc_flush(h, *out, *out);
}

/* ---- a heap's life ---- */

static int birth(pymem_heap *h) {
    h->classes = size_classes_go();
    h->sweep_done = true;
    h->stops.live = UINT64_MAX;
    h->stops.quantum = INT64_MAX;
    h->gc_goal = UINT64_MAX;
    h->memory_limit = INT64_MAX;
    h->scav_percent_goal = h->scav_limit = UINT64_MAX;
    h->padding = h->config.padding_pages;
    account_birth(h);
    h->faults = (int64_t)h->config.birth_fault - 2; /* the heap itself was the first allocation */
    h->mcache0 = mcache_new(h);
    h->faults = -1;
    h->no_p.cache = h->mcache0;
    return h->mcache0 ? PYMEM_OK : PYMEM_ENOMEM;
}

int pymem_heap_new(const pymem_config *config, pymem_heap **out) {
    *out = NULL;
    if (!config_good(config)) return PYMEM_EINVAL;
    pymem_heap *h = config->birth_fault == 1 ? NULL : calloc(1, sizeof *h);
    if (!h) return PYMEM_ENOMEM;
    h->config = *config;
    h->real_bytes = sizeof *h;
    atomic_flag_clear(&h->busy);
    if (birth(h)) {
        pymem_heap_free(h);
        return PYMEM_ENOMEM;
    }
    *out = h;
    return PYMEM_OK;
}

void pymem_heap_free(pymem_heap *h) {
    if (!h) return;
    for (int32_t i = 0; i < h->nprocs; i++) {
        if (h->procs[i] && h->procs[i]->cache != h->mcache0) os_free(h, h->procs[i]->cache, sizeof(mcache));
        os_free(h, h->procs[i], sizeof(proc));
    }
    os_free(h, h->procs, (size_t)h->cap_procs * sizeof *h->procs);
    os_free(h, h->mcache0, sizeof(mcache));
    mark_release(h);
    memory_release(h);
    mheap_release(h);
    page_alloc_release(h);
    os_release_kept(h);
    free(h);
}

const char *pymem_heap_message(const pymem_heap *h) { return h->message; }
void pymem_fault_after(pymem_heap *h, int64_t n) { h->faults = n; }
uint64_t pymem_metadata_bytes(const pymem_heap *h) { return h->real_bytes; }

int pymem_heap_check(pymem_heap *h) {
    ENTER(h);
    int rc = heap_check(h);
    atomic_flag_clear_explicit(&h->busy, memory_order_release);
    return rc;
}

/* ---- snapshots ---- */

int pymem_snapshot(pymem_heap *h, char *out, uint64_t cap, uint64_t *need) {
    ENTER(h);
    *need = 0;
    return leave(h, snapshot_write(h, out, out ? cap : 0, need));
}

/* A heap that could not be restored stays entered: its sentence can be read, and nothing else done with it. */
int pymem_restore(const char *data, uint64_t n, int64_t fault, pymem_heap **out) {
    pymem_config config = {.arena_base = (uint64_t)ARENA_PAGES << PAGE_SHIFT, .birth_fault = fault == 0};
    int rc = pymem_heap_new(&config, out);
    if (rc) return rc;
    pymem_heap *h = *out;
    enter(h);
    h->faults = fault;
    rc = snapshot_read(h, data, n);
    h->faults = -1;
    if (!rc && heap_check(h)) rc = PYMEM_EFORMAT;
    if (!rc) atomic_flag_clear_explicit(&h->busy, memory_order_release);
    return rc;
}

/* ---- processors ---- */

int pymem_proc_new(pymem_heap *h, int32_t *id) {
    ENTER(h);
    return leave(h, proc_new(h, id));
}

/* Who runs while proc id is taken down: the first of the others, else a thread without one. */
static proc *proc_beside(pymem_heap *h, int32_t id) {
    for (int32_t i = 0; i < h->nprocs; i++)
        if (i != id && h->procs[i]) return h->procs[i];
    return &h->no_p;
}

int pymem_proc_destroy(pymem_heap *h, int32_t id) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc && id == PYMEM_NO_PROC) rc = fail(h, PYMEM_EINVAL, "there is no processor -1");
    return leave(h, rc ? rc : proc_destroy(h, proc_beside(h, id), id));
}

/* ---- stops ---- */

pymem_stops *pymem_stops_of(pymem_heap *h) { return &h->stops; }

int pymem_assist_credit(pymem_heap *h, int32_t id, int64_t add, int64_t *now) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc) *now = p->credit += add;
    return leave(h, rc);
}

/* ---- allocation ---- */

static int size_check(pymem_heap *h, uint64_t size) {
    if (size == 0) return fail(h, PYMEM_ESIZE, "an object of 0 bytes has no place: Go gives all of them one address");
    if (size > h->config.address_space)
        return fail(h, PYMEM_ESIZE, "an object of %llu bytes is larger than the address space of %llu", (ull)size,
                    (ull)h->config.address_space);
    return PYMEM_OK;
}

/* The bits of all together first: as a rule they are below the limit, and then so is each size. */
static int sizes_check(pymem_heap *h, const uint64_t *sizes, uint64_t n) {
    uint64_t bits = 0;
    for (uint64_t i = 0; i < n; i++) bits |= sizes[i] - 1; /* of size 0: all */
    if (bits < h->config.address_space) return PYMEM_OK;
    int rc = PYMEM_OK;
    for (uint64_t i = 0; i < n && !rc; i++) rc = size_check(h, sizes[i]);
    return rc;
}

int pymem_malloc(pymem_heap *h, int32_t id, uint64_t size, int noscan, uint32_t type, uint64_t *addr) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, true, &p);
    if (!rc) rc = size_check(h, size);
    h->stops.due = PYMEM_STOP_NONE;
    if (!rc) rc = heap_malloc(h, p, size, noscan, type, addr);
    if (!rc && h->memory && *addr) memory_new_object(h, *addr, size, type);
    return leave(h, rc);
}

int pymem_malloc_same(pymem_heap *h, int32_t id, uint64_t size, int noscan, uint32_t type, uint64_t n, uint64_t *addrs,
                      uint64_t *done) {
    ENTER(h);
    proc *p;
    *done = 0;
    int rc = get_proc(h, id, true, &p);
    if (!rc) rc = size_check(h, size);
    h->stops.due = PYMEM_STOP_NONE;
    if (!rc) rc = heap_malloc_same(h, p, size, noscan, type, n, addrs, done);
    if (h->memory) memory_new_objects(h, addrs, *done, NULL, size, NULL, type);
    return leave(h, rc);
}

int pymem_malloc_each(pymem_heap *h, int32_t id, const uint64_t *sizes, const uint8_t *noscan, int noscan_all,
                      const uint32_t *types, uint64_t n, uint64_t *addrs, uint64_t *done) {
    ENTER(h);
    proc *p;
    *done = 0;
    int rc = get_proc(h, id, true, &p);
    if (!rc) rc = sizes_check(h, sizes, n);
    h->stops.due = PYMEM_STOP_NONE;
    if (!rc) rc = heap_malloc_each(h, p, sizes, noscan, noscan_all, types, n, addrs, done);
    if (h->memory) memory_new_objects(h, addrs, *done, sizes, 0, types, 0);
    return leave(h, rc);
}

/* ---- stacks and manual spans ---- */

static int stack_size_check(pymem_heap *h, uint64_t n) {
    bool good = n >= FIXED_STACK && !(n & (n - 1)) && n <= 1ull << 30;
    return good ? PYMEM_OK
                : fail(h, PYMEM_ESIZE, "a stack has a power of two bytes from 2 KB to 1 GB, not %llu", (ull)n);
}

int pymem_stack_alloc(pymem_heap *h, int32_t id, uint64_t n, int cached, uint64_t *addr) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc) rc = stack_size_check(h, n);
    return leave(h, rc ? rc : stack_alloc(h, p, n, cached, addr));
}

int pymem_stack_free(pymem_heap *h, int32_t id, uint64_t addr, uint64_t n, int cached) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    if (!rc) rc = stack_size_check(h, n);
    return leave(h, rc ? rc : stack_free(h, p, addr, n, cached));
}

int pymem_manual_alloc(pymem_heap *h, int32_t id, uint64_t npages, int kind, uint64_t *addr) {
    ENTER(h);
    proc *p;
    mspan *s;
    int rc = get_proc(h, id, false, &p);
    if (!rc && (npages == 0 || kind < PYMEM_SPAN_WORKBUF || kind > PYMEM_SPAN_OTHER))
        rc = fail(h, PYMEM_ESIZE, "a manual span has at least one page and is a work buffer or of another use");
    if (!rc) rc = mheap_alloc_span(h, p, npages, kind, 0, &s);
    if (!rc) *addr = s->base;
    return leave(h, rc);
}

int pymem_manual_free(pymem_heap *h, int32_t id, uint64_t addr) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    mspan *s = mheap_span_of(h, addr);
    bool good = s && s->base == addr && s->state == SPAN_MANUAL && s->kind != PYMEM_SPAN_STACK;
    if (!rc && !good) rc = fail(h, PYMEM_EADDRESS, "no manual span begins at 0x%llx", (ull)addr);
    if (!rc) mheap_free_span(h, p, s);
    return leave(h, rc);
}

/* ---- replay ---- */

int pymem_replay_run(pymem_replay *r, const pymem_columns *columns, uint64_t *row, int *stopped) {
    pymem_heap *h = replay_heap(r);
    ENTER(h);
    int rc = replay_run(r, columns, row, stopped);
    pace_read(h, &h->pace);
    return leave(h, rc);
}

int pymem_follow_run(pymem_follow *f, uint64_t rows, int *done) {
    pymem_heap *h = follow_heap(f);
    ENTER(h);
    return leave(h, follow_run(f, rows, done));
}
