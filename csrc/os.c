/* Every byte the emulator holds comes through here, for two reasons: the emulator's own footprint can be told, and
 * each allocation can be made to fail, so that tests can prove that running out of memory leaves the heap whole. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "fault.h"
#include "internal.h"

enum { GRAIN = 64 << 10 }; /* the largest page that a processor of today has: a multiple of whole pages */
enum { KEPT_FIRST = 256 << 10, KEPT_LAST = 8 << 20, KEPT_ALIGN = 8, HUGE_PAGE = 2 << 20, GIVEN_BACK = 1 << 20 };

void *os_alloc(pymem_heap *h, size_t size) {
    void *p = fault_due(&h->faults) ? NULL : calloc(1, size);
    if (p) h->real_bytes += size;
    return p;
}

void *os_grow(pymem_heap *h, void *p, size_t old_size, size_t new_size) {
    void *q = fault_due(&h->faults) ? NULL : realloc(p, new_size);
    if (!q) return NULL;
    memset((char *)q + old_size, 0, new_size - old_size);
    h->real_bytes += new_size - old_size;
    return q;
}

void os_free(pymem_heap *h, void *p, size_t size) {
    if (!p) return;
    h->real_bytes -= size;
    free(p);
}

/* Huge pages, because a mark goes everywhere: with small ones most of its time would go into page table walks. */
void *os_reserve(pymem_heap *h, size_t size) {
    if (fault_due(&h->faults)) return NULL;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(p, size, MADV_HUGEPAGE);
#endif
    return p;
}

void os_unreserve(void *p, size_t size) { munmap(p, size); }

/* Of what was reserved, a large piece: it reads as zeros, and takes memory again only where written to. False: it is as
 * it was. */
bool os_give_back(char *p, size_t size) {
    size_t whole = size & ~(size_t)(GRAIN - 1);
    if (whole < GIVEN_BACK || madvise(p, whole, MADV_DONTNEED)) return false; /* it refuses what is not aligned */
    memset(p + whole, 0, size - whole);
    return true;
}

void os_zero(char *p, size_t size) {
    if (!os_give_back(p, size)) memset(p, 0, size);
}

/* ---- memory kept until the heap goes ----
 *
 * Span structs, slot bitmaps and page tables are never given back one by one, so they are cut from blocks. The kernel
 * takes longer over the first touch of a page than the core over the spans described in it; so blocks double in size,
 * and large ones ask for huge pages. */

struct kept_block {
    kept_block *next;
    size_t used, size; /* from the block's own address on */
};

/* Advice for the huge pages that lie wholly inside. Memory that malloc had before may be resident already: no harm. */
static void ask_for_huge_pages(char *p, size_t size) {
#ifdef MADV_HUGEPAGE
    uintptr_t first = ((uintptr_t)p + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    uintptr_t end = ((uintptr_t)p + size) / HUGE_PAGE * HUGE_PAGE;
    if (first < end) madvise((void *)first, end - first, MADV_HUGEPAGE);
#endif
}

static kept_block *kept_block_new(size_t size) {
    kept_block *b = calloc(1, size);
    if (!b) return NULL;
    ask_for_huge_pages((char *)b, size);
    *b = (kept_block){.used = sizeof *b, .size = size};
    return b;
}

static kept_block *kept_block_for(pymem_heap *h, size_t size) {
    if (h->kept && h->kept->used + size <= h->kept->size) return h->kept;
    size_t next = !h->kept ? KEPT_FIRST : h->kept->size < KEPT_LAST ? 2 * h->kept->size : KEPT_LAST;
    kept_block *b = kept_block_new(next);
    if (!b) return NULL;
    b->next = h->kept;
    return h->kept = b;
}

void *os_alloc_kept(pymem_heap *h, size_t size) { /* size < KEPT_FIRST / 2 */
    size = (size + KEPT_ALIGN - 1) / KEPT_ALIGN * KEPT_ALIGN;
    kept_block *b = fault_due(&h->faults) ? NULL : kept_block_for(h, size);
    if (!b) return NULL;
    void *p = (char *)b + b->used;
    b->used += size;
    h->real_bytes += size;
    return p;
}

void os_release_kept(pymem_heap *h) {
    for (kept_block *b = h->kept, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    h->kept = NULL;
}

int fail(pymem_heap *h, int status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(h->message, sizeof h->message, format, args);
    va_end(args);
    return status;
}
