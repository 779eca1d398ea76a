/* Where an object goes. An essay on the hierarchy:
 *
 *   size <= 32,760: a slot. The size class rounds the size up; class and "holds no pointers" (noscan) make the span
 *   class. The proc's mcache has one span for each span class and hands out its free slots in address order. When none
 *   is left, mcentral gives another span: one with free slots, swept on the spot if need be, or a fresh one from mheap,
 *   whose pages come from the proc's page cache or, first fit, from the page allocator, which grows by 4 MB.
 *   size < 16 and noscan: a piece of a 16-byte block that several such objects share (tiny).
 *   larger: a span of its own.
 *
 * A scan object above 512 bytes has its type in a word in front of it, so it asks for 8 bytes more and starts 8 bytes
 * into its slot; smaller ones have pointer bits at the end of the span. Go: malloc.go */
#include "internal.h"

/* ---- what is kept of a slot beside its bit ---- */

static int table_for_slots(pymem_heap *h, void **table, size_t bytes) {
    if (*table) return PYMEM_OK;
    *table = os_alloc(h, bytes);
    return *table ? PYMEM_OK : fail(h, PYMEM_ENOMEM, "no memory for a span's slot table");
}

static int type_table(pymem_heap *h, mspan *s) {
    void *t = s->types;
    int rc = table_for_slots(h, &t, s->nelems * sizeof *s->types);
    s->types = t;
    return rc;
}

static int tiny_table(pymem_heap *h, mspan *s) {
    void *t = s->tiny_live;
    int rc = table_for_slots(h, &t, s->nelems * sizeof *s->tiny_live);
    s->tiny_live = t;
    return rc;
}

static bool slot_dead(const mspan *s, uint32_t slot) { return s->dead_bits && bit_get(s->dead_bits, slot); }

/* ---- one small object ---- */

static inline int next_slot(pymem_heap *h, proc *p, uint32_t span_class, mspan **span, uint32_t *slot) {
    mspan *s = p->cache->alloc[span_class];
    uint32_t i = span_next_free(s);
    if (__builtin_expect(i >= s->nelems, 0)) {
        int rc = mcache_refill(h, p, span_class);
        if (rc) return rc;
        s = p->cache->alloc[span_class];
        i = span_next_free(s);
    }
    *span = s;
    *slot = i;
    return PYMEM_OK;
}

static inline void take_slot(mspan *s, uint32_t slot) {
    s->freeindex = (uint16_t)(slot + 1);
    s->alloc_count++;
}

static inline int malloc_slot(pymem_heap *h, proc *p, uint32_t span_class, uint32_t type, uint64_t *addr) {
    mspan *s;
    uint32_t i;
    int rc = next_slot(h, p, span_class, &s, &i);
    if (rc) return rc;
    if (type && (rc = type_table(h, s))) return rc;
    take_slot(s, i);
    if (s->types) s->types[i] = type;
    *addr = s->base + i * s->elem_size;
    return PYMEM_OK;
}

static uint64_t tiny_align(uint64_t offset, uint64_t size) {
    if (!(size & 7)) return (offset + 7) & ~7ull;
    if (!(size & 3)) return (offset + 3) & ~3ull;
    return size & 1 ? offset : (offset + 1) & ~1ull;
}

/* The object joins the current block if it fits; else it opens a block, which becomes the current one only if it has
 * more room left. Go: mallocgcTiny */
static int malloc_tiny(pymem_heap *h, proc *p, uint64_t size, uint32_t type, uint64_t *addr) {
    mcache *c = p->cache;
    uint64_t offset = tiny_align(c->tiny_offset, size);
    if (c->tiny && offset + size <= TINY_SIZE) {
        mspan *block = c->tiny_span;
        if (slot_dead(block, c->tiny_slot)) { /* it had died with its last object */
            bit_clear(block->dead_bits, c->tiny_slot);
            block->tiny_live[c->tiny_slot] = 0;
        }
        block->tiny_live[c->tiny_slot] |= (uint16_t)(1u << offset);
        c->tiny_offset = offset + size;
        c->tiny_allocs++;
        *addr = c->tiny + offset;
        return PYMEM_OK;
    }
    mspan *s;
    uint32_t i;
    int rc = next_slot(h, p, TINY_SPAN_CLASS, &s, &i);
    if (!rc) rc = tiny_table(h, s);
    if (!rc && type) rc = type_table(h, s);
    if (rc) return rc;
    take_slot(s, i);
    s->tiny_live[i] = 1;
    if (s->types) s->types[i] = type;
    *addr = s->base + i * TINY_SIZE;
    if (size < c->tiny_offset || !c->tiny) {
        c->tiny = *addr;
        c->tiny_offset = size;
        c->tiny_span = s;
        c->tiny_slot = i;
    }
    return PYMEM_OK;
}

