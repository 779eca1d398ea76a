/* What MemStats says of memory outside the heap. Go's metadata is not emulated byte for byte, but each piece is counted
 * when Go would ask for it, in the order in which it would, because several counters share 256 KB chunks. The sizes
 * below are those of Go 1.27.3's structs on amd64; docs/memstats.md tells where each was found. */
#include "internal.h"

enum {
    PERSISTENT_CHUNK = 256 << 10,
    PERSISTENT_MAX = 64 << 10, /* larger requests go to the OS on their own */
    FIX_ALLOC_CHUNK = 16 << 10,
    MSPAN_BYTES = 160,
    MCACHE_BYTES = 2296,
    HEAP_ARENA_BYTES = 69648,  /* metadata of one 64 MB arena */
    ALL_ARENAS_FIRST = 4096,   /* bytes of the first array of arena numbers */
    ALLSPANS_FIRST = 8192,     /* entries of the first array of all mspans */
    CHUNK_TABLE_CHUNKS = 8192, /* chunks one table of bitmaps serves */
    CHUNK_TABLE_BYTES = 1 << 20,
    IN_USE_RANGES_BYTES = 256, /* 16 address ranges */
    OS_PAGE = 4096
};

/* Go: persistentalloc1. A chunk's first word links it to the others. */
void persistent_alloc(pymem_heap *h, proc *p, uint64_t size, uint64_t align, int stat) {
    persistent_chunk *c = p && p->has_p ? &p->palloc : &h->palloc;
    if (!align) align = 8;
    if (size >= PERSISTENT_MAX) {
        h->sys[stat] += size;
        return;
    }
    c->off = (c->off + align - 1) & ~(align - 1);
    if (!c->has_chunk || c->off + size > PERSISTENT_CHUNK) {
        h->sys[PYMEM_STAT_OTHER_SYS] += PERSISTENT_CHUNK;
        c->has_chunk = true;
        c->off = align > 8 ? align : 8;
    }
    c->off += size;
    h->sys[stat] += size;
    h->sys[PYMEM_STAT_OTHER_SYS] -= size; /* nets to 0 for other_sys itself */
}

/* ---- structs of a fixed size. Go: fixalloc ---- */

void fix_alloc_init(fix_alloc *f, uint32_t size, int stat) { *f = (fix_alloc){.size = size, .stat = stat}; }

bool fix_alloc_take(pymem_heap *h, proc *p, fix_alloc *f) {
    f->inuse += f->size;
    if (f->nfree) {
        f->nfree--;
        return false;
    }
    if (f->chunk_left < f->size) {
        f->chunk_left = FIX_ALLOC_CHUNK / f->size * f->size;
        persistent_alloc(h, p, f->chunk_left, 0, f->stat);
    }
    f->chunk_left -= f->size;
    return true;
}

void fix_alloc_give(fix_alloc *f) {
    f->inuse -= f->size;
    f->nfree++;
}

/* A struct cut for the first time enters the list of all spans, an array that grows by half from the OS.
 * Go: recordspan */
static void mspan_take(pymem_heap *h, proc *p) {
    if (!fix_alloc_take(h, p, &h->span_fix)) return;
    if (h->allspans_len == h->allspans_cap) {
        uint64_t cap = h->allspans_cap * 3 / 2 > ALLSPANS_FIRST ? h->allspans_cap * 3 / 2 : ALLSPANS_FIRST;
        h->sys[PYMEM_STAT_OTHER_SYS] += (cap - h->allspans_cap) * 8;
        h->allspans_cap = cap;
    }
    h->allspans_len++;
}

/* A proc keeps up to 128 mspans and fetches 64 at a time. Go: allocMSpanLocked, tryAllocMSpan */
void account_mspan_new(pymem_heap *h, proc *p) {
    if (!p || !p->has_p) {
        mspan_take(h, p);
        return;
    }
    if (p->mspans == 0) {
        for (; p->mspans < MSPAN_CACHE / 2; p->mspans++) mspan_take(h, p);
    }
    p->mspans--;
}

void account_mspan_free(pymem_heap *h, proc *p) {
    if (p && p->has_p && p->mspans < MSPAN_CACHE) p->mspans++;
    else fix_alloc_give(&h->span_fix);
}

/* ---- metadata that grows with the heap ---- */

void account_arena(pymem_heap *h, proc *p, uint64_t narenas) {
    persistent_alloc(h, p, HEAP_ARENA_BYTES, 8, PYMEM_STAT_GC_MISC_SYS);
    if (narenas < h->arenas_cap_emulated) return;
    uint64_t bytes = h->arenas_cap_emulated ? 2 * h->arenas_cap_emulated * 8 : ALL_ARENAS_FIRST;
    persistent_alloc(h, p, bytes, 8, PYMEM_STAT_GC_MISC_SYS);
    h->arenas_cap_emulated = bytes / 8;
}

