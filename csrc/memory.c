/* The bytes behind emulated addresses, for programs that store pointers. A heap that only places objects has none of
 * this: the first root or store reserves address space for the objects and for tables with an entry a page,
 * and the kernel backs what is touched. Pointer maps lie where Go keeps them: for slots to 512 bytes a bit a word at
 * the end of the span, above that the type in the word in front of the object, for large objects in the span.
 * A slot that is used again reads as zeros: it is zeroed if its span was ever written to, as one of a span that Go has
 * marked needzero. What nobody writes to takes no memory. Go: malloc.go, mbitmap.go */
#include <string.h>
#include "internal.h"

enum { INLINE_MARKS_BYTES = 128, HEAP_BITS_BYTES = PAGE_SIZE / 64, MAX_TYPES = 1 << 24 };

/* The most that one heap reserves: some hundreds of heaps fit the address space of a process. */
#define MAX_RESERVED (1ull << 38)

typedef unsigned long long ull;

/* ---- the reservation ---- */

static size_t table_bytes(uint64_t pages) {
    const object_memory *m = NULL;
    return pages * (sizeof *m->bits + sizeof *m->mask + sizeof *m->sure + sizeof *m->info + sizeof *m->state);
}

static void lay_out(object_memory *m, char *reserved) {
    m->base = reserved;
    m->bits = (void *)(reserved + (m->pages << PAGE_SHIFT));
    m->mask = (uint64_t *)(m->bits + m->pages);
    m->sure = (sure_page *)(m->mask + m->pages);
    m->info = (uint16_t *)(m->sure + m->pages);
    m->state = (uint8_t *)(m->info + m->pages);
}

static void describe_spans(pymem_heap *h) {
    for (mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++) {
            mspan *s = &slab->spans[i];
            if (s->state != SPAN_DEAD) memory_set_pages(h, page_of(h, s->base), s->npages, s);
        }
}

/* Objects from before have memory of zeros, and the pointer maps that their slots and types tell. */
static void describe_objects(pymem_heap *h) {
    for (mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int k = 0; k < SLAB_SPANS; k++) {
            const mspan *s = &slab->spans[k];
            if (s->state != SPAN_IN_USE || s->span_class & 1 || !(s->span_class >> 1)) continue;
            for (uint32_t i = 0; i < s->nelems; i++) {
                uint64_t addr = span_object_addr(s, i), size = s->base + (i + 1) * s->elem_size - addr;
                if (span_is_allocated(s, i)) memory_new_object(h, addr, size, s->types ? s->types[i] : 0);
            }
        }
}

int memory_on(pymem_heap *h) {
    if (h->memory) return PYMEM_OK;
    object_memory *m = os_alloc(h, sizeof *m);
    if (!m) return fail(h, PYMEM_ENOMEM, "no memory for the tables of object memory");
    uint64_t bytes = h->config.address_space < MAX_RESERVED ? h->config.address_space : MAX_RESERVED;
    m->pages = bytes >> PAGE_SHIFT;
    m->reserved = (m->pages << PAGE_SHIFT) + table_bytes(m->pages);
    char *reserved = m->pages < h->end_page ? NULL : os_reserve(h, m->reserved);
    if (!reserved) {
        os_free(h, m, sizeof *m);
        return fail(h, PYMEM_ENOMEM, "no address space for %llu MB of object memory", (ull)(bytes >> 20));
    }
    lay_out(m, reserved);
    h->memory = m;
    describe_spans(h);
    describe_objects(h);
    return PYMEM_OK;
}

static void types_release(pymem_heap *h) {
    for (uint32_t i = 0; i < h->ntypes; i++) os_free(h, h->types[i].mask, h->types[i].words * 8);
    os_free(h, h->types, h->ntypes * sizeof *h->types);
    h->types = NULL;
    h->ntypes = 0;
}

void memory_release(pymem_heap *h) {
    object_memory *m = h->memory;
    types_release(h);
    if (!m) return;
    for (uint32_t i = 0; i < m->nroots; i++) os_free(h, m->roots[i].addrs, m->roots[i].cap * 8);
    os_free(h, m->roots, m->nroots * sizeof *m->roots);
    os_unreserve(m->base, m->reserved);
    os_free(h, m, sizeof *m);
    h->memory = NULL;
}

/* ---- what the tables tell of a page ---- */

static uint16_t page_info(const mspan *s, uint64_t k) {
    if (!s) return PAGE_NONE;
    if (s->state == SPAN_MANUAL) return PAGE_MANUAL;
    return (uint16_t)((s->span_class + PAGE_CLASS) | (s->span_class >> 1 ? k << 8 : 0));
}

