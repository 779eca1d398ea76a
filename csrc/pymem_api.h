/* The one header between C and Python. cffi reads this very file as its cdef, so it holds plain declarations
 * only: constants as enums, opaque handles, flat structs. the api files validate every argument; nothing below it does.
 * Units: bytes, unless a name says pages (8,192 bytes) or words (8 bytes). Addresses are emulated ones. */

/* ---- status ---- */
enum pymem_status {
    PYMEM_OK = 0,
    PYMEM_ENOMEM,   /* this machine is out of memory (or a fault was injected); the heap is as before the call */
    PYMEM_ELIMIT,   /* the emulated address space is used up */
    PYMEM_EINVAL,   /* no such processor or statistic, or not the time for this call */
    PYMEM_ESIZE,    /* a size that nothing could serve */
    PYMEM_EADDRESS, /* not a live object of this heap */
    PYMEM_EBUSY,    /* another thread is inside this heap */
    PYMEM_ETHROW,   /* a broken invariant: the heap can no longer be trusted */
    PYMEM_EFORMAT   /* input that does not follow its format */
};

/* ---- sizes that are Go's ---- */
enum pymem_constants {
    PYMEM_PAGE_SIZE = 8192,
    PYMEM_NUM_SIZE_CLASSES = 68,
    PYMEM_NUM_SPAN_CLASSES = 136,
    PYMEM_MAX_SMALL_SIZE = 32768,
    PYMEM_NO_PROC = -1 /* the thread holds no P: early start, or the guts of a system call */
};

enum pymem_span_kind { PYMEM_SPAN_HEAP = 0, PYMEM_SPAN_STACK = 1, PYMEM_SPAN_WORKBUF = 2, PYMEM_SPAN_OTHER = 3 };

/* sysStat of off-heap memory, as MemStats reports it. */
enum pymem_stat {
    PYMEM_STAT_NONE = 0,
    PYMEM_STAT_HEAP_RELEASED = 1,
    PYMEM_STAT_STACKS_SYS = 2,
    PYMEM_STAT_MSPAN_SYS = 3,
    PYMEM_STAT_MCACHE_SYS = 4,
    PYMEM_STAT_BUCKHASH_SYS = 5,
    PYMEM_STAT_GC_MISC_SYS = 6,
    PYMEM_STAT_OTHER_SYS = 7,
    PYMEM_NUM_STATS = 8
};

typedef struct pymem_heap pymem_heap;

typedef struct {
    uint64_t arena_base;    /* address of the first arena; a multiple of 64 MB */
    uint64_t address_space; /* bytes that may be mapped for the heap before ELIMIT */
    uint32_t padding_pages; /* pages kept free of objects at the front of the first chunk: Go's random base */
    uint32_t birth_fault;   /* tests: the n-th allocation of pymem_heap_new fails; 0: none */
    uint32_t scan_sparse;   /* count scan work as Go does on a processor without AVX-512: never by whole slots */
    uint32_t pad;
} pymem_config;

/* ---- a heap's life ---- */
int pymem_heap_new(const pymem_config *config, pymem_heap **out);
void pymem_heap_free(pymem_heap *h);
const char *pymem_heap_message(const pymem_heap *h); /* the sentence of the last error; valid until the next call */
/* make the n-th allocation from now fail, and all later ones; < 0: never */
void pymem_fault_after(pymem_heap *h, int64_t n);
uint64_t pymem_metadata_bytes(const pymem_heap *h); /* bytes that the emulator itself holds for this heap */
int pymem_heap_check(pymem_heap *h); /* walk everything; ETHROW with a sentence at the first broken invariant */

/* ---- snapshots: a heap as bytes, from which another one goes on as this would. Not while it replays ---- */
/* *need: bytes it takes; they are at out if cap is as large. out NULL: only count. */
int pymem_snapshot(pymem_heap *h, char *out, uint64_t cap, uint64_t *need);
/* EFORMAT: no snapshot of this version, or damaged. *out is set even then, to be asked for its sentence and freed; NULL
 * without memory for a heap at all. fault: as of pymem_fault_after, while it is read. */
int pymem_restore(const char *data, uint64_t n, int64_t fault, pymem_heap **out);

/* ---- processors: an mcache, a page cache and a stack cache each ---- */
int pymem_proc_new(pymem_heap *h, int32_t *id);
int pymem_proc_destroy(pymem_heap *h, int32_t id); /* on the first of the others, as Go's procresize does */

/* ---- allocation ---- */
int pymem_malloc(pymem_heap *h, int32_t proc, uint64_t size, int noscan, uint32_t type, uint64_t *addr);
/* n objects of one size. *done counts those placed, also after an error. */
int pymem_malloc_same(pymem_heap *h, int32_t proc, uint64_t size, int noscan, uint32_t type, uint64_t n,
                      uint64_t *addrs, uint64_t *done);
