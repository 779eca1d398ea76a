/* The events of an execution trace as rows of a replay, one after the other, in memory that grows with what lives at
 * once and not with the trace.
 *
 * The trace names objects by address; here each gets a handle, given again after its death. What a trace cannot say is
 * decided once, here: an object has the size of its slot; deaths are dated at the end of the mark that found them (the
 * caller reads ahead to the next one); a concurrent sweep is finished where the trace shows its last effect. */
#include <stdlib.h>
#include <string.h>
#include "fault.h"
#include "internal.h"

enum {
    FIRST_CAPACITY = 1024,
    MAX_SPAN_PAGES = 64, /* more than any span of several slots has */
    MAX_PAGES = 1 << 24, /* of a span: 128 GB */
    NO_CLASS = -1
};

/* From addresses to handles. Open addressing: used <= capacity / 2, capacity a power of two or 0. */
typedef struct {
    uint64_t key;
    uint32_t handle1 /* handle + 1, 0: free */, epoch;
} entry;
typedef struct {
    entry *entries;
    uint64_t capacity, used;
} table;

/* The record's spans by page, an arena at a time: npages << 16 | span class << 1 | manual; 0: nothing. Of a span that
 * holds one thing only the first page says so. */
typedef struct {
    table index;
    uint64_t **pages;
    uint32_t n, capacity, last;
    uint64_t last_arena;
} page_map;

typedef struct {
    int64_t time;
    uint32_t goroutine;
    int16_t proc;
} context;

typedef struct {
    uint64_t slot, size;
    int32_t span_class;
    uint32_t header;
} placed;

struct trace_rows {
    int64_t *faults;
    int32_t procs;
    uint64_t stats_reason;
    table objects; /* slot -> handle, and the epoch in which it was handed out */
    table manual;  /* base -> handle of the span there, while it is a manual one */
    page_map spans;
    uint32_t *free, nfree, cap_free, handles; /* handles of the dead; handles ever given */
    uint32_t epoch;                           /* flushes of all caches so far */
    context first, now;                       /* of the trace's first event, of this one */
    bool begun, started, cycles, ready; /* cycles: there was one; ready: what lies ahead of this GC_END is known */
    uint64_t frees, sweep_frees;        /* since the last GC_END; after so many its sweep is finished, 0: it is */
    uint32_t forced;                    /* of the cycle under way */
};

/* ---- tables ---- */

/* Every bit of the key reaches every bit of the result (the finaliser of the splitmix64 generator). */
static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* Where a key wants to be: neighbours side by side, as they are handed out and freed one after the other. */
static uint64_t home_of(const table *t, uint64_t key) { return (mix(key >> 8) + (key >> 4 & 15)) & (t->capacity - 1); }

/* Its place, or the free one where it goes. */
static uint64_t place_of(const table *t, uint64_t key) {
    uint64_t i = home_of(t, key);
    while (t->entries[i].handle1 && t->entries[i].key != key) i = (i + 1) & (t->capacity - 1);
    return i;
}

static entry *table_get(const table *t, uint64_t key) {
    if (!t->used) return NULL;
    entry *e = &t->entries[place_of(t, key)];
    return e->handle1 ? e : NULL;
}

/* Room for one more. */
static int table_reserve(trace_rows *r, table *t) {
    if (t->used < t->capacity / 2) return PYMEM_OK;
    table wider = {.capacity = t->capacity ? 2 * t->capacity : FIRST_CAPACITY, .used = t->used};
    wider.entries = fault_due(r->faults) ? NULL : calloc(wider.capacity, sizeof *wider.entries);
    if (!wider.entries) return PYMEM_ENOMEM;
    for (uint64_t i = 0; i < t->capacity; i++)
        if (t->entries[i].handle1) wider.entries[place_of(&wider, t->entries[i].key)] = t->entries[i];
    free(t->entries);
    *t = wider;
    return PYMEM_OK;
}