void memory_written(object_memory *m, uint64_t page) { m->state[page] |= PAGE_DIRTY; }

/* What a span that goes leaves in its pages: objects' bytes, headers, heap bits. Many pages are given back at once. */
static uint8_t left_dirty(const object_memory *m, uint64_t page, uint64_t npages) {
    bool dirty = m->state[page] & (PAGE_DIRTY | PAGE_HEADERS | PAGE_MASK);
    return dirty && !os_give_back(m->base + (page << PAGE_SHIFT), npages << PAGE_SHIFT) ? PAGE_DIRTY : 0;
}

/* The pages are a span's, or nobody's, all that a span had. Those that have been somebody's may hold old bytes: a span
 * with one of them says so in its first page, where zero_slot looks. Go: allocNeedsZero */
void memory_set_pages(pymem_heap *h, uint64_t page, uint64_t npages, const mspan *s) {
    object_memory *m = h->memory;
    uint8_t left = s ? 0 : left_dirty(m, page, npages), dirty = 0;
    for (uint64_t k = 0; k < npages; k++) {
        dirty |= m->state[page + k] & PAGE_DIRTY;
        m->info[page + k] = page_info(s, k);
        if (m->state[page + k] & PAGE_MASK) m->mask[page + k] = 0; /* it may be longer than the new slots */
        m->state[page + k] = s ? m->state[page + k] & PAGE_DIRTY : left;
    }
    if (s) m->state[page] |= dirty;
}

/* ---- pointer maps ---- */

const type_map *memory_type(const pymem_heap *h, uint64_t type) {
    return type < h->ntypes && h->types[type].size ? &h->types[type] : NULL;
}

static uint64_t low_bits(uint64_t n) { return n >= 64 ? ~0ull : (1ull << n) - 1; }

/* Pointer bits of a small object of so many bytes: its type's map again and again. Go: writeHeapBitsSmall */
static uint64_t small_mask(const pymem_heap *h, uint32_t type, uint64_t size) {
    const type_map *t = memory_type(h, type);
    if (!t) return low_bits(size / 8);
    uint64_t mask = 0;
    for (uint64_t at = 0; at < size; at += t->size) mask |= t->mask[0] << (at / 8);
    return mask & low_bits(size / 8);
}

static uint64_t *heap_bits(const object_memory *m, uint64_t page, uint64_t elem_size) {
    uint64_t end = (page + 1) << PAGE_SHIFT;
    return (uint64_t *)(m->base + end - HEAP_BITS_BYTES - (elem_size >= 16 ? INLINE_MARKS_BYTES : 0));
}

uint64_t *memory_heap_bits(const object_memory *m, uint64_t page, uint64_t elem_size) {
    return heap_bits(m, page, elem_size);
}

uint64_t memory_read_bits(const object_memory *m, uint64_t page, uint64_t elem_size, uint32_t slot) {
    const uint64_t *bits = heap_bits(m, page, elem_size);
    uint64_t n = elem_size / 8, from = slot * n, i = from / 64, j = from % 64;
    if (i >= HEAP_BITS_BYTES / 8) return 0; /* beyond the last slot */
    uint64_t read = bits[i] >> j;
    if (j + n > 64) read |= bits[i + 1] << (64 - j);
    return read & low_bits(n);
}

static void write_bits(uint64_t *bits, uint64_t n, uint32_t slot, uint64_t mask) {
    uint64_t from = slot * n, i = from / 64, j = from % 64;
    bits[i] = (bits[i] & ~(low_bits(n) << j)) | mask << j;
    if (j + n > 64) bits[i + 1] = (bits[i + 1] & ~low_bits(j + n - 64)) | mask >> (64 - j);
}

/* Most pages hold objects of one map: then it is kept once. */
static void note_mask(object_memory *m, uint64_t page, uint64_t mask) {
    if (!(m->state[page] & PAGE_MASK)) {
        m->mask[page] = mask;
        m->state[page] |= PAGE_MASK;
    } else if (m->mask[page] != mask) {
        m->state[page] |= PAGE_MIXED;
    }
}

static void set_small_map(pymem_heap *h, uint64_t page, const mspan *s, uint32_t slot, uint64_t size, uint32_t type) {
    uint64_t mask = s->elem_size == 8 ? 1 : small_mask(h, type, size);
    write_bits(heap_bits(h->memory, page, s->elem_size), s->elem_size / 8, slot, mask);
    note_mask(h->memory, page, mask);
}

/* ---- a new object ---- */

char *memory_at(const pymem_heap *h, uint64_t addr) { return h->memory->base + (addr - h->config.arena_base); }