/* n objects, each with its size; noscan and types may be NULL (then noscan_all, and type 0). */
int pymem_malloc_each(pymem_heap *h, int32_t proc, const uint64_t *sizes, const uint8_t *noscan, int noscan_all,
                      const uint32_t *types, uint64_t n, uint64_t *addrs, uint64_t *done);

/* ---- stops: why a call that allocates comes back before its time ----
 *
 * Policy is not the core's, so whatever needs a decision ends the call. A single malloc has then placed its object, but
 * for PYMEM_STOP_ASSIST, where *addr is 0; a batch has placed *done of its objects. Call again for the rest. */
enum pymem_stop {
    PYMEM_STOP_NONE = 0,
    PYMEM_STOP_TRIGGER =
        1,                 /* heap_live has reached stops.live; looked at when a span is cached or an object is large */
    PYMEM_STOP_ASSIST = 2, /* marking, and the next object would take the proc's credit below its debt */
    PYMEM_STOP_QUANTUM = 4 /* so many bytes of slots were handed out; to the object while marking, else to the span */
};
/* Lies open between two calls, so that neither side needs one to tell the other. At birth all is never. */
typedef struct {
    uint64_t live; /* heap_live from which a cycle should start; UINT64_MAX: never. Writer: policy */
    int64_t
        quantum;  /* bytes of slots until policy wants to look; INT64_MAX: never. Writers: policy, and who hands out */
    int64_t debt; /* bytes, from 0 on, below 0 that a proc's credit may come to before it assists. Writer: policy */
    uint32_t due; /* enum pymem_stop, or-ed, of the last call that allocates. Writer: that call */
} pymem_stops;
pymem_stops *pymem_stops_of(pymem_heap *h); /* the heap's own, as long as it lives */
/* Adds to the credit (bytes) of whoever runs on the proc and tells what it has then. */
int pymem_assist_credit(pymem_heap *h, int32_t proc, int64_t add, int64_t *now);

/* ---- goroutine stacks and other manual spans ---- */
int pymem_stack_alloc(pymem_heap *h, int32_t proc, uint64_t n, int cached, uint64_t *addr);
int pymem_stack_free(pymem_heap *h, int32_t proc, uint64_t addr, uint64_t n, int cached);
int pymem_manual_alloc(pymem_heap *h, int32_t proc, uint64_t npages, int kind, uint64_t *addr);
int pymem_manual_free(pymem_heap *h, int32_t proc, uint64_t addr);

/* ---- collections by record: who died is said, not found ---- */
typedef struct {
    uint64_t cycle;                      /* number of this collection, from 1 */
    uint64_t marked_bytes;               /* bytes in the slots that survived */
    uint64_t freed_objects, freed_bytes; /* slots; a tiny block is one */
    uint64_t swept_spans, freed_pages;
} pymem_gc_result;
/* A whole forced collection with the world stopped: all of the calls below, in Go's order. All or nothing: after a
 * wrong address or without memory no object has died. *done: the addresses found good. */
int pymem_gc_collect(pymem_heap *h, int32_t proc, const uint64_t *dead, uint64_t n, uint64_t *done,
                     pymem_gc_result *out);
int pymem_mark_dead(pymem_heap *h, const uint64_t *addrs, uint64_t n, uint64_t *done);
/* Whether so many could die together: EADDRESS for what is no living object's address, and where a root or an object
 * that would live on points to one of them. Nothing is changed. */
int pymem_check_dead(pymem_heap *h, const uint64_t *addrs, uint64_t n);
/* finish the last sweep; stacks and workbufs are held back from now on. After ENOMEM, also of mark_start_graph, the
 * cycle has not begun: this call comes again before it */
int pymem_gc_begin(pymem_heap *h, int32_t proc);

/* ---- marking. From mark_start to mark_stop all objects are born black, and the program may run ---- */
typedef struct {
    uint64_t objects_marked, bytes_marked;        /* slots, those born black included */
    uint64_t heap_scan, stack_scan, globals_scan; /* bytes scanned */
} pymem_mark_totals;
/* After gc_begin. The record's marks are set at once: allocated and not declared dead. assists: procs pay for what they
 * allocate, from 0 credit on. */
int pymem_mark_start(pymem_heap *h, int assists);
int pymem_mark_get(pymem_heap *h, pymem_mark_totals *out);
/* The same, but who lives is found by following pointers from the roots: nothing is marked yet, and stores go through
 * the write barrier from now on. */
int pymem_mark_start_graph(pymem_heap *h, int assists);
typedef struct {
    int64_t heap_scan, stack_scan, globals_scan; /* bytes of work that this call has done, as Go counts them */
    uint64_t objects;                            /* that became black */
    int32_t idle, pad;                           /* nothing is grey and no root is left: mark_stop may come */
} pymem_mark_progress;
/* Scans until budget bytes of work are done, or nothing is left. By record all is done at once. ETHROW: a bad pointer.
 */
