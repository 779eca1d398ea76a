/* Stores of pointers, in batches, through the write barrier. Each store is checked: its word must lie in a living
 * object, and so must its target, unless it is nil or no address of the heap's. Most objects live in spans whose first
 * slots are all in use; what is known of such a span is kept in a table by page, so that a check reads one entry,
 * wherever addresses lie. All others are looked up one by one.
 *
 * A block of stores is checked before it is done: neighbours in one span without a branch, some at a time where the
 * processor can. A block that may hold a wrong store is gone through store by store, so all before that one are done
 * and none after it. What a check says of a store holds whatever the stores before it do: they change no object's life,
 * and columns that lie in the very objects that they change are taken store by store.
 *
 * While marking, what a store removes and what it adds become grey. They are buffered first unless they are marked
 * already: nothing looks at marks before the buffer is flushed, at the latest as the batch ends. Go: mwbbuf.go */
#include <string.h>
#include "internal.h"

enum {
    BUFFERED = 512, /* pointers, as in Go */
    BLOCK = 16,
};

/* What a loop over a block's 16 stores is compiled together with. */
#define INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

/* Compiled for AVX2, too, which checks four stores at a time; chosen as the library is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && __GNUC__ >= 12 && !defined(__SANITIZE_ADDRESS__)
#define CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

typedef unsigned long long ull;

/* ---- what a batch knows of a page ---- */

static bool all_swept_live(const pymem_heap *h, const mspan *s) {
    return s && s->state == SPAN_IN_USE && !s->dead_bits && !span_is_unswept(h, s);
}

/* Pointers among 64 words of a large object: such a map it has if its elements begin anew with each 64th word. */
static uint64_t large_mask(const type_map *t) {
    if (!t) return UINT64_MAX;
    uint64_t mask = 0, words = t->size / 8;
    if (!t->ptrdata || words > 64 || 64 % words) return 0;
    for (uint64_t at = 0; at < 64; at += words) mask |= t->mask[0] << at;
    return mask;
}

/* What is known of all objects of a span, and where the rest of their maps is. */
static void note_maps(const pymem_heap *h, uint64_t page, const mspan *s, sure_page *p) {
    const object_memory *m = h->memory;
    if (s->span_class & 1) return;
    if (!(s->span_class >> 1)) {
        const type_map *t = memory_type(h, s->large_type);
        p->mask = large_mask(t);
        p->rest = t && t->ptrdata && !p->mask ? REST_TYPES : REST_NONE;
    } else if (s->elem_size > MIN_HEADER_SIZE) {
        p->rest = REST_TYPES;
    } else if (m->state[page] & PAGE_MIXED) {
        p->rest = REST_BITS;
    } else {
        p->mask = m->mask[page];
    }
}

/* Spans of 4 GB are too large for an entry. */
static NOINLINE void note_page(const pymem_heap *h, uint64_t page) {
    const object_memory *m = h->memory;
    const mspan *s = span_at(h, page);
    m->sure[page] = (sure_page){.batch = m->batch};
    if (!all_swept_live(h, s) || s->elem_size > UINT32_MAX) return;
    m->sure[page] = (sure_page){
        .batch = m->batch,
        .first = (uint32_t)page_of(h, s->base),
        .living = (uint32_t)(span_next_free(s) * s->elem_size),
        .size = (uint32_t)s->elem_size,
        .magic = s->div_magic,
        .header = (uint8_t)(span_object_addr(s, 0) - s->base),
        .pair = s->div_magic && s->elem_size >= 16 && s->elem_size <= MIN_HEADER_SIZE,
        .written = m->state[page_of(h, s->base)] & PAGE_DIRTY,
    };
    note_maps(h, page, s, &m->sure[page]);
}

/* Copies of what every store reads, which a store through a pointer might have changed as far as the compiler sees. */
typedef struct {
    const pymem_heap *h;
    char *base; /* + offset in the heap: its byte */
    const sure_page *sure;
    const uint64_t (*bits)[PAGE_BIT_WORDS];
    uint64_t arena, extent; /* extent: bytes from the first arena to where no page has been yet */
    uint32_t batch;
} store_batch;

typedef struct {
    const uint64_t *objects, *offsets, *targets;
} columns;

static const sure_page unknown = {0};

static inline const sure_page *page_at(const store_batch *b, uint64_t off) {
    if (off >= b->extent) return &unknown;
    const sure_page *s = &b->sure[off >> PAGE_SHIFT];
    if (__builtin_expect(s->batch != b->batch, 0)) note_page(b->h, off >> PAGE_SHIFT);
    return s;
}

/* Bytes from the span to a place in the heap. */
static inline uint64_t in_span(const sure_page *s, uint64_t off) { return off - ((uint64_t)s->first << PAGE_SHIFT); }