/* Into the room that was reserved. */
static void table_put(table *t, uint64_t key, uint32_t handle, uint32_t epoch) {
    entry *e = &t->entries[place_of(t, key)];
    t->used += !e->handle1;
    *e = (entry){key, handle + 1, epoch};
}

/* Closes the gap: whatever was pushed past it moves back. */
static void table_remove(table *t, entry *e) {
    uint64_t mask = t->capacity - 1, hole = (uint64_t)(e - t->entries);
    for (uint64_t i = (hole + 1) & mask; t->entries[i].handle1; i = (i + 1) & mask) {
        uint64_t home = home_of(t, t->entries[i].key);
        if (((i - home) & mask) < ((i - hole) & mask)) continue;
        t->entries[hole] = t->entries[i];
        hole = i;
    }
    t->entries[hole].handle1 = 0;
    t->used--;
}

static int reserve(trace_rows *r, void **items, uint32_t used, uint32_t *capacity, size_t size) {
    if (used < *capacity) return PYMEM_OK;
    uint32_t wider = *capacity ? 2 * *capacity : 64;
    void *q = wider > *capacity && !fault_due(r->faults) ? realloc(*items, wider * size) : NULL;
    if (!q) return PYMEM_ENOMEM;
    *items = q;
    *capacity = wider;
    return PYMEM_OK;
}

/* ---- the record's spans ---- */

static int map_new_arena(trace_rows *r, uint64_t arena) {
    page_map *m = &r->spans;
    int rc = reserve(r, (void **)&m->pages, m->n, &m->capacity, sizeof *m->pages);
    if (!rc) rc = table_reserve(r, &m->index);
    if (rc) return rc;
    m->pages[m->n] = fault_due(r->faults) ? NULL : calloc(ARENA_PAGES, sizeof **m->pages);
    if (!m->pages[m->n]) return PYMEM_ENOMEM;
    table_put(&m->index, arena, m->n++, 0);
    return PYMEM_OK;
}

static uint64_t *map_arena(page_map *m, uint64_t arena) {
    if (m->last_arena == arena) return m->pages[m->last];
    const entry *e = table_get(&m->index, arena);
    if (!e) return NULL;
    m->last_arena = arena;
    m->last = e->handle1 - 1;
    return m->pages[m->last];
}

static int map_set(trace_rows *r, uint64_t page, uint64_t value) {
    uint64_t arena = page / ARENA_PAGES, *pages = map_arena(&r->spans, arena);
    int rc = pages ? PYMEM_OK : map_new_arena(r, arena);
    if (!rc) map_arena(&r->spans, arena)[page % ARENA_PAGES] = value;
    return rc;
}

static int map_span(trace_rows *r, uint64_t base, uint64_t npages, uint32_t code) {
    bool one_thing = code & 1 || code >> 2 == 0;
    uint64_t most = one_thing ? 1 : MAX_SPAN_PAGES, n = npages < most ? npages : most;
    if (npages > MAX_PAGES) npages = MAX_PAGES;
    for (uint64_t i = 0; i < n; i++) {
        int rc = map_set(r, (base >> PAGE_SHIFT) + i, npages << 16 | code);
        if (rc) return rc;
    }
    return PYMEM_OK;
}

/* The slot that an object is in, by its span; span_class is NO_CLASS where the record has none. */
static placed place(page_map *m, uint64_t address, bool existed) {
    placed o = {.slot = address, .span_class = NO_CLASS};
    uint64_t page = address >> PAGE_SHIFT, *pages = map_arena(m, page / ARENA_PAGES);
    uint64_t span = pages ? pages[page % ARENA_PAGES] : 0, code = span & 0xffff;
    if (!span || code & 1 || code >> 1 >= NUM_SPAN_CLASSES) return o;
    o.span_class = (int32_t)(code >> 1);
    o.size = o.span_class < 2 ? span >> 16 << PAGE_SHIFT : size_classes_go()->size[o.span_class >> 1];
    bool header = o.span_class > 1 && !(o.span_class & 1) && o.size > MIN_HEADER_SIZE;
    o.header = header ? MALLOC_HEADER : 0;
    if (!existed) o.slot -= o.header;
    if (o.span_class == TINY_SPAN_CLASS) o.slot &= ~(uint64_t)(TINY_SIZE - 1);
    return o;
}