int pymem_mark_drain(pymem_heap *h, int64_t budget, pymem_mark_progress *out);
/* Go's queue of pages counts puts from mark to mark and acts at each 64th. The count has seen pages of Go's own objects
 * that are not here, so to repeat the scan work of a real process it may have to be set: 0 to 63. */
int pymem_mark_set_phase(pymem_heap *h, uint32_t puts);
/* Between an idle drain and mark_stop: follows everything again. ETHROW: something reachable has no mark; the way to it
 * is path, *n numbers of which cap fit: set and place of the root, then slot and offset in it of each object on the
 * way. */
int pymem_mark_check(pymem_heap *h, uint64_t *path, uint64_t cap, uint64_t *n);
int pymem_mark_stop(pymem_heap *h);                        /* heap_marked and heap_scan are what was found */
int pymem_gc_flip(pymem_heap *h);                          /* sweepgen += 2: everything is unswept */
int pymem_gc_end(pymem_heap *h, int32_t proc, int forced); /* stack spans held back go to the heap; counts the cycle */
int pymem_flush(pymem_heap *h, int32_t proc); /* the proc gives back its spans, its tiny block and its stacks */
int pymem_page_cache_flush(pymem_heap *h, int32_t proc);
int pymem_sweep_one(pymem_heap *h, int32_t proc, uint64_t *base); /* base of the span swept, 0 when none is left */
int pymem_sweep_span(pymem_heap *h, int32_t proc, uint64_t base); /* sweep this one out of turn */
int pymem_sweep_some(pymem_heap *h, int32_t proc, uint64_t most, uint64_t *spans); /* the next spans in turn */
int pymem_sweep_all(pymem_heap *h, int32_t proc, uint64_t *spans);
int pymem_pace_sweeper(pymem_heap *h, uint64_t trigger); /* sweep in proportion to allocation up to this heapLive */

/* ---- the graph: memory behind the addresses, pointer maps, roots. Made at first use ---- */

int pymem_memory_on(pymem_heap *h); /* ENOMEM: no address space; tried again at the next use */
/* Where size bytes from addr on lie in this process. They are one living object's, and good until it dies. */
int pymem_memory(pymem_heap *h, uint64_t addr, uint64_t size, char **out);
/* Bit i of the mask: word i of one element holds a pointer. An object repeats it as often as it fits. Objects of a type
 * that is not known, and may hold pointers, may hold them in every word. */
int pymem_type_add(pymem_heap *h, uint32_t id, uint64_t size, uint64_t ptrdata, const uint64_t *mask, uint64_t words);

/* A set of addresses, each 0 or as a store's target. A stack is scanned once a mark; globals have a write barrier. Held
 * ones are on a stack in Go, but not counted as scan work: what a call has made that has not returned yet. */
enum pymem_roots_kind { PYMEM_ROOTS_GLOBALS = 0, PYMEM_ROOTS_STACK = 1, PYMEM_ROOTS_HELD = 2 };
int pymem_roots_new(pymem_heap *h, int kind, uint32_t *id);
int pymem_roots_set(pymem_heap *h, uint32_t id, uint64_t first, const uint64_t *addrs, uint64_t n);
int pymem_roots_get(pymem_heap *h, uint32_t id, uint64_t first, uint64_t *addrs, uint64_t n);
int pymem_roots_resize(pymem_heap *h, uint32_t id, uint64_t n); /* new ones are 0; with fewer it cannot fail */
int pymem_roots_free(pymem_heap *h, uint32_t id);

/* Each target is 0, an address that is not the heap's, or one in a living object; else EADDRESS, as for an object that
 * does not live or an offset beyond it. *done: those stored or loaded, also after an error. */
int pymem_store_batch(pymem_heap *h, const uint64_t *objects, const uint64_t *offsets, const uint64_t *targets,
                      uint64_t n, uint64_t *done);
int pymem_load_batch(pymem_heap *h, const uint64_t *objects, const uint64_t *offsets, uint64_t n, uint64_t *out,
                     uint64_t *done);

/* ---- compaction: objects are moved out of sparse spans, which Go never does ---- */
typedef struct {
    uint64_t objects_moved, bytes_moved; /* slots; a tiny block is one */
    uint64_t spans_freed, pages_won;     /* emptied, and given back to the page allocator */
    uint64_t spans_pinned;               /* as sparse, but something in them must stay where it is */
    uint64_t pointers_set;               /* words of objects and roots that now hold another address */
} pymem_compaction;
/* What was moved, in the order of span classes and old addresses: slots, so an interior address keeps its offset. */
typedef struct {
    uint64_t *before, *after, *size; /* addresses of slots, and their bytes; the caller's, with room for cap */
    uint64_t cap, n;
} pymem_moves;
/* Between cycles, with the world stopped. All caches are flushed and all is swept; then objects move out of the
 * sparsest spans of each class, filled to max_fill (above 0, at most 1) or less, into free slots of the others. Roots
 * and objects of known types are told of it. Pinned are the objects at the addresses pins (those where nothing lives
 * do not count), and what words of objects without a known type point to. A replay's handles are not told.
 * moves NULL: nothing moves, out says what would (but for pointers_set). EINVAL: cap is below objects_moved. */
