/* Every byte the emulator holds comes through here, for two reasons: the emulator's own footprint can be told, and
 * each allocation can be made to fail, so that tests can prove that running out of memory leaves the heap whole. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "internal.h"

static bool fault_due(pymem_heap *h) {
    if (h->faults < 0) return false;
    if (h->faults == 0) return true;
    h->faults--;
    return false;
}

void *os_alloc(pymem_heap *h, size_t size) {
    void *p = fault_due(h) ? NULL : calloc(1, size);
    if (p) h->real_bytes += size;
    return p;
}

void *os_grow(pymem_heap *h, void *p, size_t old_size, size_t new_size) {
    void *q = fault_due(h) ? NULL : realloc(p, new_size);
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

int fail(pymem_heap *h, int status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(h->message, sizeof h->message, format, args);
    va_end(args);
    return status;
}
