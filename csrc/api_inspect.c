/* The gate for those who only look: MemStats, spans, objects, pages, size classes. Nothing changes, but that MemStats
 * may flush caches first, as Go's does. */
#include <string.h>
#include "api.h"

/* ---- MemStats ---- */

int pymem_read_mem_stats(pymem_heap *h, int32_t id, int flush, pymem_mem_stats *out) {
    ENTER(h);
    proc *p;
    int rc = get_proc(h, id, false, &p);
    for (int32_t i = 0; flush && i < h->nprocs && !rc; i++)
        if (h->procs[i]) rc = proc_flush(h, p, h->procs[i]);
    if (!rc) mem_stats_read(h, out);
    return leave(h, rc);
}

/* ---- looking inside ---- */

static void describe_span(const pymem_heap *h, const mspan *s, pymem_span_info *out) {
    *out = (pymem_span_info){.base = s->base,
                             .npages = s->npages,
                             .elem_size = s->elem_size,
                             .nelems = s->nelems,
                             .alloc_count = s->alloc_count,
                             .freeindex = s->freeindex,
                             .sweepgen = s->sweepgen,
                             .span_class = s->span_class,
                             .state = s->state,
                             .kind = s->kind,
                             .cached = s->state == SPAN_IN_USE &&
                                       (s->sweepgen == h->sweepgen + 1 || s->sweepgen == h->sweepgen + 3)};
}

int pymem_spans(pymem_heap *h, uint64_t from_addr, pymem_span_info *out, uint64_t cap, uint64_t *n) {
    ENTER(h);
    uint64_t page = from_addr > h->config.arena_base ? page_of(h, from_addr) : 0;
    *n = 0;
    while (page < h->cur_page && *n < cap) {
        const mspan *s = span_at(h, page);
        if (s) describe_span(h, s, &out[(*n)++]);
        page += s ? s->npages : 1;
    }
    return leave(h, PYMEM_OK);
}

int pymem_span_of(pymem_heap *h, uint64_t addr, pymem_span_info *out) {
    ENTER(h);
    const mspan *s = mheap_span_of(h, addr);
    if (!s) return leave(h, fail(h, PYMEM_EADDRESS, "0x%llx is in no span", (ull)addr));
    describe_span(h, s, out);
    return leave(h, PYMEM_OK);
}

int pymem_object_at(pymem_heap *h, uint64_t addr, pymem_object_info *out) {
    ENTER(h);
    mspan *s;
    uint32_t i;
    int rc = heap_find_object(h, addr, &s, &i);
    if (!rc)
        *out = (pymem_object_info){.addr = addr,
                                   .base = s->base,
                                   .size = s->elem_size,
                                   .index = i,
                                   .type = s->types ? s->types[i] : s->large_type,
                                   .span_class = s->span_class,
                                   .noscan = s->span_class & 1,
                                   .tiny = s->tiny_live && s->tiny_live[i]};
    return leave(h, rc);
}

int pymem_objects(pymem_heap *h, uint64_t span_base, uint64_t *addrs, uint32_t *types, uint32_t *n) {
    ENTER(h);
    const mspan *s = mheap_span_of(h, span_base);
    *n = 0;
    if (!s || s->base != span_base || s->state != SPAN_IN_USE)
        return leave(h, fail(h, PYMEM_EADDRESS, "no span of objects begins at 0x%llx", (ull)span_base));
    for (uint32_t i = 0; i < s->nelems; i++) {
        if (!span_slot_lives(h, s, i)) continue;
        addrs[*n] = span_object_addr(s, i);
        types[(*n)++] = s->types ? s->types[i] : s->large_type;
    }
    return leave(h, PYMEM_OK);
}

static void add_type_use(const pymem_heap *h, const mspan *s, uint64_t *objects, uint64_t *bytes, uint32_t ntypes) {
    for (uint32_t i = 0; i < s->nelems; i++) {
        if (!span_slot_lives(h, s, i)) continue;
        uint32_t type = s->types ? s->types[i] : s->large_type;
        if (type >= ntypes) type = 0;
        objects[type]++;
        bytes[type] += s->elem_size;
    }
}

int pymem_type_use(pymem_heap *h, uint64_t *objects, uint64_t *bytes, uint32_t ntypes) {
    ENTER(h);
    if (!ntypes) return leave(h, fail(h, PYMEM_EINVAL, "there is at least the type 0"));
    memset(objects, 0, ntypes * sizeof *objects);
    memset(bytes, 0, ntypes * sizeof *bytes);
    for (const mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++)
            if (slab->spans[i].state == SPAN_IN_USE) add_type_use(h, &slab->spans[i], objects, bytes, ntypes);
    return leave(h, PYMEM_OK);
}

static uint64_t cached_pages(const pymem_heap *h, uint64_t block) {
    uint64_t cached = 0;
    for (int32_t i = 0; i < h->nprocs; i++)
        if (h->procs[i] && h->procs[i]->pages.page == block) cached |= h->procs[i]->pages.cache;
    return cached;
}

int pymem_page_states(pymem_heap *h, uint64_t from_page, uint8_t *out, uint64_t cap, uint64_t *n) {
    ENTER(h);
    *n = 0;
    for (uint64_t page = from_page, cached = 0; page < h->cur_page && *n < cap; page++) {
        if (*n == 0 || page % 64 == 0) cached = cached_pages(h, page & ~63ull);
        const chunk *c = &h->pages.chunks[page / CHUNK_PAGES];
        uint64_t word = page % CHUNK_PAGES / 64, bit = page & 63;
        out[(*n)++] = (uint8_t)((c->alloc[word] >> bit & 1) | (c->scav[word] >> bit & 1) << 1 |
                                (cached >> bit & 1) << 2 | (page < h->padding) << 3);
    }
    return leave(h, PYMEM_OK);
}

void pymem_size_class(int sizeclass, uint32_t *size, uint32_t *npages, uint32_t *nelems_scan, uint32_t *nelems_noscan) {
    const size_classes *t = size_classes_go();
    if (sizeclass < 0 || sizeclass >= NUM_CLASSES) sizeclass = 0;
    *size = t->size[sizeclass];
    *npages = t->npages[sizeclass];
    *nelems_scan = t->nelems[sizeclass << 1];
    *nelems_noscan = t->nelems[sizeclass << 1 | 1];
}

int pymem_size_to_class(uint64_t size) { return size > MAX_SMALL ? 0 : size_classes_go()->of_size[(size + 7) >> 3]; }

uint64_t pymem_heap_bounds(const pymem_heap *h, uint64_t *base) {
    *base = h->config.arena_base;
    return h->cur_page << PAGE_SHIFT;
}
