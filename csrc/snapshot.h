/* What the files about snapshots share: a walk over the heap under way, in either direction. */
#ifndef PYMEM_SNAPSHOT_H
#define PYMEM_SNAPSHOT_H

#include "internal.h"

typedef struct {
    bits_arena *arena;
    uint32_t number;
} bits_place;

typedef struct {
    stream s;
    pymem_heap *h;
    mspan **spans; /* by number */
    uint64_t nspans;
    bits_place *arenas; /* by number when reading, by address when writing */
    uint32_t narenas;
    uint32_t near; /* place in arenas of the last bitmap that was looked up */
    uint64_t cap_arenas, arenas_read;
} walk;

/* ---- snapmemory.c ---- */
void snapshot_memory_on(walk *w);
void snapshot_walk_memory(walk *w);

/* ---- snapcheck.c ---- */
void snapshot_check(walk *w);

#endif
