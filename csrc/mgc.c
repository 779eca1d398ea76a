/* The turning points of a cycle: begin (everything swept), mark, flip (everything unswept), end. What happens between
 * them, and when, is decided in Python. Go: mgc.go */
#include "internal.h"

int gc_settle(pymem_heap *h, proc *p) {
    int rc = PYMEM_OK;
    for (int32_t i = 0; i < h->nprocs && !rc; i++)
        if (h->procs[i] && h->procs[i]->flush_gen != h->sweepgen) rc = proc_flush(h, p, h->procs[i]);
    if (!rc && h->no_p.cache && h->no_p.flush_gen != h->sweepgen) rc = proc_flush(h, p, &h->no_p);
    return rc ? rc : sweep_all(h, p, NULL);
}

/* All is swept before a cycle begins. Go: finishsweep_m */
int gc_begin(pymem_heap *h, proc *p) {
    int rc = sweep_all(h, p, NULL);
    if (rc) return rc;
    span_sets_reset(h);
    gcbits_epoch(h);
    h->gc_running = true;
    return PYMEM_OK;
}

/* ---- marking ---- */

/* A page of small objects that waits until several of them are reached is scanned by whole slots. A record does not
 * tell in which order they are: they are supposed to be reached at once. */
static bool scanned_whole(const pymem_heap *h, const mspan *s, uint64_t marked) {
    bool small = s->elem_size > 8 && s->elem_size <= MIN_HEADER_SIZE;
    return small && !h->config.scan_sparse && marked > 1 && marked >= s->nelems / 8u;
}

/* Where a header or the span tells the type, its map is repeated up to the end of the slot, whatever was asked for.
 * Go: (typePointers).next */
static uint64_t repeated_scan_size(const pymem_heap *h, uint32_t type, uint64_t size) {
    const type_map *t = type ? memory_type(h, type) : NULL;
    if (!t || !t->ptrdata) return t ? 0 : size;
    uint64_t tail = size % t->size;
    return tail ? size - tail + (tail < t->ptrdata ? tail : t->ptrdata) : size - t->size + t->ptrdata;
}

/* Up to its last pointer word. Of small objects the slot's size stands for what was asked for. */
static uint64_t object_scan_size(const pymem_heap *h, const mspan *s, uint32_t slot) {
    if (!(s->span_class >> 1)) return repeated_scan_size(h, s->large_type, s->elem_size);
    if (s->elem_size <= MIN_HEADER_SIZE) return type_scan_size(h, s->types[slot], s->elem_size);
    return MALLOC_HEADER + repeated_scan_size(h, s->types[slot], s->elem_size - MALLOC_HEADER);
}

/* Bytes that a mark scans in the marked objects of a span. */
static uint64_t marked_scan_size(const pymem_heap *h, const mspan *s, uint64_t marked) {
    if (s->span_class & 1) return 0;
    bool typed = s->types || !(s->span_class >> 1);
    if (!typed || s->elem_size == 8 || scanned_whole(h, s, marked)) return marked * s->elem_size;
    uint64_t sum = 0;
    for (uint32_t w = 0; w < bit_words(s->nelems); w++)
        for (uint64_t bits = s->mark_bits[w]; bits; bits &= bits - 1)
            sum += object_scan_size(h, s, w * 64 + (uint32_t)__builtin_ctzll(bits));
    return sum;
}

static void mark_span(pymem_heap *h, mspan *s) {
    pymem_cycle *sum = &h->last_mark;
    span_mark_record(s);
    uint64_t marked = span_count_marks(s);
    sum->objects_before += s->alloc_count;
    sum->bytes_before += s->alloc_count * s->elem_size;
    h->marks.objects_marked += marked;
    h->marks.bytes_marked += marked * s->elem_size;
    h->marks.heap_scan += marked_scan_size(h, s, marked);
}

/* A block that small objects still join is marked even if all of them are dead, which they stay until one joins; what
 * joins while the cycle marks finds it marked. A stale cache has none that is joined. Go: gcMarkTinyAllocs */
static void mark_tiny_block(pymem_heap *h, const proc *p) {
    const mcache *c = p->cache;
    if (!c || !c->tiny || p->flush_gen != h->sweepgen || bit_get(c->tiny_span->mark_bits, c->tiny_slot)) return;
    mspan *s = c->tiny_span;
    bit_set(s->mark_bits, c->tiny_slot);
    bit_set(s->dead_bits, c->tiny_slot);
    s->page_mark = 1;
    h->marks.objects_marked++;
    h->marks.bytes_marked += s->elem_size;
}

/* Every object that is allocated and not dead. What has a finalizer is scanned from there too, without being marked,
 * and counted as if it were. Go: gcScanFinalizer */