int pymem_compact(pymem_heap *h, int32_t proc, double max_fill, const uint64_t *pins, uint64_t npins,
                  pymem_moves *moves, pymem_compaction *out);

/* ---- MemStats ---- */
typedef struct {
    uint64_t alloc, total_alloc, sys, lookups, mallocs, frees;
    uint64_t heap_alloc, heap_sys, heap_idle, heap_inuse, heap_released, heap_objects;
    uint64_t stack_inuse, stack_sys, mspan_inuse, mspan_sys, mcache_inuse, mcache_sys;
    uint64_t buck_hash_sys, gc_sys, other_sys, next_gc;
    uint64_t num_gc, num_forced_gc;
    uint64_t heap_live;   /* the pacer's view: cached spans count as full. Not in Go's MemStats */
    uint64_t tiny_allocs; /* tiny objects that joined a block, in mallocs and in frees. Not in Go's MemStats */
    uint64_t by_size_mallocs[68], by_size_frees[68];
} pymem_mem_stats;
/* flush: as ReadMemStats does, all caches first */
int pymem_read_mem_stats(pymem_heap *h, int32_t proc, int flush, pymem_mem_stats *out);
/* UINT64_MAX: GOGC=off */
int pymem_set_goal(pymem_heap *h, uint64_t gc_goal, uint64_t memory_limit, uint64_t heap_marked);
/* The goal is no lower unless the limit sets it; 0: none. A replay's marking raises it. */
int pymem_set_goal_floor(pymem_heap *h, uint64_t floor);

/* What pacing and the scavenger go by, without a flush. */
typedef struct {
    uint64_t heap_live, heap_scan, heap_marked;
    uint64_t total_alloc, heap_alloc, mallocs, frees; /* what left an mcache: cached spans are not in it */
    uint64_t pages_in_use, pages_swept, object_spans;
    uint64_t heap_in_use, heap_free, heap_released; /* bytes of pages: in spans of objects; free; free and given back */
    uint64_t mapped_ready;                          /* all that Sys counts and the OS has not got back */
    uint64_t released_eager;                        /* bytes given back by allocations on their way, since birth */
    uint64_t sweep_live_basis, sweep_end_live;      /* heap_live when the sweep was paced, and when it was done */
    double sweep_pages_per_byte;                    /* as paced last */
    uint64_t work_objects, work_bytes; /* allocated since birth: all objects; the slots of those that joined no block */
    uint32_t sweep_done, in_debt;      /* procs whose credit is below 0, while marking with assists */
    uint32_t fresh;                    /* of the heap's own: 0 from the next call on, whatever it does */
} pymem_pace_info;
int pymem_read_pace(pymem_heap *h, pymem_pace_info *out);
pymem_pace_info *pymem_pace(pymem_heap *h); /* the heap's own, as long as it lives; pymem_replay_run leaves it fresh */

/* ---- the scavenger: free pages go back to the OS, the highest first ---- */
/* Gives back at least so many bytes of free pages, unless there are no more. force: densely used chunks too, as
 * FreeOSMemory does. *released: bytes given back, perhaps more than asked so that no huge page is split. */
int pymem_scavenge(pymem_heap *h, uint64_t bytes, int force, uint64_t *released);
/* What allocations keep to by giving back on their way. gc_percent_goal: bytes of heap retained, looked at where the
 * heap grows; memory_limit: bytes of ready memory, looked at for every span. UINT64_MAX: none, as at birth. */
int pymem_set_scavenge_goals(pymem_heap *h, uint64_t gc_percent_goal, uint64_t memory_limit);
/* Chunks of 512 pages in address order, from the arena base on. */
typedef struct {
    uint16_t in_use, last_in_use; /* pages now, and when the generation of the last change began */
    uint32_t generation;          /* of the last change */
    uint32_t has_free;            /* 0: nothing was freed since the scavenger last found nothing */
} pymem_scavenge_chunk;
int pymem_scavenge_chunks(pymem_heap *h, uint64_t from_chunk, pymem_scavenge_chunk *out, uint64_t cap, uint64_t *n);
/* The choice inside a chunk by itself: bitmaps of 512 pages, the highest page to look at, a power of 2 (1 to 64) that
 * runs are aligned to, and how many pages are wanted. *npages 0: there is none. */
int pymem_scavenge_candidate(const uint64_t *alloc, const uint64_t *scavenged, uint32_t from, uint32_t min,
                             uint64_t max, uint32_t *first, uint32_t *npages);