static inline uint64_t slot_at(const sure_page *s, uint64_t off) { return in_span(s, off) * s->magic >> 32; }
static inline uint64_t in_slot(const sure_page *s, uint64_t off) { return in_span(s, off) - slot_at(s, off) * s->size; }

/* ---- checking: true is certain, false says only that nothing is known ---- */

static NOINLINE bool is_typed_word(const pymem_heap *h, uint64_t off) {
    const mspan *s = span_at(h, off >> PAGE_SHIFT);
    uint64_t addr = off + h->config.arena_base;
    uint32_t slot = span_slot_of(s, addr);
    return memory_is_pointer_word(h, s, slot, addr - s->base - slot * s->elem_size);
}

/* The heap bits of a page lie as its words do. */
static inline bool is_pointer_word(const store_batch *b, const sure_page *s, uint64_t word, uint64_t off) {
    uint64_t i = (off & (PAGE_SIZE - 1)) / 8;
    if (s->mask >> (word & 63) & 1) return true;
    if (s->rest == REST_BITS) return memory_heap_bits(b->h->memory, off >> PAGE_SHIFT, s->size)[i >> 6] >> (i & 63) & 1;
    return s->rest == REST_TYPES && is_typed_word(b->h, off);
}

/* The word's page if the word is certainly one. */
static inline const sure_page *word_page(const store_batch *b, uint64_t object, uint64_t offset) {
    uint64_t off = object - b->arena;
    const sure_page *s = page_at(b, off);
    if (in_span(s, off) >= s->living || (object | offset) & 7) return NULL;
    uint64_t at = in_slot(s, off);
    if (at < s->header || offset + 7 >= s->size - at) return NULL; /* offset + 8 might be 0 */
    return is_pointer_word(b, s, (at - s->header + offset) / 8, off + offset) ? s : NULL;
}

static inline bool is_target(const store_batch *b, uint64_t target) {
    uint64_t off = target - b->arena;
    const sure_page *s = page_at(b, off);
    if (in_span(s, off) >= s->living) return !target;
    return !s->header || in_slot(s, off) >= s->header;
}

/* The page where a column begins and ends, or an unknown one: neighbours mostly share a span. */
static inline const sure_page *shared_page(const store_batch *b, const uint64_t *addrs, uint64_t n) {
    uint64_t first = addrs[0] - b->arena, last = addrs[n - 1] - b->arena;
    return first >> PAGE_SHIFT == last >> PAGE_SHIFT ? page_at(b, first) : &unknown;
}

static inline uint64_t span_addr(const sure_page *s, uint64_t arena) {
    return arena + ((uint64_t)s->first << PAGE_SHIFT);
}

/* Whether all words lie in the living objects of one span whose mask has them. The sign of a word tells that one of the
 * differences or-ed into it was below 0, or that a word's bit was 0; what is 2^63 or more shows its own. A span with
 * headers has no mask. */
static INLINE bool are_words(const sure_page *s, uint64_t arena, columns c, uint64_t n) {
    uint64_t first = span_addr(s, arena), last = s->living - 1ull, end = s->size - 8ull, mask = s->mask;
    uint64_t wrong = 0, low = 0;
    if (!mask) return false;
    for (uint64_t k = 0; k < n; k++) {
        uint64_t at = c.objects[k] - first, slot = (uint64_t)(uint32_t)at * s->magic >> 32;
        uint64_t from_slot = at - slot * s->size, offset = c.offsets[k], word = from_slot + offset;
        wrong |= at | (last - at) | offset | (end - word) | ~(mask >> (word / 8 & 63) << 63);
        low |= at | offset;
    }
    return s->living && !(wrong >> 63 | (low & 7));
}

static INLINE bool are_targets(const sure_page *s, uint64_t arena, const uint64_t *targets, uint64_t n) {
    uint64_t first = span_addr(s, arena), last = s->living - 1ull, wrong = 0;
    for (uint64_t k = 0; k < n; k++) {
        uint64_t at = targets[k] - first;
        wrong |= at | (last - at);
    }
    return s->living && !s->header && !(wrong >> 63);
}

/* What the next block will write, where objects lie anywhere; not yet checked. For mark bits this was slower than to
 * let a block's reads wait for each other's cache lines. */
static INLINE void prefetch_words(const store_batch *b, columns c) {
    for (uint64_t k = BLOCK; k < 2 * BLOCK; k++)
        __builtin_prefetch((const void *)((uintptr_t)b->base + (c.objects[k] - b->arena + c.offsets[k])), 1);
}