void gc_mark_record(pymem_heap *h) {
    h->last_mark = (pymem_cycle){0};
    for (mspan_slab *slab = h->slabs; slab; slab = slab->next)
        for (int i = 0; i < SLAB_SPANS; i++)
            if (slab->spans[i].state == SPAN_IN_USE) mark_span(h, &slab->spans[i]);
    for (int32_t i = 0; i < h->nprocs; i++)
        if (h->procs[i]) mark_tiny_block(h, h->procs[i]);
    mark_tiny_block(h, &h->no_p);
    uint64_t marked = h->marks.bytes_marked, revived = h->revived_bytes < marked ? h->revived_bytes : marked;
    h->marked_twice = h->finalizer_bytes - revived;
    h->revived_bytes = 0;
    h->marks.bytes_marked += h->marked_twice;
    h->marks.heap_scan += h->finalizer_bytes;
}

/* Nobody has credit yet. Go: gcStart, gcResetMarkState */
void gc_mark_start(pymem_heap *h) {
    h->marks = (pymem_mark_totals){0};
    h->marked_twice = 0;
    h->marking = true;
    for (int32_t i = 0; i < h->nprocs; i++)
        if (h->procs[i]) h->procs[i]->credit = h->procs[i]->paid = 0;
}

/* Go: gcMarkTermination, (*gcControllerState).resetLive */
void gc_mark_stop(pymem_heap *h) {
    h->marking = h->assists = false;
    h->last_mark.objects_marked = h->marks.objects_marked;
    h->last_mark.bytes_marked = h->marks.bytes_marked - h->marked_twice;
    h->heap_marked = h->marks.bytes_marked;
    for (int32_t i = 0; i < h->nprocs; i++)
        if (h->procs[i]) h->procs[i]->cache->scan_alloc = 0;
    if (h->no_p.cache) h->no_p.cache->scan_alloc = 0;
    h->heap_scan = h->marks.heap_scan;
}

/* Go: gcSweep. What was swept is unswept now. heapLive starts over from what was marked. */
void gc_flip(pymem_heap *h) {
    h->gc_running = false;
    h->sweepgen += 2;
    h->sweep_cursor = 0;
    h->sweep_done = false;
    h->pages_swept = 0;
    h->sweep_pages_per_byte = 0;
    h->reclaim_page = 0;
    h->reclaim_limit = h->end_page;
    h->reclaim_credit = 0;
    h->heap_live = (int64_t)h->heap_marked;
    h->sweep_live_basis = h->heap_marked;
}

/* p has the owner give back spans, tiny block and stacks; the owner is of this cycle from now on.
 * Go: prepareForSweep, flushmcache */
int proc_flush(pymem_heap *h, proc *p, proc *owner) {
    int rc = mcache_release_all(h, p, owner->cache);
    if (rc) return rc;
    stack_cache_clear(h, p, owner->cache);
    owner->flush_gen = h->sweepgen;
    return PYMEM_OK;
}

/* Stack spans that fell free while the cycle ran go back to the heap. */
void gc_end(pymem_heap *h, proc *p, bool forced) {
    stack_free_spans(h, p);
    h->num_gc++;
    h->num_forced_gc += forced;
    account_cycle_end(h, p);
}

/* ---- a whole collection at once. Go: runtime.GC ---- */

static void tally_frees(const pymem_heap *h, pymem_gc_result *sum) {
    sum->freed_objects = h->large_frees;
    sum->freed_bytes = h->large_free;
    for (int c = 1; c < NUM_CLASSES; c++) {
        sum->freed_objects += h->small_frees[c];
        sum->freed_bytes += h->small_frees[c] * size_classes_go()->size[c];
    }
    sum->freed_pages = h->pages_in_use;
}

/* Every proc gives back its caches: the idle ones first, then the one that collects. Go: forEachP */
static int flush_all(pymem_heap *h, proc *p) {
    int rc = PYMEM_OK;
    for (int32_t i = 0; i < h->nprocs && !rc; i++)
        if (h->procs[i] && h->procs[i] != p) rc = proc_flush(h, p, h->procs[i]);
    return rc || !p->cache ? rc : proc_flush(h, p, p);
}

/* From the flip on nothing can fail: every bitmap that sweeping takes has been reserved. */
static int turn_cycle(pymem_heap *h, proc *p, pymem_gc_result *out) {
    pymem_gc_result before = {0};
    int rc = gc_begin(h, p);
    if (rc) return rc;
    tally_frees(h, &before);
    gc_mark_start(h);
    gc_mark_record(h);
    gc_mark_stop(h);
    gc_flip(h);
    gc_end(h, p, true);
    *out = (pymem_gc_result){.cycle = h->num_gc, .marked_bytes = h->heap_marked, .swept_spans = h->object_spans};
    rc = flush_all(h, p);
    if (!rc) rc = gc_settle(h, p);
    tally_frees(h, out);
    out->freed_objects -= before.freed_objects;
    out->freed_bytes -= before.freed_bytes;
    out->freed_pages = before.freed_pages - out->freed_pages;
    return rc;
}

int gc_collect(pymem_heap *h, proc *p, const uint64_t *dead, uint64_t n, uint64_t *done, pymem_gc_result *out) {
    int rc = heap_declare_dead(h, dead, n, done);
    if (rc) return rc;
    rc = gc_settle(h, p);
    if (!rc) rc = gcbits_reserve_cycle(h);
    if (rc) heap_undeclare_dead(h, dead, n);
    return rc ? rc : turn_cycle(h, p, out);
}
