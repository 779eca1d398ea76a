/* The wire format's numbers and its variable-length integers. Numbers: Go's internal/trace/tracev2. */
#ifndef TRACE_WIRE_H
#define TRACE_WIRE_H

#include <string.h>
#include "trace_reader.h"

enum {
    TRACE_HEADER_SIZE = 16,
    TRACE_MAX_BATCH = 64 << 10, /* bytes of a batch's contents */
    TRACE_MAX_VARINT = 10,      /* bytes of a 64-bit number at 7 bits a byte */
    TRACE_MAX_ARGS = 5          /* of a timed event, its time included */
};

/* Event types, by their place on the wire. */
enum {
    EV_EVENT_BATCH = 1,
    EV_STACKS,
    EV_STACK,
    EV_STRINGS,
    EV_STRING,
    EV_CPU_SAMPLES,
    EV_CPU_SAMPLE,
    EV_FREQUENCY,
    EV_PROCS_CHANGE,
    EV_PROC_START,
    EV_PROC_STOP,
    EV_PROC_STEAL,
    EV_PROC_STATUS,
    EV_GO_CREATE,
    EV_GO_CREATE_SYSCALL,
    EV_GO_START,
    EV_GO_DESTROY,
    EV_GO_DESTROY_SYSCALL,
    EV_GO_STOP,
    EV_GO_BLOCK,
    EV_GO_UNBLOCK,
    EV_GO_SYSCALL_BEGIN,
    EV_GO_SYSCALL_END,
    EV_GO_SYSCALL_END_BLOCKED,
    EV_GO_STATUS,
    EV_STW_BEGIN,
    EV_STW_END,
    EV_GC_ACTIVE,
    EV_GC_BEGIN,
    EV_GC_END,
    EV_GC_SWEEP_ACTIVE,
    EV_GC_SWEEP_BEGIN,
    EV_GC_SWEEP_END,
    EV_GC_MARK_ASSIST_ACTIVE,
    EV_GC_MARK_ASSIST_BEGIN,
    EV_GC_MARK_ASSIST_END,
    EV_HEAP_ALLOC,
    EV_HEAP_GOAL,
    EV_GO_LABEL,
    EV_USER_TASK_BEGIN,
    EV_USER_TASK_END,
    EV_USER_REGION_BEGIN,
    EV_USER_REGION_END,
    EV_USER_LOG,
    EV_GO_SWITCH, /* this one and the next four: Go 1.23 */
    EV_GO_SWITCH_DESTROY,
    EV_GO_CREATE_BLOCKED,
    EV_GO_STATUS_STACK,
    EV_EXPERIMENTAL_BATCH,
    EV_SYNC, /* Go 1.25; before it a batch of one EV_FREQUENCY */
    EV_CLOCK_SNAPSHOT,
    EV_END_OF_GENERATION, /* Go 1.26; a lone byte between batches */

    EV_SPAN = 128, /* experiment 1, Go 1.23 */
    EV_SPAN_ALLOC,
    EV_SPAN_FREE,
    EV_HEAP_OBJECT,
    EV_HEAP_OBJECT_ALLOC,
    EV_HEAP_OBJECT_FREE,
    EV_GOROUTINE_STACK,
    EV_GOROUTINE_STACK_ALLOC,
    EV_GOROUTINE_STACK_FREE
};

enum { TRACE_EXPERIMENT_ALLOC_FREE = 1 };

/* First byte of an experimental batch of the alloc-free experiment. */
enum { TRACE_ALLOC_FREE_TYPES = 0, TRACE_ALLOC_FREE_INFO = 1 };

/* The M of batches that no thread wrote. */
#define TRACE_NO_THREAD UINT64_MAX

/* Status of goroutines and Ps in their status events. */
enum { GO_STATUS_RUNNING = 2, GO_STATUS_SYSCALL = 3 };
enum { PROC_STATUS_RUNNING = 1, PROC_STATUS_SYSCALL = 3 };

/* Reads a number out of b. 0: read, b moved on. Else b stays: 1, b ends inside it; 2, it is longer than 64 bits. */
static inline int trace_uvarint(struct trace_bytes *b, uint64_t *value) {
    uint64_t v = 0;
    for (int i = 0; i < TRACE_MAX_VARINT; i++) {
        if (b->p + i >= b->end) return 1;
        uint8_t byte = b->p[i];
        if (i == TRACE_MAX_VARINT - 1 && byte > 1) return 2;
        v |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            b->p += i + 1;
            *value = v;
            return 0;
        }
    }
    return 2;
}

/* The same where TRACE_MAX_VARINT bytes from p on can be read for sure. Returns the byte after it, NULL if too long.
 * Times take one byte, types one or two, addresses three or four: so two tests, then all of up to eight at once. */
static inline const uint8_t *trace_uvarint_fast(const uint8_t *p, uint64_t *value) {
    if (p[0] < 0x80) {
        *value = p[0];
        return p + 1;
    }
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint64_t x;
    memcpy(&x, p, 8);
    uint64_t last = ~x & UINT64_C(0x8080808080808080); /* top bits of the bytes that end a number */
    if (last != 0) {
        x &= last ^ (last - 1); /* all up to the first of them; what remains above it is the number's own */
        x &= UINT64_C(0x7f7f7f7f7f7f7f7f);
        x = (x & UINT64_C(0x007f007f007f007f)) | ((x & UINT64_C(0x7f007f007f007f00)) >> 1);
        x = (x & UINT64_C(0x00003fff00003fff)) | ((x & UINT64_C(0x3fff00003fff0000)) >> 2);
        *value = (x & UINT64_C(0x0fffffff)) | ((x & UINT64_C(0x0fffffff00000000)) >> 4);
        return p + ((unsigned)__builtin_ctzll(last) >> 3) + 1;
    }
#endif
    struct trace_bytes b = {p, p + TRACE_MAX_VARINT};
    return trace_uvarint(&b, value) == 0 ? b.p : NULL;
}

#endif
