/* Allocations that fail when asked to, so that tests can prove that running out of memory leaves everything whole. */
#ifndef FAULT_H
#define FAULT_H

#include <stdbool.h>
#include <stdint.h>

/* *left: allocations that still succeed; -1: all do. NULL: as -1. */
static inline bool fault_due(int64_t *left) {
    if (!left || *left < 0) return false;
    if (*left == 0) return true;
    --*left;
    return false;
}

#endif
