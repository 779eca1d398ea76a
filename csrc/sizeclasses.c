/* The size classes, derived from the rules Go's generator follows rather than copied from its output:
 *  - sizes climb in steps of an alignment that grows with the size, so that rounding up costs at most 12.5 %;
 *  - a span has as few pages as leave at most 1/8 of it unused;
 *  - sizes that give the same number of slots in the same span are one class, the largest of them;
 *  - last, a slot is widened (in steps of 128) while as many still fit.
 * tests/test_sizeclasses.py compares the result with the toolchain's own table. Go: internal/runtime/gc. */
#include <pthread.h>
#include <string.h>
#include "internal.h"

enum { LARGE_STEP = 128, INLINE_MARKS_MIN = 16, INLINE_MARKS_MAX = 512, INLINE_MARKS_BYTES = 128 };

static size_classes go_table;
static pthread_once_t go_table_once = PTHREAD_ONCE_INIT;

static uint32_t step_after(uint32_t size, uint32_t step) {
    if (size & (size - 1)) return step; /* it changes at powers of two only */
    if (size >= 2048) return 256;
    if (size >= 128) return size / 8;
    return size >= 32 ? 16 : step;
}

static uint32_t span_pages(uint32_t size) {
    uint32_t bytes = PAGE_SIZE;
    while (bytes % size > bytes / 8) bytes += PAGE_SIZE;
    return bytes / PAGE_SIZE;
}

static uint32_t derive_sizes(uint32_t *size, uint32_t *npages) {
    uint32_t n = 0; /* class 0 stands for large objects */
    for (uint32_t s = 8, step = 8; s <= MAX_SMALL; s += step) {
        step = step_after(s, step);
        uint32_t pages = span_pages(s), bytes = pages * PAGE_SIZE;
        if (n && pages == npages[n] && bytes / s == bytes / size[n]) {
            size[n] = s;
            continue;
        }
        size[++n] = s;
        npages[n] = pages;
    }
    return n + 1;
}

static void widen_slots(uint32_t *size, const uint32_t *npages, uint32_t n) {
    for (uint32_t c = 1; c < n; c++) {
        uint32_t bytes = npages[c] * PAGE_SIZE;
        uint32_t wide = bytes / (bytes / size[c]) / LARGE_STEP * LARGE_STEP;
        if (wide > size[c]) size[c] = wide;
    }
}

/* Slots of a span. Its end holds 128 bytes of mark bits when slots have 16 to 512 bytes, and for scan classes to 512
 * bytes a pointer bit for every word. Go: (*mheap).initSpan */
static uint32_t span_slots(uint32_t size, uint32_t npages, bool noscan) {
    uint32_t bytes = npages * PAGE_SIZE, reserve = 0;
    if (size >= INLINE_MARKS_MIN && size <= INLINE_MARKS_MAX) reserve += INLINE_MARKS_BYTES;
    if (!noscan && size <= MIN_HEADER_SIZE) reserve += bytes / 64;
    return (bytes - reserve) / size;
}

static void fill_table(void) {
    size_classes *t = &go_table;
    uint32_t size[2 * NUM_CLASSES] = {0}, npages[2 * NUM_CLASSES] = {0};
    uint32_t n = derive_sizes(size, npages);
    widen_slots(size, npages, n);
    for (uint32_t c = 1, s = 1; c < NUM_CLASSES; c++) {
        t->size[c] = (uint16_t)size[c];
        t->npages[c] = (uint8_t)npages[c];
        t->div_magic[c] = UINT32_MAX / size[c] + 1; /* ceil(2^32 / size): exact for every offset in a span */
        t->nelems[c << 1] = (uint16_t)span_slots(size[c], npages[c], false);
        t->nelems[c << 1 | 1] = (uint16_t)span_slots(size[c], npages[c], true);
        for (; s * 8 <= size[c]; s++) t->of_size[s] = (uint8_t)c;
    }
}

const size_classes *size_classes_go(void) {
    pthread_once(&go_table_once, fill_table);
    return &go_table;
}
