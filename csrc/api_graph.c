/* The gate to objects with pointers: memory behind addresses, types, roots, loads and stores. */
#include <string.h>
#include "api.h"

/* ---- the graph ---- */

int pymem_memory_on(pymem_heap *h) {
    ENTER(h);
    return leave(h, memory_on(h));
}

int pymem_memory(pymem_heap *h, uint64_t addr, uint64_t size, char **out) {
    ENTER(h);
    *out = NULL;
    return leave(h, memory_view(h, addr, size, out));
}

int pymem_type_add(pymem_heap *h, uint32_t id, uint64_t size, uint64_t ptrdata, const uint64_t *mask, uint64_t words) {
    ENTER(h);
    return leave(h, memory_type_add(h, id, size, ptrdata, mask, words));
}

int pymem_roots_new(pymem_heap *h, int kind, uint32_t *id) {
    ENTER(h);
    if (kind < PYMEM_ROOTS_GLOBALS || kind > PYMEM_ROOTS_HELD)
        return leave(h, fail(h, PYMEM_EINVAL, "roots are globals, a stack or held, not of kind %d", kind));
    return leave(h, roots_new(h, kind, id));
}

int pymem_roots_set(pymem_heap *h, uint32_t id, uint64_t first, const uint64_t *addrs, uint64_t n) {
    ENTER(h);
    return leave(h, roots_set(h, id, first, addrs, n));
}

int pymem_roots_get(pymem_heap *h, uint32_t id, uint64_t first, uint64_t *addrs, uint64_t n) {
    ENTER(h);
    const root_set *r = roots_of(h, id);
    if (r && (first > r->n || n > r->n - first)) {
        fail(h, PYMEM_EINVAL, "set of roots %u has %llu places", id, (ull)r->n);
        r = NULL;
    }
    if (r && n) memcpy(addrs, r->addrs + first, n * sizeof *addrs);
    return leave(h, r ? PYMEM_OK : PYMEM_EINVAL);
}

int pymem_roots_resize(pymem_heap *h, uint32_t id, uint64_t n) {
    ENTER(h);
    if (n > 1ull << 40) return leave(h, fail(h, PYMEM_ESIZE, "%llu roots are more than there is memory for", (ull)n));
    return leave(h, roots_resize(h, id, n));
}

int pymem_roots_free(pymem_heap *h, uint32_t id) {
    ENTER(h);
    return leave(h, roots_free(h, id));
}

int pymem_store_batch(pymem_heap *h, const uint64_t *objects, const uint64_t *offsets, const uint64_t *targets,
                      uint64_t n, uint64_t *done) {
    ENTER(h);
    *done = 0;
    int rc = memory_on(h);
    return leave(h, rc ? rc : memory_store(h, objects, offsets, targets, n, done));
}

int pymem_load_batch(pymem_heap *h, const uint64_t *objects, const uint64_t *offsets, uint64_t n, uint64_t *out,
                     uint64_t *done) {
    ENTER(h);
    *done = 0;
    int rc = memory_on(h);
    return leave(h, rc ? rc : memory_load(h, objects, offsets, n, out, done));
}
