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

int span_set_type(pymem_heap *h, mspan *s, uint32_t slot, uint32_t type) {
    if (!(s->span_class >> 1)) {
        s->large_type = type;
        return PYMEM_OK;
    }
    int rc = type ? type_table(h, s) : PYMEM_OK;
    if (!rc && s->types) s->types[slot] = type;
    return rc;
}

/* ---- what a mark would have to scan of it ---- */

/* Bytes of an object of so many bytes in a slot of s, up to its last pointer. Where a header or the span tells the type
 * Go counts the whole slot. Go: heapSetTypeNoHeader, heapSetTypeSmallHeader, heapSetTypeLarge */
static inline bool scan_by_type(const mspan *s) { return s->elem_size != 8 && s->elem_size <= MIN_HEADER_SIZE; }

static inline uint64_t scan_size(const pymem_heap *h, const mspan *s, uint64_t size, uint32_t type) {
    if (s->span_class & 1) return 0;
    return scan_by_type(s) ? type_scan_size(h, type, size) : s->elem_size;
}

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

static inline int malloc_slot(pymem_heap *h, proc *p, uint32_t span_class, uint64_t size, uint32_t type,
                              uint64_t *addr) {
    mspan *s;
    uint32_t i;
    int rc = next_slot(h, p, span_class, &s, &i);
    if (rc) return rc;
    if (type && (rc = type_table(h, s))) return rc;
    take_slot(s, i);
    if (s->types) s->types[i] = type;
    p->cache->scan_alloc += scan_size(h, s, size, type);
    *addr = s->base + i * s->elem_size;
    return PYMEM_OK;
}

static uint64_t tiny_align(uint64_t offset, uint64_t size) {
    if (!(size & 7)) return (offset + 7) & ~7ull;
    if (!(size & 3)) return (offset + 3) & ~3ull;
    return size & 1 ? offset : (offset + 1) & ~1ull;
}

/* The object joins the current block if it fits. Go: mallocgcTiny, as the next one */
static inline bool tiny_join(mcache *c, uint64_t size, uint64_t *addr) {
    uint64_t offset = tiny_align(c->tiny_offset, size);
    if (!c->tiny || offset + size > TINY_SIZE) return false;
    mspan *block = c->tiny_span;
    if (slot_dead(block, c->tiny_slot)) { /* it had died with its last object */
        bit_clear(block->dead_bits, c->tiny_slot);
        block->tiny_live[c->tiny_slot] = 0;
    }
    block->tiny_live[c->tiny_slot] |= (uint16_t)(1u << offset);
    c->tiny_offset = offset + size;
    c->tiny_allocs++;
    *addr = c->tiny + offset;
    return true;
}

/* Else it opens a block, which becomes the current one only if it has more room left. */
static int tiny_open(pymem_heap *h, proc *p, uint64_t size, uint32_t type, uint64_t *addr) {
    mcache *c = p->cache;
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
    p->cache->scan_alloc += scan_size(h, s, size, type);
    *addr = s->base;
    return PYMEM_OK;
}

/* Bytes that an object asks for in a slot, and those of them in front of it. */
static inline uint64_t slot_request(uint64_t size, bool noscan) {
    return noscan || size <= MIN_HEADER_SIZE ? size : size + MALLOC_HEADER;
}

static inline uint64_t span_header(const mspan *s) {
    return s->span_class > 1 && !(s->span_class & 1) && s->elem_size > MIN_HEADER_SIZE ? MALLOC_HEADER : 0;
}

static inline bool is_large(uint64_t size) { return size > MAX_SMALL - MALLOC_HEADER; }
static inline bool is_tiny(uint64_t size, bool noscan) { return noscan && size < TINY_SIZE; }

/* *taken: bytes of the slot; 0: it got a piece of a block that was there. */
static int malloc_white(pymem_heap *h, proc *p, uint64_t size, bool noscan, uint32_t type, uint64_t *addr,
                        uint64_t *taken) {
    if (is_large(size)) {
        *taken = (size + PAGE_SIZE - 1) >> PAGE_SHIFT << PAGE_SHIFT;
        return malloc_large(h, p, size, noscan, type, addr);
    }
    if (is_tiny(size, noscan)) {
        bool joined = tiny_join(p->cache, size, addr);
        *taken = joined ? 0 : TINY_SIZE;
        return joined ? PYMEM_OK : tiny_open(h, p, size, type, addr);
    }
    uint64_t request = slot_request(size, noscan);
    uint32_t span_class = small_span_class(h->classes, request, noscan);
    *taken = h->classes->size[span_class >> 1];
    int rc = malloc_slot(h, p, span_class, size, type, addr);
    if (!rc) *addr += request - size;
    return rc;
}