/* *written: all their spans are known to be dirty. */
static INLINE bool words_known(const store_batch *b, columns c, bool another, uint8_t *written) {
    const sure_page *s = shared_page(b, c.objects, BLOCK);
    *written = s->written;
    if (are_words(s, b->arena, c, BLOCK)) return true;
    if (another) prefetch_words(b, c);
    *written = 1;
    for (uint64_t k = 0; k < BLOCK; k++) {
        if (!(s = word_page(b, c.objects[k], c.offsets[k]))) return false;
        *written &= s->written;
    }
    return true;
}

/* Only what is stored makes a span dirty, not what a block's check has looked at. */
static NOINLINE void note_written(const store_batch *b, const uint64_t *objects, uint64_t n) {
    for (uint64_t k = 0; k < n; k++) {
        sure_page *s = &b->h->memory->sure[(objects[k] - b->arena) >> PAGE_SHIFT];
        s->written = 1;
        memory_written(b->h->memory, s->first);
    }
}

/* *shared is unknown afterwards unless all lie in its span. */
static INLINE bool targets_known(const store_batch *b, const uint64_t *targets, const sure_page **shared) {
    if (are_targets(*shared, b->arena, targets, BLOCK)) return true;
    *shared = &unknown;
    for (uint64_t k = 0; k < BLOCK; k++)
        if (!is_target(b, targets[k])) return false;
    return true;
}

/* ---- shading ---- */

typedef struct {
    uint64_t addrs[BUFFERED];
    uint64_t n;
    bool quiet; /* the last block shaded nothing and removed nothing: the next one will be looked at for the same */
} barrier_buffer;

static void flush(pymem_heap *h, barrier_buffer *buffer) {
    mark_shade(h, buffer->addrs, buffer->n);
    buffer->n = 0;
}

/* Of an address on a page that is known. */
static inline uint64_t marked_bit(const store_batch *b, const sure_page *s, uint64_t off) {
    uint64_t slot = slot_at(s, off);
    return b->bits[s->first][slot >> 6 << s->pair] >> (slot & 63) & 1;
}

static inline uint64_t is_white(const store_batch *b, uint64_t target) {
    uint64_t off = target - b->arena;
    return target ? !marked_bit(b, &b->sure[off >> PAGE_SHIFT], off) : 0;
}

/* The word may have been written behind the barrier's back. */
static inline bool may_be_white(const store_batch *b, uint64_t old) {
    uint64_t off = old - b->arena;
    const sure_page *s = page_at(b, off);
    return in_span(s, off) >= s->living || !marked_bit(b, s, off);
}

static inline uint64_t *word_at(const store_batch *b, columns c, uint64_t k) {
    return (uint64_t *)(b->base + (c.objects[k] - b->arena + c.offsets[k]));
}

static INLINE bool all_marked(const store_batch *b, const uint64_t *targets, const sure_page *shared) {
    uint64_t white = 0;
    if (shared != &unknown)
        for (uint64_t k = 0; k < BLOCK; k++) white |= !marked_bit(b, shared, targets[k] - b->arena);
    else
        for (uint64_t k = 0; k < BLOCK; k++) white |= is_white(b, targets[k]);
    return !white;
}

static INLINE bool all_nil(const store_batch *b, columns c) {
    uint64_t any = 0;
    for (uint64_t k = 0; k < BLOCK; k++) any |= *word_at(b, c, k);
    return !any;
}

/* Stores that have been checked. */
static INLINE void store_plain(const store_batch *b, columns c, uint64_t n) {
    for (uint64_t k = 0; k < n; k++) *word_at(b, c, k) = c.targets[k];
}

static INLINE void store_shading(const store_batch *b, barrier_buffer *buffer, columns c, uint64_t n) {
    uint64_t top = buffer->n, any = 0;
    for (uint64_t k = 0; k < n; k++) {
        uint64_t *word = word_at(b, c, k), old = *word;
        any |= old;
        if (old && may_be_white(b, old)) buffer->addrs[top++] = old;
        buffer->addrs[top] = c.targets[k];
        top += is_white(b, c.targets[k]);
        *word = c.targets[k];
    }
    buffer->quiet = !any && top == buffer->n;
    buffer->n = top;
}

/* ---- a batch ---- */

/* false: nothing has been done. Where all targets are marked and all words nil there is nothing to shade, even if a
 * word comes twice: what the second store removes is the first one's target. */
static INLINE bool store_block(const store_batch *b, barrier_buffer *buffer, bool marking, columns c, bool another) {
    const sure_page *shared = shared_page(b, c.targets, BLOCK);
    uint8_t written;
    if (!words_known(b, c, another, &written) || !targets_known(b, c.targets, &shared)) return false;
    if (__builtin_expect(!written, 0)) note_written(b, c.objects, BLOCK);
    if (!marking || (buffer->quiet && all_marked(b, c.targets, shared) && all_nil(b, c))) store_plain(b, c, BLOCK);
    else store_shading(b, buffer, c, BLOCK);
    return true;
}