/* ---- handles ---- */

static int take_handle(trace_rows *r, uint32_t *handle) {
    if (r->nfree) {
        *handle = r->free[--r->nfree];
    } else {
        if (r->handles == UINT32_MAX - 1) return PYMEM_ENOMEM;
        *handle = r->handles++;
    }
    return PYMEM_OK;
}

static int bind(trace_rows *r, table *t, uint64_t key, uint32_t *handle) {
    int rc = table_reserve(r, t);
    if (!rc) rc = take_handle(r, handle);
    if (!rc) table_put(t, key, *handle, r->epoch);
    return rc;
}

/* Takes what is there out of the table; the handle may be given again, but not while the start heap is being told: its
 * rows come before that of this death. */
static int unbind(trace_rows *r, table *t, entry *e, uint32_t *handle) {
    int rc = reserve(r, (void **)&r->free, r->nfree, &r->cap_free, sizeof *r->free);
    if (rc) return rc;
    *handle = e->handle1 - 1;
    table_remove(t, e);
    if (r->started) r->free[r->nfree++] = *handle;
    return PYMEM_OK;
}

/* ---- rows ---- */

typedef struct {
    uint32_t kind, flags, type;
    uint64_t object, size, expect;
} row;

static void put_of(trace_rows_out *out, context c, row e) {
    uint64_t i = out->n++;
    out->time[i] = c.time;
    out->goroutine[i] = c.goroutine;
    out->proc[i] = c.proc;
    out->kind[i] = (uint8_t)e.kind;
    out->flags[i] = (uint8_t)e.flags;
    out->type[i] = e.type;
    out->object[i] = e.object;
    out->size[i] = e.size;
    out->expect[i] = e.expect;
}

static void put(trace_rows *r, trace_rows_out *out, row e) { put_of(out, r->now, e); }

static void put_without_proc(context c, trace_rows_out *out, row e) {
    c.proc = PYMEM_NO_PROC;
    put_of(out, c, e);
}

static void flush_all(trace_rows *r, trace_rows_out *out) {
    for (int32_t p = 0; p < r->procs; p++) put(r, out, (row){.kind = PYMEM_EV_FLUSH, .object = (uint64_t)p});
    r->epoch++;
}

static context context_of(const trace_rows *r, const trace_columns *e, uint64_t i) {
    int32_t p = e->p[i] < r->procs ? e->p[i] : r->procs - 1;
    return (context){e->time[i], e->g[i] > 0 ? (uint32_t)e->g[i] : 0, (int16_t)(r->procs == 1 ? 0 : p < 0 ? -1 : p)};
}

/* ---- the program's events ---- */

static int on_alloc(trace_rows *r, uint64_t address, uint64_t type, trace_rows_out *out) {
    placed o = place(&r->spans, address, false);
    uint32_t handle;
    if (o.span_class == NO_CLASS) return PYMEM_OK;
    if (o.span_class == TINY_SPAN_CLASS) {
        const entry *block = table_get(&r->objects, o.slot);
        if (block && block->epoch == r->epoch) {
            put(r, out, (row){.kind = PYMEM_EV_TINY});
            return PYMEM_OK;
        }
    }
    int rc = bind(r, &r->objects, o.slot, &handle);
    if (rc) return rc;
    put(r, out,
        (row){.kind = PYMEM_EV_ALLOC,
              .flags = (uint32_t)o.span_class & 1,
              .type = (uint32_t)type,
              .object = handle,
              .size = o.size - o.header,
              .expect = o.slot + o.header});
    return PYMEM_OK;
}