static inline void spend(pymem_heap *h, uint64_t objects, uint64_t bytes) {
    h->work_objects += objects;
    h->work_bytes += bytes;
    h->stops.quantum -= (int64_t)bytes;
    if (__builtin_expect(h->stops.quantum <= 0, 0)) h->stops.due |= PYMEM_STOP_QUANTUM;
}

/* ---- while marking ---- */

/* Go: gcmarknewobject */
static void mark_new(pymem_heap *h, uint64_t addr) {
    mspan *s = mheap_span_of(h, addr);
    if (h->mark) mark_new_object(h, s, span_slot_of(s, addr));
    else bit_set(s->mark_bits, span_slot_of(s, addr));
    s->page_mark = 1;
    h->marks.objects_marked++;
    h->marks.bytes_marked += s->elem_size;
}

/* The credit pays for the object before it is placed. Beyond the debt it may have, the caller is sent back to assist,
 * and does not pay again. Go: deductAssistCredit */
static bool pay(pymem_heap *h, proc *p, uint64_t size) {
    if (!p->paid) p->credit -= (int64_t)size;
    p->paid = !p->paid && p->credit < -h->stops.debt;
    if (p->paid) h->stops.due |= PYMEM_STOP_ASSIST;
    return !p->paid;
}

/* *addr is 0 where an assist is due first. */
static int malloc_black(pymem_heap *h, proc *p, uint64_t size, bool noscan, uint32_t type, uint64_t *addr) {
    uint64_t taken;
    *addr = 0;
    if (h->assists && !pay(h, p, size)) return PYMEM_OK;
    int rc = malloc_white(h, p, size, noscan, type, addr, &taken);
    if (rc) return rc;
    if (taken) mark_new(h, *addr);
    if (taken && h->assists) p->credit -= (int64_t)(taken - size);
    spend(h, 1, taken);
    return PYMEM_OK;
}

int heap_malloc(pymem_heap *h, proc *p, uint64_t size, bool noscan, uint32_t type, uint64_t *addr) {
    if (h->marking) return malloc_black(h, p, size, noscan, type, addr);
    uint64_t taken;
    int rc = malloc_white(h, p, size, noscan, type, addr, &taken);
    if (!rc) spend(h, 1, taken);
    return rc;
}

/* ---- many objects: runs of free slots ----
 *
 * A batch takes a class's free slots in a row out of its span, hands them out by adding, and enters in the span what it
 * used when the run is closed: at its end, before the class's span is exchanged, and at the end of the batch. Nobody
 * looks at a cached span in between: a refill of another class sweeps and takes spans that no mcache holds. */

typedef struct {
    uint64_t next, end, step; /* address of the next object, of the one after the last; bytes a slot */
    uint32_t *types;          /* where next's type goes; NULL while the span has no table */
    mspan *span;              /* NULL: the run is closed, next == end */
    uint64_t scan;            /* bytes up to the last pointers of what it gave, where types tell */
    uint32_t first;           /* slot it began with */
    uint32_t slots;
    bool by_type; /* scan is counted object by object */
} slot_run;

static void run_close(pymem_heap *h, proc *p, slot_run *r) {
    if (!r->span) return;
    uint32_t used = span_slot_of(r->span, r->next) - r->first;
    if (!(r->span->span_class & 1)) p->cache->scan_alloc += r->by_type ? r->scan : used * r->step;
    if (used) r->span->freeindex = (uint16_t)(r->first + used);
    r->span->alloc_count = (uint16_t)(r->span->alloc_count + used);
    spend(h, used, used * r->step);
    *r = (slot_run){0};
}

static int run_open(pymem_heap *h, proc *p, slot_run *r, uint32_t span_class, uint32_t type) {
    mspan *s;
    uint32_t i;
    int rc = next_slot(h, p, span_class, &s, &i);
    if (!rc && type) rc = type_table(h, s);
    if (rc) return rc;
    uint32_t slots = span_next_used(s, i) - i;
    uint64_t next = s->base + i * s->elem_size + span_header(s);
    *r = (slot_run){.next = next,
                    .end = next + slots * s->elem_size,
                    .step = s->elem_size,
                    .types = s->types ? s->types + i : NULL,
                    .span = s,
                    .first = i,
                    .slots = slots,
                    .by_type = !(span_class & 1) && scan_by_type(s)};
    return PYMEM_OK;
}

static inline int run_malloc(pymem_heap *h, proc *p, slot_run *r, uint32_t span_class, uint64_t size, uint32_t type,
                             uint64_t *addr) {
    if (__builtin_expect(r->next == r->end || (type && !r->types), 0)) {
        run_close(h, p, r);
        int rc = run_open(h, p, r, span_class, type);
        if (rc) return rc;
    }
    *addr = r->next;
    r->next += r->step;
    if (r->types) *r->types++ = type;
    if (r->by_type) r->scan += type_scan_size(h, type, size);
    return PYMEM_OK;
}