/* A table indexed by address is reserved whole and mapped page by page as the heap reaches new parts of it. */
static void map_table(pymem_heap *h, mapped_range *m, uint64_t lo, uint64_t hi) {
    lo &= ~(uint64_t)(OS_PAGE - 1);
    hi = (hi + OS_PAGE - 1) & ~(uint64_t)(OS_PAGE - 1);
    if (m->lo == m->hi) *m = (mapped_range){lo, lo};
    if (hi <= m->hi) return; /* the heap only grows upwards */
    h->sys[PYMEM_STAT_GC_MISC_SYS] += hi - m->hi;
    m->hi = hi;
}

/* [base, limit) joins the heap. Summaries: 5 levels of 8-byte entries, the first with 2^14 entries (each 16 GB) mapped
 * at once, each further one 8 times finer and mapped by blocks of 8 entries. Scavenge index: 8 bytes a chunk, mapped by
 * pages of 512 chunks. Bitmaps: 1 MB per 8,192 chunks. Index space is the 48-bit address shifted up by half of it. */
void account_pages_grow(pymem_heap *h, uint64_t base, uint64_t limit) {
    uint64_t half = 1ull << 47, lo = base + half, hi = limit + half;
    for (int l = 0; l < 5; l++) {
        int shift = 48 - 14 - 3 * l, block = l ? 3 : 14;
        uint64_t first = lo >> shift >> block << block;
        uint64_t last = ((((hi - 1) >> shift) >> block) + 1) << block;
        map_table(h, &h->summary_mapped[l], first * 8, last * 8);
    }
    map_table(h, &h->scav_index_mapped, lo >> 22 << 3 & ~(uint64_t)(OS_PAGE - 1), (hi >> 22) << 3);
    uint64_t table_bytes = (uint64_t)CHUNK_TABLE_CHUNKS * CHUNK_PAGES * PAGE_SIZE;
    uint64_t tables = (limit - 1) / table_bytes - h->config.arena_base / table_bytes + 1;
    if (tables > h->l2_mapped) {
        h->sys[PYMEM_STAT_GC_MISC_SYS] += (tables - h->l2_mapped) * CHUNK_TABLE_BYTES;
        h->l2_mapped = tables;
    }
}

/* The first time a cycle ends with a goal above 1 GB, the metadata asks for huge pages, over a copy of the list of
 * address ranges that is never given back. Go: enableChunkHugePages */
void account_cycle_end(pymem_heap *h, proc *p) {
    const uint64_t huge_from = 1ull << 30;
    if (h->metadata_huge || heap_goal(h) <= huge_from) return;
    h->metadata_huge = true;
    persistent_alloc(h, p, IN_USE_RANGES_BYTES, 8, PYMEM_STAT_GC_MISC_SYS);
}

/* ---- the goal, as far as no collector paces it ---- */

static uint64_t total_alloc(const pymem_heap *h) {
    uint64_t n = h->large_alloc;
    for (int c = 1; c < NUM_CLASSES; c++) n += h->small_allocs[c] * size_classes_go()->size[c];
    return n;
}

static uint64_t total_free(const pymem_heap *h) {
    uint64_t n = h->large_free;
    for (int c = 1; c < NUM_CLASSES; c++) n += h->small_frees[c] * size_classes_go()->size[c];
    return n;
}

static uint64_t total_mapped(const pymem_heap *h) {
    uint64_t n = h->heap_in_use + h->heap_free + h->heap_released + h->in_stacks + h->in_workbufs;
    for (int s = PYMEM_STAT_STACKS_SYS; s < PYMEM_NUM_STATS; s++) n += h->sys[s];
    return n;
}

uint64_t mapped_ready(const pymem_heap *h) { return total_mapped(h) - h->heap_released; }

/* goal = limit - (memory that is not heap objects nor room for them + what is already over the limit), less 3 % and at
 * least 1 MB of headroom. Go: (*gcControllerState).memoryLimitHeapGoal */
static uint64_t memory_limit_goal(const pymem_heap *h) {
    const uint64_t headroom_min = 1 << 20;
    uint64_t ready = mapped_ready(h), limit = h->memory_limit;
    uint64_t other = ready - h->heap_free - (total_alloc(h) - total_free(h));
    uint64_t over = ready > limit ? ready - limit : 0;
    if (other + over >= limit) return h->heap_marked;
    uint64_t goal = limit - (other + over), headroom = goal / 100 * 3;
    if (headroom < headroom_min) headroom = headroom_min;
    goal = goal < headroom || goal - headroom < headroom ? headroom : goal - headroom;
    return goal > h->heap_marked ? goal : h->heap_marked;
}