static int malloc_large(pymem_heap *h, proc *p, uint64_t size, bool noscan, uint32_t type, uint64_t *addr) {
    mspan *s;
    int rc = alloc_large(h, p, size, noscan, &s);
    if (rc) return rc;
    s->large_type = type;
    *addr = s->base;
    return PYMEM_OK;
}

static inline int malloc_any(pymem_heap *h, proc *p, const size_classes *t, uint64_t size, bool noscan, uint32_t type,
                             uint64_t *addr) {
    if (size > MAX_SMALL - MALLOC_HEADER) return malloc_large(h, p, size, noscan, type, addr);
    if (noscan && size < TINY_SIZE) return malloc_tiny(h, p, size, type, addr);
    if (noscan || size <= MIN_HEADER_SIZE) return malloc_slot(h, p, small_span_class(t, size, noscan), type, addr);
    int rc = malloc_slot(h, p, small_span_class(t, size + MALLOC_HEADER, false), type, addr);
    if (!rc) *addr += MALLOC_HEADER;
    return rc;
}

int heap_malloc(pymem_heap *h, proc *p, uint64_t size, bool noscan, uint32_t type, uint64_t *addr) {
    return malloc_any(h, p, size_classes_go(), size, noscan, type, addr);
}

int heap_malloc_each(pymem_heap *h, proc *p, const uint64_t *sizes, const uint8_t *noscan, int noscan_all,
                     const uint32_t *types, uint64_t n, uint64_t *addrs, uint64_t *done) {
    const size_classes *t = size_classes_go();
    for (*done = 0; *done < n; ++*done) {
        uint64_t i = *done;
        int rc = malloc_any(h, p, t, sizes[i], noscan ? noscan[i] : noscan_all, types ? types[i] : 0, &addrs[i]);
        if (rc) return rc;
    }
    return PYMEM_OK;
}

/* ---- many objects of one size: whole runs of free slots at once ---- */

/* Free slots in a row from slot i on, i itself being free: at most to the end of its 64-bit word. */
static uint32_t run_length(const mspan *s, uint32_t i) {
    uint64_t used = s->alloc_bits[i >> 6] >> (i & 63);
    uint32_t in_word = 64 - (i & 63), left = s->nelems - i;
    uint32_t run = used ? (uint32_t)__builtin_ctzll(used) : in_word;
    return run < left ? run : left;
}

static uint64_t fill_span(mspan *s, uint32_t type, uint64_t header, uint64_t n, uint64_t *addrs) {
    uint64_t done = 0;
    uint32_t i;
    while (done < n && (i = span_next_free(s)) < s->nelems) {
        uint64_t run = run_length(s, i);
        if (run > n - done) run = n - done;
        uint64_t first = s->base + i * s->elem_size + header, step = s->elem_size, *out = addrs + done;
        for (uint64_t k = 0; k < run; k++) out[k] = first + k * step;
        if (s->types)
            for (uint64_t k = 0; k < run; k++) s->types[i + k] = type;
        s->freeindex = (uint16_t)(i + run);
        s->alloc_count = (uint16_t)(s->alloc_count + run);
        done += run;
    }
    return done;
}

static int fill_spans(pymem_heap *h, proc *p, uint32_t span_class, uint32_t type, uint64_t header, uint64_t n,
                      uint64_t *addrs, uint64_t *done) {
    while (*done < n) {
        mspan *s = p->cache->alloc[span_class];
        if (span_next_free(s) >= s->nelems) {
            int rc = mcache_refill(h, p, span_class);
            if (rc) return rc;
            s = p->cache->alloc[span_class];
        }
        int rc = type ? type_table(h, s) : PYMEM_OK;
        if (rc) return rc;
        *done += fill_span(s, type, header, n - *done, addrs + *done);
    }
    return PYMEM_OK;
}