static inline int runs_malloc(pymem_heap *h, proc *p, slot_run *runs, const size_classes *t, uint64_t size, bool noscan,
                              uint32_t type, uint64_t *addr) {
    if (__builtin_expect(is_large(size), 0)) return heap_malloc(h, p, size, noscan, type, addr);
    if (is_tiny(size, noscan)) {
        bool joined = tiny_join(p->cache, size, addr);
        spend(h, 1, joined ? 0 : TINY_SIZE);
        if (joined) return PYMEM_OK;
        run_close(h, p, &runs[TINY_SPAN_CLASS]);
        return tiny_open(h, p, size, type, addr);
    }
    uint32_t span_class = small_span_class(t, slot_request(size, noscan), noscan);
    return run_malloc(h, p, &runs[span_class], span_class, size, type, addr);
}

/* The next slot of a span class, or a large object of so many pages: for callers that know the class but not the size.
 */
int heap_malloc_class(pymem_heap *h, proc *p, uint32_t span_class, uint64_t npages, uint32_t type, uint64_t *addr) {
    if (span_class >> 1) return malloc_slot(h, p, span_class, size_classes_go()->size[span_class >> 1], type, addr);
    return malloc_large(h, p, npages << PAGE_SHIFT, span_class & 1, type, addr);
}

/* No runs while marking: each object pays and is marked. */
static int malloc_each_black(pymem_heap *h, proc *p, const uint64_t *sizes, const uint8_t *noscan, int noscan_all,
                             const uint32_t *types, uint64_t n, uint64_t *addrs, uint64_t *done) {
    for (; *done < n && !h->stops.due; *done += addrs[*done] != 0) {
        uint64_t i = *done;
        int rc = malloc_black(h, p, sizes[i], noscan ? noscan[i] : noscan_all, types ? types[i] : 0, &addrs[i]);
        if (rc) return rc;
    }
    return PYMEM_OK;
}

int heap_malloc_each(pymem_heap *h, proc *p, const uint64_t *sizes, const uint8_t *noscan, int noscan_all,
                     const uint32_t *types, uint64_t n, uint64_t *addrs, uint64_t *done) {
    *done = 0;
    if (h->marking) return malloc_each_black(h, p, sizes, noscan, noscan_all, types, n, addrs, done);
    const size_classes *t = size_classes_go();
    slot_run runs[NUM_SPAN_CLASSES] = {0};
    int rc = PYMEM_OK;
    uint64_t i = 0;
    for (; i < n && !h->stops.due; i++) {
        rc = runs_malloc(h, p, runs, t, sizes[i], noscan ? noscan[i] : noscan_all, types ? types[i] : 0, &addrs[i]);
        if (rc) break;
    }
    for (uint32_t c = 0; c < NUM_SPAN_CLASSES; c++) run_close(h, p, &runs[c]);
    *done = i;
    return rc;
}

/* ---- many objects of one size: whole runs at once ---- */

static uint64_t run_fill(slot_run *r, uint32_t type, uint64_t n, uint64_t *addrs) {
    uint64_t used = n < r->slots ? n : r->slots, step = r->step, next = r->next;
    for (uint64_t k = 0; k < used; k++, next += step) addrs[k] = next;
    for (uint64_t k = 0; r->types && k < used; k++) r->types[k] = type;
    r->next += used * step;
    return used;
}

/* A run that began with a trigger ends with its first object. */
static int fill_runs(pymem_heap *h, proc *p, uint32_t span_class, uint64_t size, uint32_t type, uint64_t n,
                     uint64_t *addrs, uint64_t *done) {
    while (*done < n && !h->stops.due) {
        slot_run r;
        int rc = run_open(h, p, &r, span_class, type);
        if (rc) return rc;
        uint64_t used = run_fill(&r, type, h->stops.due ? 1 : n - *done, addrs + *done);
        if (r.by_type) r.scan = used * type_scan_size(h, type, size);
        *done += used;
        run_close(h, p, &r);
    }
    return PYMEM_OK;
}

int heap_malloc_same(pymem_heap *h, proc *p, uint64_t size, bool noscan, uint32_t type, uint64_t n, uint64_t *addrs,
                     uint64_t *done) {
    *done = 0;
    if (!h->marking && !is_large(size) && !is_tiny(size, noscan)) {
        uint32_t span_class = small_span_class(size_classes_go(), slot_request(size, noscan), noscan);
        return fill_runs(h, p, span_class, size, type, n, addrs, done);
    }
    for (; *done < n && !h->stops.due; *done += addrs[*done] != 0) {
        int rc = heap_malloc(h, p, size, noscan, type, &addrs[*done]);
        if (rc) return rc;
    }
    return PYMEM_OK;
}

/* ---- objects by address, and their death ---- */

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