static int on_object(trace_rows *r, uint64_t address, uint64_t type, trace_rows_out *out) {
    placed o = place(&r->spans, address, true);
    uint32_t handle;
    if (r->started || o.span_class == NO_CLASS) return PYMEM_OK;
    int rc = bind(r, &r->objects, o.slot, &handle);
    if (rc) return rc;
    put_without_proc(r->now, out,
                     (row){.kind = PYMEM_EV_START_OBJECT, .type = (uint32_t)type, .object = handle, .expect = o.slot});
    return PYMEM_OK;
}

static int died(trace_rows *r, uint64_t slot, trace_rows_out *out) {
    entry *e = table_get(&r->objects, slot);
    uint32_t handle;
    if (!e) return PYMEM_OK;
    int rc = unbind(r, &r->objects, e, &handle);
    if (!rc) put(r, out, (row){.kind = PYMEM_EV_DEATH, .flags = 1, .object = handle});
    return rc;
}

static int on_span(trace_rows *r, uint64_t base, uint64_t npages, uint32_t code, bool existed, trace_rows_out *out) {
    entry *e = table_get(&r->manual, base);
    if (e) table_remove(&r->manual, e); /* it went unseen, and its handle with it */
    int rc = map_span(r, base, npages, code);
    bool manual = code & 1, start = existed && !r->started;
    uint32_t handle = 0;
    if (!rc && manual && (start || !existed)) rc = bind(r, &r->manual, base, &handle);
    if (rc) return rc;
    if (start)
        put_without_proc(r->now, out,
                         (row){.kind = PYMEM_EV_START_SPAN,
                               .flags = manual ? 0 : code >> 1,
                               .type = manual,
                               .object = handle,
                               .size = npages,
                               .expect = base});
    else if (manual && !existed)
        put(r, out,
            (row){.kind = PYMEM_EV_MANUAL_ALLOC,
                  .flags = PYMEM_SPAN_STACK,
                  .object = handle,
                  .size = npages,
                  .expect = base});
    return PYMEM_OK;
}

static int on_span_free(trace_rows *r, uint64_t base, trace_rows_out *out) {
    entry *e = table_get(&r->manual, base);
    uint32_t handle;
    if (!e) return PYMEM_OK;
    int rc = unbind(r, &r->manual, e, &handle);
    if (!rc) put(r, out, (row){.kind = PYMEM_EV_MANUAL_FREE, .object = handle});
    return rc;
}

/* ---- the collector's ---- */

/* A forced cycle sweeps before it returns; of any other the sweep goes on to its last effect. */
static void on_gc_end(trace_rows *r, trace_rows_out *out) {
    put(r, out, (row){.kind = PYMEM_EV_FLIP});
    flush_all(r, out);
    put(r, out, (row){.kind = PYMEM_EV_GC_END, .flags = r->forced});
    if (r->forced) r->sweep_frees = 0;
    if (!r->sweep_frees) put(r, out, (row){.kind = PYMEM_EV_SWEEP_ALL});
    r->cycles = true;
    r->ready = false;
    r->frees = 0;
}

static void after_free(trace_rows *r, trace_rows_out *out) {
    if (++r->frees == r->sweep_frees) put(r, out, (row){.kind = PYMEM_EV_SWEEP_ALL});
}

