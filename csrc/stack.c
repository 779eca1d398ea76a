/* Goroutine stacks. Small ones (2 to 16 KB) are cut from pool spans of 32 KB, with a stock in each proc; larger ones
 * are spans of their own. Their spans lie among the heap's, so they move objects' addresses. Go: stack.go
 *
 * Free stacks of a pool span: a stack of slot numbers, 4 bits each, in free_stacks (at most 16 slots a span). */
#include "internal.h"

static void list_insert(mspan **list, mspan *s) {
    s->prev = NULL;
    s->next = *list;
    if (*list) (*list)->prev = s;
    *list = s;
}

static void list_remove(mspan **list, mspan *s) {
    if (s->prev) s->prev->next = s->next;
    else *list = s->next;
    if (s->next) s->next->prev = s->prev;
    s->next = s->prev = NULL;
}

static bool is_small(uint64_t n) { return n < (uint64_t)FIXED_STACK << NUM_STACK_ORDERS && n < STACK_CACHE_SIZE; }
static uint32_t log2_of(uint64_t n) { return 63 - (uint32_t)__builtin_clzll(n); }
static uint32_t order_of(uint64_t n) { return log2_of(n / FIXED_STACK); }

static void slot_push(mspan *s, uint32_t slot) {
    s->free_stacks = s->free_stacks << 4 | slot;
    s->nfree_stacks++;
}

static uint32_t slot_pop(mspan *s) {
    uint32_t slot = s->free_stacks & 15;
    s->free_stacks >>= 4;
    s->nfree_stacks--;
    return slot;
}

/* ---- the pool that all procs share. Go: stackpoolalloc, stackpoolfree ---- */

static int pool_alloc(pymem_heap *h, proc *p, uint32_t order, uint64_t *addr) {
    mspan *s = h->stack_pool[order];
    if (!s) {
        int rc = mheap_alloc_span(h, p, STACK_CACHE_SIZE >> PAGE_SHIFT, PYMEM_SPAN_STACK, 0, &s);
        if (rc) return rc;
        s->elem_size = (uint64_t)FIXED_STACK << order;
        for (uint32_t i = 0; i < STACK_CACHE_SIZE / s->elem_size; i++) slot_push(s, i);
        list_insert(&h->stack_pool[order], s);
    }
    *addr = s->base + slot_pop(s) * s->elem_size;
    s->alloc_count++;
    if (!s->nfree_stacks) list_remove(&h->stack_pool[order], s);
    return PYMEM_OK;
}

static void pool_free(pymem_heap *h, proc *p, uint32_t order, uint64_t addr) {
    mspan *s = mheap_span_of(h, addr);
    if (!s->nfree_stacks) list_insert(&h->stack_pool[order], s);
    slot_push(s, (uint32_t)((addr - s->base) / s->elem_size));
    s->alloc_count--;
    if (h->gc_running || s->alloc_count) return; /* while marking, a stale pointer may still lead there */
    list_remove(&h->stack_pool[order], s);
    mheap_free_span(h, p, s);
}

/* ---- a proc's stock. Go: stackcacherefill, stackcacherelease, stackcache_clear ---- */

static int cache_refill(pymem_heap *h, proc *p, uint32_t order) {
    stack_cache *c = &p->cache->stacks[order];
    for (uint64_t size = 0; size < STACK_CACHE_SIZE / 2; size += (uint64_t)FIXED_STACK << order) {
        int rc = pool_alloc(h, p, order, &c->list[c->n]);
        if (rc) return c->n ? PYMEM_OK : rc;
        c->n++;
    }
    return PYMEM_OK;
}

static void cache_release(pymem_heap *h, proc *p, stack_cache *c, uint32_t order, uint64_t keep_bytes) {
    while ((uint64_t)c->n * (FIXED_STACK << order) > keep_bytes) pool_free(h, p, order, c->list[--c->n]);
}

void stack_cache_clear(pymem_heap *h, proc *p, mcache *c) {
    for (uint32_t order = 0; order < NUM_STACK_ORDERS; order++) cache_release(h, p, &c->stacks[order], order, 0);
}

/* ---- the two calls. Go: stackalloc, stackfree ---- */