/* ---- looking inside ---- */
typedef struct {
    uint64_t base, npages, elem_size;
    uint32_t nelems, alloc_count, freeindex, sweepgen;
    uint8_t span_class, state, kind, cached; /* state: 1 in use (objects), 2 manual; cached: held by an mcache */
    uint8_t pad[4];
} pymem_span_info;
typedef struct {
    uint64_t addr, base, size; /* the object's address, its span's base, its slot's size */
    uint32_t type, index;
    uint8_t span_class, noscan, tiny, pad[5];
} pymem_object_info;
/* in address order */
int pymem_spans(pymem_heap *h, uint64_t from_addr, pymem_span_info *out, uint64_t cap, uint64_t *n);
int pymem_span_of(pymem_heap *h, uint64_t addr, pymem_span_info *out);
int pymem_object_at(pymem_heap *h, uint64_t addr, pymem_object_info *out);
int pymem_objects(pymem_heap *h, uint64_t span_base, uint64_t *addrs, uint32_t *types, uint32_t *n); /* room for 1024 */
/* Living objects and the bytes of their slots by type id; what is ntypes or above counts as 0. */
int pymem_type_use(pymem_heap *h, uint64_t *objects, uint64_t *bytes, uint32_t ntypes);
int pymem_page_states(pymem_heap *h, uint64_t from_page, uint8_t *out, uint64_t cap, uint64_t *n);
/* page states: bit 0 allocated, bit 1 scavenged, bit 2 in a page cache, bit 3 padding */
void pymem_size_class(int sizeclass, uint32_t *size, uint32_t *npages, uint32_t *nelems_scan, uint32_t *nelems_noscan);
int pymem_size_to_class(uint64_t size);
uint64_t pymem_heap_bounds(const pymem_heap *h, uint64_t *base); /* bytes mapped from *base on */

/* ---- replay: columns of events, run on a heap ---- */

enum pymem_event {
    PYMEM_EV_ALLOC = 1,        /* object: its handle; size: bytes asked for; flags: noscan; type. expect: its address */
    PYMEM_EV_DEATH = 2,        /* object: handle; unreachable from now on, freed by the next cycle that marks.
                                  flags: with its whole slot, as recordings tell it */
    PYMEM_EV_STACK_ALLOC = 3,  /* object: handle; size: bytes; flags: through the proc's stock. expect: its address */
    PYMEM_EV_STACK_FREE = 4,   /* object: handle; size, flags as above */
    PYMEM_EV_MANUAL_ALLOC = 5, /* object: handle; size: pages; flags: enum pymem_span_kind. expect: its address */
    PYMEM_EV_MANUAL_FREE = 6,  /* object: handle */
    PYMEM_EV_FLUSH = 7,        /* object: number of the proc that gives back its spans and its tiny block */
    PYMEM_EV_STACK_CLEAR = 8,  /* object: of the one that gives back its stacks */
    PYMEM_EV_GC_PHASE = 9,     /* size: 0 off, else marking */
    PYMEM_EV_SWEEP_DONE = 10,  /* all is swept: a cycle may begin */
    PYMEM_EV_FLIP = 11,        /* mark by record, then everything is unswept */
    PYMEM_EV_SWEEP = 12,       /* the next span in turn. expect: its base */
    PYMEM_EV_SWEEP_IN = 13,    /* expect: base of a span that the next EV_ALLOC of this proc sweeps on its way;
                                  flags: 0 for credit, 1 to reclaim its pages */
    PYMEM_EV_GC_END = 14,      /* flags: forced. Stack spans held back during marking go to the heap */
    PYMEM_EV_SWEEP_ALL = 15,   /* finish the sweep */
    PYMEM_EV_PROC_NEW = 16,
    PYMEM_EV_PROC_DESTROY = 17, /* object: number of the proc */
    PYMEM_EV_PERSISTENT = 18,   /* size; object: alignment; flags: enum pymem_stat */
    PYMEM_EV_SYS = 19,          /* size: bytes, two's complement; flags: enum pymem_stat */
    PYMEM_EV_PAGES_FLUSH = 20,  /* object: number of the proc that gives back its page cache */
    PYMEM_EV_SCAVENGE = 21,     /* object: first page's address; size: pages; flags: 0 taken out, 1 put back scavenged.
                                   expect: the address once more, if it is to be a miss where the pages are not free */
    PYMEM_EV_GOAL = 22,         /* object: heapLive goal by GOGC; size: bytes marked last. flags: neither is set, stop:
                                   the policy has what it takes to compute them */
    PYMEM_EV_SPAN = 23,         /* nothing to do. expect: base of a span of size pages, class flags, kind type */
    PYMEM_EV_STATS = 24,        /* stop: the recording has MemStats here */
    PYMEM_EV_TINY = 25,         /* a tiny object joins a block that is there: counted, no more */
    PYMEM_EV_START_SPAN = 26,   /* of the heap it all starts from: size: pages; flags: span class; type: kind;
                                   object: handle if manual. expect: its base */
    PYMEM_EV_START_OBJECT = 27, /* object: handle; type. expect: its slot's address */
    PYMEM_EV_START_DONE = 28,
    PYMEM_EV_FINALIZER = 29, /* size: bytes of the slot of an object with a finalizer; flags: enum pymem_finalizer */
    PYMEM_NUM_EVENTS = 30
};

