/* Slot bitmaps. They live in arenas of 64 KB that are recycled as a whole, two cycles after they were filled: a sweep
 * turns the mark bits into the alloc bits and takes fresh mark bits from the newest arena, so nothing points into the
 * arenas of two cycles ago. MemStats counts the arenas, so the emulator uses the very scheme. Go: gcBitsArenas */
#include <string.h>
#include "internal.h"

enum { ARENA_WORDS = (65536 - 16) / 8 };

static bits_arena *arena_real(pymem_heap *h) { return os_alloc_kept(h, sizeof(bits_arena)); }

int gcbits_reserve(pymem_heap *h) {
    bool room = h->bits_next && h->bits_next->used + 2 * SPAN_BITS_MAX / 8 <= ARENA_WORDS;
    if (room || h->bits_free || h->bits_spare) return PYMEM_OK;
    h->bits_spare = arena_real(h);
    return h->bits_spare ? PYMEM_OK : fail(h, PYMEM_ENOMEM, "no memory for slot bitmaps");
}

static uint64_t list_length(const bits_arena *a) {
    uint64_t n = 0;
    for (; a; a = a->next) n++;
    return n;
}

/* What is free after the epoch: the free and the previous arenas. Each arena serves at least all of its words but those
 * that gcbits_reserve wants to see left over. */
int gcbits_reserve_cycle(pymem_heap *h) {
    uint64_t words = 0, have = list_length(h->bits_free) + list_length(h->bits_previous) + list_length(h->bits_spare);
    for (const mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++)
            words += slab->spans[i].state == SPAN_IN_USE ? bit_words(slab->spans[i].nelems) : 0;
    for (uint64_t need = words / (ARENA_WORDS - 2 * SPAN_BITS_MAX / 8) + 2; have < need; have++) {
        bits_arena *a = arena_real(h);
        if (!a) return fail(h, PYMEM_ENOMEM, "no memory for the slot bitmaps of a cycle");
        a->next = h->bits_spare;
        h->bits_spare = a;
    }
    return PYMEM_OK;
}

static bits_arena *arena_take(pymem_heap *h) {
    bits_arena *a = h->bits_free;
    if (a) {
        h->bits_free = a->next;
        memset(a->words, 0, a->used * 8);
    } else {
        a = h->bits_spare;
        h->bits_spare = a->next;
        h->sys[PYMEM_STAT_GC_MISC_SYS] += 65536;
    }
    a->used = 0;
    a->next = h->bits_next;
    return h->bits_next = a;
}

uint64_t *gcbits_new(pymem_heap *h, uint32_t nelems) {
    uint32_t n = bit_words(nelems);
    bits_arena *a = h->bits_next;
    if (!a || a->used + n > ARENA_WORDS) a = arena_take(h);
    uint64_t *bits = &a->words[a->used];
    a->used += n;
    return bits;
}

/* All spans are swept: what the last cycle allocated from is marked into next, and the arenas before it fall free.
 * Go: nextMarkBitArenaEpoch */
void gcbits_epoch(pymem_heap *h) {
    if (h->epoch == h->sweepgen + 1) return;
    h->epoch = h->sweepgen + 1;
    bits_arena **last = &h->bits_previous;
    while (*last) last = &(*last)->next;
    *last = h->bits_free;
    h->bits_free = h->bits_previous;
    h->bits_previous = h->bits_current;
    h->bits_current = h->bits_next;
    h->bits_next = NULL;
}

/* Go: (*mspan).nextFreeIndex. Bits at and above nelems are clear, so they look free: hence the bound at the end. */
uint32_t span_next_free(const mspan *s) {
    uint32_t i = s->freeindex, n = s->nelems;
    while (i < n) {
        uint64_t free_slots = ~s->alloc_bits[i >> 6] >> (i & 63);
        if (free_slots) {
            i += (uint32_t)__builtin_ctzll(free_slots);
            break;
        }
        i = (i | 63) + 1;
    }
    return i < n ? i : n;
}

/* First slot from i on that the last sweep found in use, or nelems: the slots from a free one to there are free. */
uint32_t span_next_used(const mspan *s, uint32_t i) {
    while (i < s->nelems) {
        uint64_t used = s->alloc_bits[i >> 6] >> (i & 63);
        if (used) return i + (uint32_t)__builtin_ctzll(used);
        i = (i | 63) + 1;
    }
    return s->nelems;
}

bool span_is_allocated(const mspan *s, uint32_t i) { return i < s->freeindex || bit_get(s->alloc_bits, i); }

bool span_is_unswept(const pymem_heap *h, const mspan *s) {
    return s->sweepgen == h->sweepgen - 2 || s->sweepgen == h->sweepgen + 1;
}

uint32_t span_slot_of(const mspan *s, uint64_t addr) {
    return (uint32_t)((addr - s->base) * (uint64_t)s->div_magic >> 32); /* 0 for a large span: its magic is 0 */
}

bool span_slot_lives(const pymem_heap *h, const mspan *s, uint32_t i) {
    bool swept_away = span_is_unswept(h, s) && !bit_get(s->mark_bits, i);
    return span_is_allocated(s, i) && !swept_away && !(s->dead_bits && bit_get(s->dead_bits, i));
}

/* Mark = allocated and not dead, 64 slots at a time. All slots below freeindex are allocated. */
void span_mark_record(mspan *s) {
    uint64_t any = 0;
    for (uint32_t w = 0; w < bit_words(s->nelems); w++) {
        uint64_t used = s->alloc_bits[w];
        if (s->freeindex >= (w + 1) * 64) used = UINT64_MAX;
        else if (s->freeindex > w * 64) used |= (1ull << (s->freeindex - w * 64)) - 1;
        if (s->dead_bits) {
            used &= ~s->dead_bits[w];
            s->dead_bits[w] = 0;
        }
        s->mark_bits[w] = used;
        any |= used;
    }
    s->page_mark = any != 0;
}

uint32_t span_count_marks(const mspan *s) {
    uint32_t n = 0;
    for (uint32_t w = 0; w < bit_words(s->nelems); w++) n += (uint32_t)__builtin_popcountll(s->mark_bits[w]);
    return n;
}