static void zero_slot(pymem_heap *h, uint64_t page, uint64_t slot_addr, uint64_t size) {
    if (h->memory->state[page] & PAGE_DIRTY) os_zero(memory_at(h, slot_addr), size);
}

/* The type in front of an object. A header of 0 is there already where none was ever another. */
static void set_header(object_memory *m, uint64_t page, char *slot, uint64_t type) {
    if (!type && !(m->state[page] & (PAGE_DIRTY | PAGE_HEADERS))) return;
    m->state[page] |= PAGE_HEADERS;
    memcpy(slot, &type, sizeof type);
}

/* The allocator has placed an object of size bytes at addr: zeros, and its pointer map. A tiny object that joined a
 * block finds the block zeroed. */
void memory_new_object(pymem_heap *h, uint64_t addr, uint64_t size, uint32_t type) {
    const mspan *s = span_at(h, page_of(h, addr));
    uint64_t page = page_of(h, s->base);
    uint32_t slot = span_slot_of(s, addr);
    uint64_t slot_addr = s->base + slot * s->elem_size;
    bool header = s->span_class > 1 && !(s->span_class & 1) && s->elem_size > MIN_HEADER_SIZE;
    if (s->span_class == TINY_SPAN_CLASS && addr != slot_addr) return;
    zero_slot(h, page, slot_addr, s->elem_size);
    if (header) set_header(h->memory, page, memory_at(h, slot_addr), type);
    else if (!(s->span_class & 1) && s->span_class > 1) set_small_map(h, page, s, slot, size, type);
}

void memory_new_objects(pymem_heap *h, const uint64_t *addrs, uint64_t n, const uint64_t *sizes, uint64_t size,
                        const uint32_t *types, uint32_t type) {
    for (uint64_t i = 0; i < n; i++) memory_new_object(h, addrs[i], sizes ? sizes[i] : size, types ? types[i] : type);
}

/* The bytes and the pointer map of a slot in another one of its class. */
void memory_move_slot(pymem_heap *h, const mspan *from, uint32_t i, const mspan *to, uint32_t j) {
    uint64_t size = from->elem_size, page = page_of(h, to->base);
    uint8_t *state = &h->memory->state[page], written = h->memory->state[page_of(h, from->base)] | *state;
    *state |= written & (PAGE_DIRTY | PAGE_HEADERS);
    if (written & (PAGE_DIRTY | PAGE_HEADERS))
        memcpy(memory_at(h, to->base + j * size), memory_at(h, from->base + i * size),
               written & PAGE_DIRTY ? size : MALLOC_HEADER);
    if (from->span_class & 1 || size > MIN_HEADER_SIZE) return;
    uint64_t mask = memory_read_bits(h->memory, page_of(h, from->base), size, i);
    write_bits(heap_bits(h->memory, page, size), size / 8, j, mask);
    note_mask(h->memory, page, mask);
}

/* ---- types ---- */

static int types_reserve(pymem_heap *h, uint32_t id) {
    if (id < h->ntypes) return PYMEM_OK;
    uint32_t n = h->ntypes ? h->ntypes : 64;
    while (n <= id) n *= 2;
    void *q = os_grow(h, h->types, h->ntypes * sizeof *h->types, n * sizeof *h->types);
    if (!q) return fail(h, PYMEM_ENOMEM, "no memory for the table of types");
    h->types = q;
    h->ntypes = n;
    return PYMEM_OK;
}

static int type_check(pymem_heap *h, uint32_t id, uint64_t size, uint64_t ptrdata, uint64_t words) {
    if (id == 0 || id >= MAX_TYPES)
        return fail(h, PYMEM_EINVAL, "type ids go from 1 to %d; 0 stands for an unknown type", MAX_TYPES - 1);
    if (!size || ptrdata > size || ptrdata % 8 || (ptrdata && size % 8) || words * 64 < ptrdata / 8)
        return fail(h, PYMEM_ESIZE, "type %u: its %llu bytes of pointer data are no part of its %llu bytes", id,
                    (ull)ptrdata, (ull)size);
    return PYMEM_OK;
}

static bool same_type(const type_map *t, uint64_t size, uint64_t ptrdata, const uint64_t *mask) {
    return t->size == size && t->ptrdata == ptrdata && !memcmp(t->mask, mask, t->words * 8);
}

