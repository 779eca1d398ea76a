/* Sets of roots: the addresses from which a mark by graph starts. In Go they are words of the data segments and of
 * stack frames, found by pointer maps; here the program says which words it has. */
#include <string.h>
#include "internal.h"

typedef unsigned long long ull;

enum { FIRST_ROOTS = 8 };

root_set *roots_of(pymem_heap *h, uint32_t id) {
    if (h->memory && id < h->memory->nroots && h->memory->roots[id].used) return &h->memory->roots[id];
    fail(h, PYMEM_EINVAL, "there is no set of roots %u", id);
    return NULL;
}

static int roots_reserve(pymem_heap *h, uint32_t *id) {
    object_memory *m = h->memory;
    for (*id = 0; *id < m->nroots; ++*id)
        if (!m->roots[*id].used) return PYMEM_OK;
    uint32_t n = m->nroots ? 2 * m->nroots : 16;
    void *q = os_grow(h, m->roots, m->nroots * sizeof *m->roots, n * sizeof *m->roots);
    if (!q) return fail(h, PYMEM_ENOMEM, "no memory for sets of roots");
    m->roots = q;
    m->nroots = n;
    return PYMEM_OK;
}

/* One that is made while marking has nothing to scan. */
int roots_new(pymem_heap *h, int kind, uint32_t *id) {
    int rc = memory_on(h);
    if (!rc) rc = roots_reserve(h, id);
    if (!rc) h->memory->roots[*id] = (root_set){.used = 1, .kind = (uint8_t)kind, .scanned = h->mark != NULL};
    return rc;
}

static int targets_check(pymem_heap *h, const uint64_t *addrs, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        if (!memory_is_target(h, addrs[i]))
            return fail(h, PYMEM_EADDRESS, "0x%llx is no living object's address, so it is no root", (ull)addrs[i]);
    return PYMEM_OK;
}

/* Globals have the whole barrier. A stack has none before its scan; after it what is new there is shaded, which a
 * program that got it from the heap or from another stack's scan would not need. */
static void roots_barrier(pymem_heap *h, const root_set *r, uint64_t first, const uint64_t *addrs, uint64_t n) {
    bool global = r->kind == PYMEM_ROOTS_GLOBALS;
    if (!h->mark || (!global && !r->scanned)) return;
    for (uint64_t i = 0; i < n; i++)
        mark_shade(h, (uint64_t[]){global ? r->addrs[first + i] : 0, addrs ? addrs[i] : 0}, 2);
}

int roots_set(pymem_heap *h, uint32_t id, uint64_t first, const uint64_t *addrs, uint64_t n) {
    root_set *r = roots_of(h, id);
    if (!r) return PYMEM_EINVAL;
    if (first > r->n || n > r->n - first)
        return fail(h, PYMEM_EINVAL, "set of roots %u has %llu places: %llu from %llu on are too many", id, (ull)r->n,
                    (ull)n, (ull)first);
    int rc = targets_check(h, addrs, n);
    if (rc) return rc;
    roots_barrier(h, r, first, addrs, n);
    h->memory->points |= n > 0;
    if (n) memcpy(r->addrs + first, addrs, n * sizeof *addrs);
    return PYMEM_OK;
}

static int roots_grow(pymem_heap *h, root_set *r, uint64_t n) {
    uint64_t cap = r->cap ? r->cap : FIRST_ROOTS;
    while (cap < n) cap *= 2;
    void *q = os_grow(h, r->addrs, r->cap * sizeof *r->addrs, cap * sizeof *r->addrs);
    if (!q) return fail(h, PYMEM_ENOMEM, "no memory for %llu roots", (ull)n);
    r->addrs = q;
    r->cap = cap;
    return PYMEM_OK;
}

/* Frames come and go all the time: room that was there once stays. */
int roots_resize(pymem_heap *h, uint32_t id, uint64_t n) {
    root_set *r = roots_of(h, id);
    if (!r) return PYMEM_EINVAL;
    int rc = n > r->cap ? roots_grow(h, r, n) : PYMEM_OK;
    if (rc) return rc;
    if (n < r->n) roots_barrier(h, r, n, NULL, r->n - n);
    else if (n) memset(r->addrs + r->n, 0, (n - r->n) * sizeof *r->addrs);
    r->n = n;
    return PYMEM_OK;
}

int roots_free(pymem_heap *h, uint32_t id) {
    root_set *r = roots_of(h, id);
    if (!r) return PYMEM_EINVAL;
    roots_barrier(h, r, 0, NULL, r->n);
    os_free(h, r->addrs, r->cap * sizeof *r->addrs);
    *r = (root_set){0};
    return PYMEM_OK;
}