int heap_malloc_same(pymem_heap *h, proc *p, uint64_t size, bool noscan, uint32_t type, uint64_t n, uint64_t *addrs,
                     uint64_t *done) {
    const size_classes *t = size_classes_go();
    bool by_slot = size <= MAX_SMALL - MALLOC_HEADER && !(noscan && size < TINY_SIZE);
    uint64_t header = !noscan && size > MIN_HEADER_SIZE ? MALLOC_HEADER : 0;
    *done = 0;
    if (by_slot) return fill_spans(h, p, small_span_class(t, size + header, noscan), type, header, n, addrs, done);
    for (; *done < n; ++*done) {
        int rc = malloc_any(h, p, t, size, noscan, type, &addrs[*done]);
        if (rc) return rc;
    }
    return PYMEM_OK;
}

/* ---- objects by address, and their death ---- */

static uint64_t span_header(const mspan *s) {
    return s->span_class > 1 && !(s->span_class & 1) && s->elem_size > MIN_HEADER_SIZE ? MALLOC_HEADER : 0;
}

uint64_t span_object_addr(const mspan *s, uint32_t slot) { return s->base + slot * s->elem_size + span_header(s); }

static bool starts_there(const mspan *s, uint32_t slot, uint64_t addr) {
    uint64_t offset = addr - (s->base + slot * s->elem_size);
    if (s->tiny_live && s->tiny_live[slot]) return s->tiny_live[slot] >> offset & 1;
    return offset == span_header(s);
}

int heap_find_object(pymem_heap *h, uint64_t addr, mspan **span, uint32_t *slot) {
    unsigned long long a = addr;
    mspan *s = mheap_span_of(h, addr);
    if (!s || s->state != SPAN_IN_USE) return fail(h, PYMEM_EADDRESS, "0x%llx is not in any span of objects", a);
    uint32_t i = span_slot_of(s, addr);
    if (i >= s->nelems || !span_is_allocated(s, i) || (span_is_unswept(h, s) && !bit_get(s->mark_bits, i)))
        return fail(h, PYMEM_EADDRESS, "0x%llx is in a free slot", a);
    if (slot_dead(s, i)) return fail(h, PYMEM_EADDRESS, "the object at 0x%llx is dead already", a);
    if (!starts_there(s, i, addr))
        return fail(h, PYMEM_EADDRESS, "no living object starts at 0x%llx: give the address that malloc returned", a);
    *span = s;
    *slot = i;
    return PYMEM_OK;
}

int span_kill_slot(pymem_heap *h, mspan *s, uint32_t slot) {
    void *t = s->dead_bits;
    int rc = table_for_slots(h, &t, bit_words(s->nelems) * 8);
    s->dead_bits = t;
    if (!rc) bit_set(s->dead_bits, slot);
    return rc;
}

/* A tiny block dies with the last object in it, whose bit stays: it tells the block from a 16-byte object. */
static int declare_one_dead(pymem_heap *h, uint64_t addr) {
    mspan *s;
    uint32_t i;
    int rc = heap_find_object(h, addr, &s, &i);
    if (rc) return rc;
    uint16_t others = 0;
    if (s->tiny_live) others = s->tiny_live[i] & (uint16_t)~(1u << (addr & (TINY_SIZE - 1)));
    if (!others) return span_kill_slot(h, s, i);
    s->tiny_live[i] = others;
    return PYMEM_OK;
}

/* Takes back the death of addr, the last one in its slot. */
static void undeclare_one(pymem_heap *h, uint64_t addr) {
    mspan *s = mheap_span_of(h, addr);
    uint32_t i = span_slot_of(s, addr);
    if (slot_dead(s, i)) bit_clear(s->dead_bits, i);
    else s->tiny_live[i] |= (uint16_t)(1u << (addr & (TINY_SIZE - 1)));
}

void heap_undeclare_dead(pymem_heap *h, const uint64_t *addrs, uint64_t n) {
    while (n-- > 0) undeclare_one(h, addrs[n]);
}

int heap_declare_dead(pymem_heap *h, const uint64_t *addrs, uint64_t n, uint64_t *done) {
    int rc = PYMEM_OK;
    for (*done = 0; *done < n && !(rc = declare_one_dead(h, addrs[*done])); ++*done) continue;
    if (rc) heap_undeclare_dead(h, addrs, *done);
    return rc;
}