/* Bits beyond the pointer data are dropped, so that whole words can be used. */
int memory_type_add(pymem_heap *h, uint32_t id, uint64_t size, uint64_t ptrdata, const uint64_t *mask, uint64_t words) {
    uint64_t need = (ptrdata / 8 + 63) / 64;
    int rc = type_check(h, id, size, ptrdata, words);
    if (!rc) rc = types_reserve(h, id);
    if (rc) return rc;
    type_map *t = &h->types[id];
    uint64_t *copy = os_alloc(h, (need ? need : 1) * 8);
    if (!copy) return fail(h, PYMEM_ENOMEM, "no memory for the pointer map of type %u", id);
    if (need) memcpy(copy, mask, need * 8);
    if (ptrdata / 8 % 64) copy[need - 1] &= low_bits(ptrdata / 8 % 64);
    bool known = t->size, same = known && same_type(t, size, ptrdata, copy);
    if (known) os_free(h, copy, (need ? need : 1) * 8);
    else *t = (type_map){.size = size, .ptrdata = ptrdata, .words = need ? need : 1, .mask = copy};
    return !known || same ? PYMEM_OK : fail(h, PYMEM_EINVAL, "type %u is known with another pointer map", id);
}

/* ---- what may be pointed to, written and read ---- */

/* Whether a mark looks for a pointer at an offset of the slot. */
bool memory_is_pointer_word(const pymem_heap *h, const mspan *s, uint32_t slot, uint64_t offset) {
    uint64_t first = s->base + slot * s->elem_size, type = s->large_type;
    if (s->span_class & 1) return false;
    if (s->span_class >> 1 && s->elem_size <= MIN_HEADER_SIZE)
        return memory_read_bits(h->memory, page_of(h, s->base), s->elem_size, slot) >> (offset / 8) & 1;
    if (s->span_class >> 1) {
        if (offset == 0) return false;
        memcpy(&type, memory_at(h, first), 8);
        offset -= MALLOC_HEADER;
    }
    const type_map *t = memory_type(h, type);
    if (!t) return true;
    uint64_t word = offset % t->size / 8;
    return word < t->ptrdata / 8 && t->mask[word / 64] >> (word & 63) & 1;
}

/* A living object that holds addr: its slot, and where the object begins and the slot ends. */
static bool living_slot(const pymem_heap *h, uint64_t addr, uint64_t *end) {
    const mspan *s = mheap_span_of(h, addr);
    if (!s || s->state != SPAN_IN_USE) return false;
    uint32_t i = span_slot_of(s, addr);
    if (i >= s->nelems || !span_is_allocated(s, i)) return false;
    if (span_is_unswept(h, s) && !bit_get(s->mark_bits, i)) return false;
    if (s->dead_bits && bit_get(s->dead_bits, i)) return false;
    *end = s->base + (i + 1) * s->elem_size;
    return addr >= span_object_addr(s, i);
}

/* nil, an address outside of the heap or in a stack, or a living object's. */
bool memory_is_target(const pymem_heap *h, uint64_t addr) {
    uint64_t end;
    const mspan *s = mheap_span_of(h, addr);
    if (s) return s->state == SPAN_MANUAL || living_slot(h, addr, &end);
    return addr < h->config.arena_base || page_of(h, addr) >= h->cur_page;
}

static int memory_bytes(pymem_heap *h, uint64_t addr, uint64_t size, char **out) {
    uint64_t end;
    int rc = memory_on(h);
    if (rc) return rc;
    if (!living_slot(h, addr, &end)) return fail(h, PYMEM_EADDRESS, "no living object at 0x%llx", (ull)addr);
    if (size > end - addr)
        return fail(h, PYMEM_EADDRESS, "%llu bytes from 0x%llx on pass the end of the object's slot at 0x%llx",
                    (ull)size, (ull)addr, (ull)end);
    *out = memory_at(h, addr);
    return PYMEM_OK;
}

int memory_view(pymem_heap *h, uint64_t addr, uint64_t size, char **out) {
    int rc = memory_bytes(h, addr, size, out);
    if (rc) return rc;
    h->memory->points = true;
    memory_written(h->memory, page_of(h, mheap_span_of(h, addr)->base));
    return PYMEM_OK;
}

int memory_word(pymem_heap *h, uint64_t object, uint64_t offset, uint64_t **word) {
    char *p;
    if ((object | offset) % 8 || offset > h->config.address_space)
        return fail(h, PYMEM_EADDRESS, "offset %llu from 0x%llx: pointers are kept at multiples of 8", (ull)offset,
                    (ull)object);
    int rc = memory_bytes(h, object, offset + 8, &p);
    if (!rc) *word = (uint64_t *)(p + offset);
    return rc;
}

int memory_load(pymem_heap *h, const uint64_t *objects, const uint64_t *offsets, uint64_t n, uint64_t *out,
                uint64_t *done) {
    for (*done = 0; *done < n; ++*done) {
        uint64_t *word;
        int rc = memory_word(h, objects[*done], offsets[*done], &word);
        if (rc) return rc;
        out[*done] = *word;
    }
    return PYMEM_OK;
}