/* Columns of equal length n. expect may be NULL (then nothing is compared); 0 in it: nothing is known. */
typedef struct {
    const uint8_t *kind, *flags;
    const int16_t *proc;
    const uint32_t *type;
    const uint64_t *object, *size, *expect;
    uint64_t n;
} pymem_columns;

typedef struct {
    uint64_t row, got, want;
    uint32_t kind, pad;
} pymem_miss;

typedef struct pymem_replay pymem_replay;

/* A mark scans an object that has a finalizer from there too and, if it has pointers, counts it twice. */
enum pymem_finalizer {
    PYMEM_FINALIZER_GONE = 0,
    PYMEM_FINALIZER_SET = 1,    /* of an object with pointers; so far no others matter */
    PYMEM_FINALIZER_REVIVES = 2 /* an object without pointers that the next mark finds dead, and the sweep keeps */
};

/* Who decides about collections, and when spans are swept. */
enum pymem_replay_mode {
    PYMEM_REPLAY_TURNS = 0,  /* collections as recorded, sweeps in turn; EV_SWEEP only compares */
    PYMEM_REPLAY_FOLLOW = 1, /* both as recorded */
    PYMEM_REPLAY_OWN = 2     /* neither: rows of the collector are passed over, the policy acts at the stops; procs are
                                those there are when it begins, of a row the one of its number modulo theirs */
};
int pymem_replay_new(pymem_heap *h, int mode, int32_t procs, pymem_replay **out); /* procs: of OWN */
void pymem_replay_free(pymem_replay *r);
enum pymem_replay_stopped {
    PYMEM_REPLAY_GOES_ON = 0, /* all rows are run */
    PYMEM_REPLAY_STATS = 1,   /* at EV_STATS; not with OWN */
    PYMEM_REPLAY_STOP = 2,    /* OWN: pymem_stops tells which. After STOP_ASSIST *row is the row to be tried again */
    PYMEM_REPLAY_GOAL = 4,    /* at EV_GOAL with flags; not with OWN */
    PYMEM_REPLAY_FORCED = 3   /* OWN: the program asked for a cycle, which was passed over */
};
/* Runs rows from *row on; returns at the end, where *stopped says why, or at an error. *row is the next to be run. */
int pymem_replay_run(pymem_replay *r, const pymem_columns *columns, uint64_t *row, int *stopped);
/* each [PYMEM_NUM_EVENTS] */
void pymem_replay_counts(const pymem_replay *r, uint64_t *events, uint64_t *compared, uint64_t *matched);
uint64_t pymem_replay_misses(const pymem_replay *r, pymem_miss *out, uint64_t cap); /* the first ones */
typedef struct {
    uint64_t row;                                                        /* of the flip, counted over all calls */
    uint64_t objects_before, bytes_before, objects_marked, bytes_marked; /* slots, at the flip */
} pymem_cycle;
/* returns how many there are */
uint64_t pymem_replay_cycles(const pymem_replay *r, uint64_t first, pymem_cycle *out, uint64_t cap);
int pymem_replay_addresses(const pymem_replay *r, uint64_t first, uint64_t n, uint64_t *out); /* of handles; 0: none */

/* ---- trace reader ------------------------------------------------------
 *
 * Reads a Go execution trace (Go 1.22 to 1.27) out of one block of memory, usually a mapped file, and hands
 * out its memory, collector and scheduler events as columns in the order of time. The block must stay where it
 * is and as it is until trace_close.
 */

typedef struct trace_reader trace_reader;

/* What an event is. The columns a, b and c mean:
 *
 *   OBJECT*       a address of the slot (an allocation: of the object), b type index, 0 for none
 *   SPAN*         a base address, b pages, c span class << 1, or 1 for a manual span
 *   STACK*        a base address, b bytes
 *   *FREE         a address, as above; b and c are 0
 *   GC_*          a sequence number; GC_BEGIN: c is 1 where runtime.GC forced the cycle
 *   STW_BEGIN     b string index of the reason
 *   HEAP_*        a bytes
 *   SWEEP_END     a bytes swept, b bytes reclaimed;  SWEEP_ACTIVE: a P
 *   ASSIST_ACTIVE a goroutine
 *   PROCS_CHANGE  a GOMAXPROCS
 *   PROC_*        a P (not PROC_STOP: its own);  PROC_STEAL: b thread it is taken from
 *   GO_*          a goroutine created, started or switched to;  GO_BLOCK, GO_STOP: b string index of the reason;
 *                 GO_CREATE, GO_CREATE_BLOCKED: c is 1 where it is the runtime's own, or its tracer's
 */