static int on_event(trace_rows *r, const trace_columns *e, uint64_t i, trace_rows_out *out) {
    int rc = PYMEM_OK;
    switch (e->kind[i]) {
    case TRACE_OBJECT_ALLOC: return on_alloc(r, e->a[i], e->b[i], out);
    case TRACE_OBJECT: return on_object(r, e->a[i], e->b[i], out);
    case TRACE_OBJECT_FREE: /* those after a cycle were told at its end */
        if (!r->cycles) rc = died(r, e->a[i], out);
        if (!rc) after_free(r, out);
        return rc;
    case TRACE_SPAN_ALLOC: return on_span(r, e->a[i], e->b[i], e->c[i], false, out);
    case TRACE_SPAN: return on_span(r, e->a[i], e->b[i], e->c[i], true, out);
    case TRACE_SPAN_FREE:
        rc = on_span_free(r, e->a[i], out);
        if (!rc) after_free(r, out);
        return rc;
    case TRACE_GC_BEGIN:
        r->forced = e->c[i] & 1;
        put(r, out, (row){.kind = PYMEM_EV_SWEEP_DONE});
        return PYMEM_OK;
    case TRACE_GC_END: on_gc_end(r, out); return PYMEM_OK;
    case TRACE_STW_BEGIN:
        if (r->stats_reason && e->b[i] == r->stats_reason) flush_all(r, out);
        return PYMEM_OK;
    }
    return PYMEM_OK;
}

static void begin(trace_rows *r, trace_rows_out *out) {
    r->begun = true;
    r->first = r->now;
    for (int32_t p = 0; p < r->procs; p++) put_without_proc(r->first, out, (row){.kind = PYMEM_EV_PROC_NEW});
}

/* ---- the calls ---- */

int trace_rows_new(int32_t procs, uint64_t stats_reason, int64_t *faults, trace_rows **out) {
    *out = NULL;
    if (procs < 1 || procs > INT16_MAX) return PYMEM_EINVAL;
    *out = fault_due(faults) ? NULL : calloc(1, sizeof **out);
    if (!*out) return PYMEM_ENOMEM;
    **out = (trace_rows){.faults = faults, .procs = procs, .stats_reason = stats_reason, .spans.last_arena = NO_PAGE};
    return PYMEM_OK;
}

void trace_rows_free(trace_rows *r) {
    if (!r) return;
    for (uint32_t i = 0; i < r->spans.n; i++) free(r->spans.pages[i]);
    free(r->spans.pages);
    free(r->spans.index.entries);
    free(r->objects.entries);
    free(r->manual.entries);
    free(r->free);
    free(r);
}

int trace_rows_run(trace_rows *r, const trace_columns *events, uint64_t n, uint64_t *at, trace_rows_out *out,
                   int *stop) {
    uint64_t need = TRACE_ROWS_AN_EVENT + 2 * (uint64_t)r->procs;
    for (; *at < n; ++*at) {
        uint32_t kind = events->kind[*at];
        if (out->capacity - out->n < need) return *stop = TRACE_ROWS_FULL, PYMEM_OK;
        r->now = context_of(r, events, *at);
        if (!r->begun) begin(r, out);
        if (!r->started && (kind == TRACE_STW_END || kind == TRACE_OBJECT_ALLOC))
            return *stop = TRACE_ROWS_START, PYMEM_OK;
        if (kind == TRACE_GC_END && !r->ready) return *stop = TRACE_ROWS_CYCLE, PYMEM_OK;
        int rc = on_event(r, events, *at, out);
        if (rc) return rc;
    }
    *stop = TRACE_ROWS_USED;
    return PYMEM_OK;
}

void trace_rows_started(trace_rows *r, int amid, trace_rows_out *out) {
    r->started = true;
    put_of(out, r->first, (row){.kind = PYMEM_EV_START_DONE});
    if (amid) put(r, out, (row){.kind = PYMEM_EV_SWEEP_DONE});
}

int trace_rows_dead(trace_rows *r, const trace_columns *events, uint64_t n, uint64_t *at, trace_rows_out *out) {
    for (; *at < n && out->n < out->capacity; ++*at) {
        int rc = events->kind[*at] == TRACE_OBJECT_FREE ? died(r, events->a[*at], out) : PYMEM_OK;
        if (rc) return rc;
    }
    return PYMEM_OK;
}

void trace_rows_cycle(trace_rows *r, uint64_t frees) {
    r->sweep_frees = frees;
    r->ready = true;
}