/* Go: (*gcControllerState).heapGoalInternal */
uint64_t heap_goal(const pymem_heap *h) {
    uint64_t goal = h->gc_goal, limited = memory_limit_goal(h);
    if (limited < goal) return limited;
    return goal > h->goal_floor ? goal : h->goal_floor;
}

/* ---- the sums. Go: readmemstats_m ---- */

void mem_stats_read(pymem_heap *h, pymem_mem_stats *out) {
    pymem_mem_stats m = {0};
    m.total_alloc = total_alloc(h);
    m.alloc = m.heap_alloc = m.total_alloc - total_free(h);
    m.mallocs = h->large_allocs + h->tiny_allocs; /* a tiny object that shared a block counts as allocated and freed */
    m.frees = h->large_frees + h->tiny_allocs;
    for (int c = 0; c < NUM_CLASSES; c++) {
        m.mallocs += m.by_size_mallocs[c] = h->small_allocs[c];
        m.frees += m.by_size_frees[c] = h->small_frees[c];
    }
    m.heap_objects = m.mallocs - m.frees;
    m.sys = total_mapped(h);
    m.heap_idle = h->heap_free + h->heap_released;
    m.heap_sys = h->heap_in_use + m.heap_idle;
    m.heap_inuse = h->heap_in_use;
    m.heap_released = h->heap_released;
    m.stack_inuse = h->in_stacks;
    m.stack_sys = h->in_stacks + h->sys[PYMEM_STAT_STACKS_SYS];
    m.mspan_inuse = h->span_fix.inuse;
    m.mspan_sys = h->sys[PYMEM_STAT_MSPAN_SYS];
    m.mcache_inuse = h->cache_fix.inuse;
    m.mcache_sys = h->sys[PYMEM_STAT_MCACHE_SYS];
    m.buck_hash_sys = h->sys[PYMEM_STAT_BUCKHASH_SYS];
    m.gc_sys = h->sys[PYMEM_STAT_GC_MISC_SYS] + h->in_workbufs;
    m.other_sys = h->sys[PYMEM_STAT_OTHER_SYS];
    m.next_gc = heap_goal(h);
    m.num_gc = h->num_gc;
    m.num_forced_gc = h->num_forced_gc;
    m.heap_live = (uint64_t)h->heap_live;
    m.tiny_allocs = h->tiny_allocs;
    *out = m;
}

static uint32_t procs_in_debt(const pymem_heap *h) {
    uint32_t n = 0;
    if (!h->marking || !h->assists) return 0;
    for (int32_t i = 0; i < h->nprocs; i++)
        if (h->procs[i] && h->procs[i]->credit < 0) n++;
    return n;
}

void pace_read(pymem_heap *h, pymem_pace_info *out) {
    uint64_t total = total_alloc(h), mallocs = h->large_allocs + h->tiny_allocs, frees = h->large_frees;
    for (int c = 1; c < NUM_CLASSES; c++) {
        mallocs += h->small_allocs[c];
        frees += h->small_frees[c];
    }
    *out = (pymem_pace_info){
        .heap_live = (uint64_t)h->heap_live,
        .heap_scan = h->heap_scan,
        .heap_marked = h->heap_marked,
        .total_alloc = total,
        .heap_alloc = total - total_free(h),
        .mallocs = mallocs,
        .frees = frees,
        .object_spans = h->object_spans,
        .pages_in_use = h->pages_in_use,
        .pages_swept = h->pages_swept,
        .heap_in_use = h->heap_in_use,
        .heap_free = h->heap_free,
        .heap_released = h->heap_released,
        .mapped_ready = total_mapped(h) - h->heap_released,
        .released_eager = h->scav_eager,
        .work_objects = h->work_objects,
        .work_bytes = h->work_bytes,
        .in_debt = procs_in_debt(h),
        .sweep_live_basis = h->sweep_live_basis,
        .sweep_end_live = h->sweep_end_live,
        .sweep_pages_per_byte = h->sweep_pages_per_byte,
        .sweep_done = h->sweep_done,
        .fresh = 1,
    };
}

/* What Go's heap holds before its first object: the list of address ranges. */
void account_birth(pymem_heap *h) {
    fix_alloc_init(&h->span_fix, MSPAN_BYTES, PYMEM_STAT_MSPAN_SYS);
    fix_alloc_init(&h->cache_fix, MCACHE_BYTES, PYMEM_STAT_MCACHE_SYS);
    persistent_alloc(h, NULL, IN_USE_RANGES_BYTES, 8, PYMEM_STAT_GC_MISC_SYS);
}