enum trace_kind {
    TRACE_OBJECT_ALLOC = 0,
    TRACE_OBJECT_FREE = 1,
    TRACE_OBJECT = 2, /* existed when the recording began, as SPAN and STACK */
    TRACE_SPAN_ALLOC = 3,
    TRACE_SPAN_FREE = 4,
    TRACE_SPAN = 5,
    TRACE_STACK_ALLOC = 6,
    TRACE_STACK_FREE = 7,
    TRACE_STACK = 8,
    TRACE_GC_BEGIN = 9,
    TRACE_GC_END = 10,
    TRACE_GC_ACTIVE = 11, /* was under way when the generation began, as SWEEP_ACTIVE and ASSIST_ACTIVE */
    TRACE_STW_BEGIN = 12,
    TRACE_STW_END = 13,
    TRACE_HEAP_ALLOC = 14,
    TRACE_HEAP_GOAL = 15,
    TRACE_SWEEP_BEGIN = 16,
    TRACE_SWEEP_END = 17,
    TRACE_SWEEP_ACTIVE = 18,
    TRACE_ASSIST_BEGIN = 19,
    TRACE_ASSIST_END = 20,
    TRACE_ASSIST_ACTIVE = 21,
    TRACE_PROCS_CHANGE = 22,
    TRACE_PROC_START = 23,
    TRACE_PROC_STOP = 24,
    TRACE_PROC_STEAL = 25,
    TRACE_GO_CREATE = 26,
    TRACE_GO_CREATE_SYSCALL = 27,
    TRACE_GO_CREATE_BLOCKED = 28,
    TRACE_GO_START = 29,
    TRACE_GO_DESTROY = 30,
    TRACE_GO_DESTROY_SYSCALL = 31,
    TRACE_GO_BLOCK = 32,
    TRACE_GO_STOP = 33,
    TRACE_GO_SWITCH = 34,
    TRACE_GO_SWITCH_DESTROY = 35,
    TRACE_NUM_KINDS = 36
};

/* The caller's arrays, each with room for the capacity given to trace_next: 37 bytes an event. */
typedef struct {
    int64_t *time; /* ns since the trace's start, never falling */
    uint64_t *a;
    uint64_t *b;
    int64_t *g; /* goroutine that was running on the event's thread just before the event, -1 for none known */
    int16_t *p; /* P that the thread held just before the event, -1 for none known */
    uint16_t *c;
    uint8_t *kind; /* enum trace_kind */
} trace_columns;

/* What is known so far; complete once trace_next has said done. */
typedef struct {
    uint32_t version;           /* minor version in the header: 22 to 27 */
    uint32_t generations;       /* read so far, with the one being read */
    uint32_t num_types;         /* type indices in use are below this; 0 is "no type" */
    uint32_t num_strings;       /* string indices in use are below this; 0 is the empty or unknown string */
    uint32_t threads;           /* Ms seen */
    uint32_t incomplete;        /* 1: the last generation was cut short, at incomplete_offset */
    uint32_t frequency_assumed; /* 1: the clock's frequency was lost in the cut and is taken to be Go's usual one */
    uint32_t has_heap_info;     /* 1: the trace says where the heap begins, so addresses are real */
    uint64_t incomplete_offset;
    uint64_t position;   /* bytes of the block that are behind the reader, for progress */
    uint64_t length;     /* bytes of the block */
    int64_t duration_ns; /* time of the last event of any kind */
    int64_t start_ns;    /* the program's monotonic clock at time 0 */
    uint64_t frequency;  /* ticks a second of the generation being read */
    int64_t wall_ns;     /* wall clock at time 0, ns since 1970; 0 where the trace has none (before Go 1.25) */
    uint64_t min_heap_addr;
    uint64_t page_size; /* bytes, as the two that follow */
    uint64_t heap_align;
    uint64_t stack_align;
    uint64_t events; /* timed events of any kind decoded */
    uint64_t cpu_samples;
    uint64_t unknown_types; /* events whose type id is in no table (in an incomplete generation); their b is 0 */
    uint64_t counts[TRACE_NUM_KINDS]; /* by enum trace_kind, whether selected or not */
} trace_info;

typedef struct {
    uint64_t address; /* of the type's descriptor in the recorded program */
    uint64_t size;    /* bytes */
    uint64_t ptrdata; /* bytes up to the end of the last pointer */
    const char *name; /* not terminated; lives as long as the block */
    uint32_t name_len;
} trace_type;

/* Makes a reader of data[0:len] that selects the kinds whose bits (1 << kind) are set. *out is to be closed in every
 * case, and NULL only where there is no memory for it: so the text of an error can be read. PYMEM_EFORMAT: no
 * execution trace, or one of a Go that this reader does not know. faults, for tests: as in pymem_fault_after, the
 * caller's to watch and to change; NULL for none. */
int trace_open(const uint8_t *data, uint64_t len, uint64_t kind_mask, int64_t *faults, trace_reader **out);

/* Fills the columns with the next events. Returns when the capacity is full, when the trace is at its end
 * (*done is 1), or after some millions of events of which few were selected, so that a caller can look for
 * interrupts. *count is right in every case, an error too: what came before the error is there.
 * PYMEM_EFORMAT: the file is damaged; PYMEM_EINVAL: a capacity below 1. */