static int small_alloc(pymem_heap *h, proc *p, uint32_t order, bool cached, uint64_t *addr) {
    if (!cached || !p->has_p) return pool_alloc(h, p, order, addr);
    stack_cache *c = &p->cache->stacks[order];
    if (!c->n) {
        int rc = cache_refill(h, p, order);
        if (rc) return rc;
    }
    *addr = c->list[--c->n];
    return PYMEM_OK;
}

static int large_alloc(pymem_heap *h, proc *p, uint64_t n, uint64_t *addr) {
    uint64_t npages = n >> PAGE_SHIFT;
    mspan *s = h->stack_large[log2_of(npages)];
    if (s) {
        list_remove(&h->stack_large[log2_of(npages)], s);
    } else {
        int rc = mheap_alloc_span(h, p, npages, PYMEM_SPAN_STACK, 0, &s);
        if (rc) return rc;
        s->elem_size = n;
    }
    s->alloc_count = 1;
    *addr = s->base;
    return PYMEM_OK;
}

static uint32_t stack_slot(const mspan *s, uint64_t addr) { return (uint32_t)((addr - s->base) / s->elem_size); }

int stack_alloc(pymem_heap *h, proc *p, uint64_t n, bool cached, uint64_t *addr) {
    int rc = is_small(n) ? small_alloc(h, p, order_of(n), cached, addr) : large_alloc(h, p, n, addr);
    if (rc) return rc;
    mspan *s = mheap_span_of(h, *addr);
    s->live_stacks |= (uint16_t)(1u << stack_slot(s, *addr));
    return PYMEM_OK;
}

int stack_free(pymem_heap *h, proc *p, uint64_t addr, uint64_t n, bool cached) {
    mspan *s = mheap_span_of(h, addr);
    bool good = s && s->state == SPAN_MANUAL && s->kind == PYMEM_SPAN_STACK && s->elem_size == n &&
                (addr - s->base) % n == 0 && s->live_stacks >> stack_slot(s, addr) & 1;
    if (!good)
        return fail(h, PYMEM_EADDRESS, "no stack of %llu bytes is lent out at 0x%llx", (unsigned long long)n,
                    (unsigned long long)addr);
    s->live_stacks &= (uint16_t)~(1u << stack_slot(s, addr));
    if (is_small(n)) {
        uint32_t order = order_of(n);
        if (!cached || !p->has_p) {
            pool_free(h, p, order, addr);
            return PYMEM_OK;
        }
        stack_cache *c = &p->cache->stacks[order];
        if ((uint64_t)c->n * n >= STACK_CACHE_SIZE) cache_release(h, p, c, order, STACK_CACHE_SIZE / 2);
        c->list[c->n++] = addr;
        return PYMEM_OK;
    }
    s->alloc_count = 0;
    if (h->gc_running) list_insert(&h->stack_large[log2_of(s->npages)], s);
    else mheap_free_span(h, p, s);
    return PYMEM_OK;
}

/* The span goes, whatever was on it. */
void stack_forget_span(pymem_heap *h, mspan *s) {
    for (uint32_t order = 0; order < NUM_STACK_ORDERS; order++)
        if (s->nfree_stacks &&
            (h->stack_pool[order] == s || (s->prev && s->elem_size == (uint64_t)FIXED_STACK << order)))
            list_remove(&h->stack_pool[order], s);
    s->nfree_stacks = 0;
}

/* Go: freeStackSpans, at the end of a cycle. */
void stack_free_spans(pymem_heap *h, proc *p) {
    for (uint32_t order = 0; order < NUM_STACK_ORDERS; order++) {
        for (mspan *s = h->stack_pool[order], *next; s; s = next) {
            next = s->next;
            if (s->alloc_count) continue;
            list_remove(&h->stack_pool[order], s);
            mheap_free_span(h, p, s);
        }
    }
    for (uint32_t i = 0; i < NUM_LARGE_STACKS; i++) {
        while (h->stack_large[i]) {
            mspan *s = h->stack_large[i];
            list_remove(&h->stack_large[i], s);
            mheap_free_span(h, p, s);
        }
    }
}