/* The word of a store; in one that is no pointer's no mark would find the target. */
static int pointer_word(pymem_heap *h, uint64_t object, uint64_t offset, uint64_t **word) {
    int rc = memory_word(h, object, offset, word);
    if (rc || is_typed_word(h, object + offset - h->config.arena_base)) return rc;
    return fail(h, PYMEM_EADDRESS,
                "the word at offset %llu from 0x%llx holds no pointer, so what is stored there would be lost: give a "
                "place where the object's type has a pointer",
                (ull)offset, (ull)object);
}

static int store_looked_up(pymem_heap *h, barrier_buffer *buffer, uint64_t object, uint64_t offset, uint64_t target) {
    uint64_t *word;
    int rc = pointer_word(h, object, offset, &word);
    if (rc) return rc;
    if (!memory_is_target(h, target))
        return fail(h, PYMEM_EADDRESS, "0x%llx is no living object's address, so nothing may point there", (ull)target);
    if (h->mark) {
        buffer->addrs[buffer->n++] = *word;
        buffer->addrs[buffer->n++] = target;
    }
    memory_written(h->memory, page_of(h, mheap_span_of(h, object)->base));
    *word = target;
    return PYMEM_OK;
}

/* Store by store; stops at the first wrong one. */
static NOINLINE int store_each(pymem_heap *h, const store_batch *b, barrier_buffer *buffer, columns c, uint64_t n,
                               uint64_t *done) {
    for (uint64_t k = 0; k < n; k++, ++*done) {
        columns one = {c.objects + k, c.offsets + k, c.targets + k};
        const sure_page *s = word_page(b, *one.objects, *one.offsets);
        bool known = s && is_target(b, *one.targets);
        int rc = known ? PYMEM_OK : store_looked_up(h, buffer, *one.objects, *one.offsets, *one.targets);
        if (rc) return rc;
        if (known && !s->written) note_written(b, one.objects, 1);
        if (known && h->mark) store_shading(b, buffer, one, 1);
        else if (known) store_plain(b, one, 1);
    }
    return PYMEM_OK;
}

/* Whether no store can change the column: who was given an object's bytes may have given them back as one. */
static bool is_apart(const object_memory *m, const uint64_t *column, uint64_t n) {
    uintptr_t first = (uintptr_t)column, base = (uintptr_t)m->base;
    return first >= base + m->reserved || first + n * sizeof *column <= base;
}

static INLINE int store_blocks(pymem_heap *h, bool marking, columns c, uint64_t n, uint64_t *done) {
    const object_memory *m = h->memory;
    const store_batch b = {h, m->base, m->sure, m->bits, h->config.arena_base, h->cur_page << PAGE_SHIFT, m->batch};
    barrier_buffer buffer;
    bool apart = is_apart(m, c.objects, n) && is_apart(m, c.offsets, n) && is_apart(m, c.targets, n);
    int rc = PYMEM_OK;
    buffer.n = 0; /* the addresses are written before they are read */
    buffer.quiet = true;
    for (uint64_t i = 0; i < n && !rc; i += BLOCK) {
        columns block = {c.objects + i, c.offsets + i, c.targets + i};
        if (marking && buffer.n > BUFFERED - 2 * BLOCK) flush(h, &buffer);
        bool whole = apart && n - i >= BLOCK;
        if (whole && store_block(&b, &buffer, marking, block, n - i >= 2 * BLOCK)) *done += BLOCK;
        else rc = store_each(h, &b, &buffer, block, n - i < BLOCK ? n - i : BLOCK, done);
    }
    if (marking) flush(h, &buffer);
    return rc;
}

static CLONES int store_outside(pymem_heap *h, columns c, uint64_t n, uint64_t *done) {
    return store_blocks(h, false, c, n, done);
}

static CLONES int store_marking(pymem_heap *h, columns c, uint64_t n, uint64_t *done) {
    return store_blocks(h, true, c, n, done);
}

/* The count comes round after 2^32 batches: nothing of those before may look new then. */
static void next_batch(pymem_heap *h) {
    object_memory *m = h->memory;
    if (++m->batch) return;
    memset(m->sure, 0, h->cur_page * sizeof *m->sure);
    m->batch = 1;
}

int memory_store(pymem_heap *h, const uint64_t *objects, const uint64_t *offsets, const uint64_t *targets, uint64_t n,
                 uint64_t *done) {
    columns c = {objects, offsets, targets};
    *done = 0;
    int rc = n ? memory_on(h) : PYMEM_OK;
    if (rc || !n) return rc;
    next_batch(h);
    h->memory->points = true;
    return h->mark ? store_marking(h, c, n, done) : store_outside(h, c, n, done);
}