int trace_next(trace_reader *r, const trace_columns *columns, int64_t capacity, int64_t *count, int *done);

void trace_get_info(const trace_reader *r, trace_info *out);

/* Copies types first, first + 1, ... first + count - 1, which must be below num_types, else PYMEM_EINVAL. */
int trace_get_types(const trace_reader *r, uint32_t first, uint32_t count, trace_type *out);

/* The string's bytes and *len; the empty string where there is none of this index. */
const char *trace_get_string(const trace_reader *r, uint32_t index, uint32_t *len);

/* The last error's sentence, empty if there is none, and the byte of the block it is about. */
const char *trace_error(const trace_reader *r, uint64_t *offset);

void trace_close(trace_reader *r);

/* ---- an execution trace as rows ----
 *
 * Turns the events of a trace, in order and as many at a time as the caller likes, into the rows of a replay. Kept is
 * what lives: a handle for each living object and manual span, and the record's spans; handles are used again. What
 * lies ahead (which objects a cycle found dead, where its sweep ended) the caller reads ahead and says at each GC_END.
 */

/* The caller's arrays, each with room for capacity rows, of which n are filled. Room that is always enough for one
 * event: TRACE_ROWS_AN_EVENT and two for each proc. */
typedef struct {
    int64_t *time;
    uint8_t *kind, *flags;
    int16_t *proc;
    uint32_t *goroutine, *type;
    uint64_t *object, *size, *expect;
    uint64_t n, capacity;
} trace_rows_out;

enum { TRACE_ROWS_AN_EVENT = 8 };

/* Why trace_rows_run came back. */
enum trace_rows_stop {
    TRACE_ROWS_USED = 0,  /* all events are used */
    TRACE_ROWS_FULL = 1,  /* no room for the rows of another event */
    TRACE_ROWS_START = 2, /* the start heap is told, in rows of any order: call trace_rows_started */
    TRACE_ROWS_CYCLE = 3  /* at a GC_END: call trace_rows_dead, then trace_rows_cycle */
};

typedef struct trace_rows trace_rows;
/* procs: GOMAXPROCS, 1 to 32,767. stats_reason: as for pymem_follow_new. faults: as for trace_open. */
int trace_rows_new(int32_t procs, uint64_t stats_reason, int64_t *faults, trace_rows **out);
void trace_rows_free(trace_rows *r);
/* Converts events from *at on. PYMEM_ENOMEM is the only error, and nothing is done of the event *at then: it may be
 * tried again. What makes no sense makes no row. */
int trace_rows_run(trace_rows *r, const trace_columns *events, uint64_t n, uint64_t *at, trace_rows_out *out,
                   int *stop);
/* START_DONE. Called once, also where the trace ends before the program runs. amid: a cycle is under way. */
void trace_rows_started(trace_rows *r, int amid, trace_rows_out *out);
/* Deaths dated at the GC_END stopped at: of the OBJECT_FREEs among the events, from *at on while there is room. */
int trace_rows_dead(trace_rows *r, const trace_columns *events, uint64_t n, uint64_t *at, trace_rows_out *out);
/* The cycle's sweep ends with the frees-th OBJECT_FREE or SPAN_FREE after the GC_END stopped at; then go on. */
void trace_rows_cycle(trace_rows *r, uint64_t frees);

/* ---- following an execution trace ---- */

typedef struct {
    const uint8_t *kind; /* enum trace_kind */
    const int16_t *p;
    const uint64_t *a, *b;
    const uint16_t *c;
    uint64_t n;
} pymem_trace_rows;

typedef struct {
    uint64_t allocations, matched,
        learned;                     /* learned: who held which span at the start, not told by a trace of several Ps */
    uint64_t tiny;                   /* parts of a tiny block that is there already: nothing to predict */
    uint64_t manual, manual_matched; /* spans for stacks and the collector */
    uint64_t unknown;                /* allocations in no recorded span */
    uint64_t cycles, forced;
} pymem_follow_counts;

typedef struct pymem_follow pymem_follow;
/* The whole trace in memory, as deaths are read ahead. repair 0: open loop, nothing of the record but deaths,
 * collections and manual spans is used. stats_reason: string index of the reason "read mem stats", 0 if there is none.
 */
int pymem_follow_new(pymem_heap *h, const pymem_trace_rows *rows, uint64_t stats_reason, int repair,
                     pymem_follow **out);
void pymem_follow_free(pymem_follow *f);
int pymem_follow_run(pymem_follow *f, uint64_t rows, int *done); /* at most so many more rows */
uint64_t pymem_follow_row(const pymem_follow *f);                /* the next one; after an error the one it is about */
void pymem_follow_result(const pymem_follow *f, pymem_follow_counts *out);
uint64_t pymem_follow_misses(const pymem_follow *f, pymem_miss *out, uint64_t cap);
