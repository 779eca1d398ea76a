/* What the gate's files share: how a call comes in, goes out, and finds its processor. */
#ifndef PYMEM_API_INTERNAL_H
#define PYMEM_API_INTERNAL_H

#include "internal.h"

typedef unsigned long long ull;

int enter(pymem_heap *h); /* EINVAL without a heap, EBUSY while another thread is in it */

/* After a good call, and after one out of memory, the heap must be whole: returns rc, or what the check found. */
int leave(pymem_heap *h, int rc);

#define ENTER(h)                                                                                                       \
    do {                                                                                                               \
        int entered = enter(h);                                                                                        \
        if (entered) return entered;                                                                                   \
    } while (0)

/* The proc, its caches fresh if it mallocs: whoever runs on it after the cycle turned flushes it first. EINVAL: there
 * is none, or it cannot malloc. Go: acquirep */
int get_proc(pymem_heap *h, int32_t id, bool mallocs, proc **out);

#endif
