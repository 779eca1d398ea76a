/* Processors (Go's Ps) as far as memory is concerned: an mcache, a page cache, a stock of stacks and of mspans each.
 * Who runs on which, and when there are more or fewer of them, is decided in Python. Go: proc.go */
#include "internal.h"

static int procs_reserve(pymem_heap *h) {
    if (h->nprocs < h->cap_procs) return PYMEM_OK;
    int32_t cap = h->cap_procs ? 2 * h->cap_procs : 8;
    void *q = os_grow(h, h->procs, (size_t)h->cap_procs * sizeof *h->procs, (size_t)cap * sizeof *h->procs);
    if (!q) return fail(h, PYMEM_ENOMEM, "no memory for processors");
    h->procs = q;
    h->cap_procs = cap;
    return PYMEM_OK;
}

/* The first processor takes over the cache that the runtime started with. Go: (*p).init */
int proc_new(pymem_heap *h, int32_t *id) {
    int rc = procs_reserve(h);
    if (rc) return rc;
    proc *p = os_alloc(h, sizeof *p);
    if (!p) return fail(h, PYMEM_ENOMEM, "no memory for a processor");
    p->cache = h->no_p.cache ? h->no_p.cache : mcache_new(h);
    if (!p->cache) {
        os_free(h, p, sizeof *p);
        return fail(h, PYMEM_ENOMEM, "no memory for an mcache");
    }
    p->flush_gen = h->no_p.cache ? h->no_p.flush_gen : h->sweepgen;
    h->no_p.cache = NULL;
    p->has_p = true;
    *id = 0;
    while (*id < h->nprocs && h->procs[*id]) ++*id; /* the lowest number that is free */
    if (*id == h->nprocs) h->nprocs++;
    h->procs[*id] = p;
    return PYMEM_OK;
}

/* Go: (*p).destroy. Its mspans and its pages go back, then its spans and stacks. */
int proc_destroy(pymem_heap *h, proc *p, int32_t id) {
    proc *gone = h->procs[id];
    int rc = mcache_release_all(h, p, gone->cache);
    if (rc) return rc;
    for (; gone->mspans; gone->mspans--) fix_alloc_give(&h->span_fix);
    page_cache_flush(&h->pages, &gone->pages);
    stack_cache_clear(h, p, gone->cache);
    fix_alloc_give(&h->cache_fix);
    if (gone->cache == h->mcache0) h->mcache0 = NULL;
    os_free(h, gone->cache, sizeof(mcache));
    os_free(h, gone, sizeof *gone);
    h->procs[id] = NULL;
    return PYMEM_OK;
}
