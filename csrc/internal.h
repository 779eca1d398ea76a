/* The map of the core: every struct, and the prototypes grouped by the file that defines them. Includes point down:
 * each file may call those grouped above it here (the api files sit on top of all, os.c at the bottom). */
#ifndef PYMEM_INTERNAL_H
#define PYMEM_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include "pymem_api.h"

enum {
    PAGE_SHIFT = 13,
    PAGE_SIZE = 1 << PAGE_SHIFT,
    CHUNK_PAGES = 512, /* the heap grows by whole chunks of 4 MB */
    CHUNK_WORDS = CHUNK_PAGES / 64,
    ARENA_PAGES = 8192, /* 64 MB, the unit in which address space is reserved */
    NUM_CLASSES = PYMEM_NUM_SIZE_CLASSES,
    NUM_SPAN_CLASSES = PYMEM_NUM_SPAN_CLASSES,
    MAX_SMALL = PYMEM_MAX_SMALL_SIZE,
    MALLOC_HEADER = 8,     /* bytes in front of a scan object above 512 bytes: its type */
    MIN_HEADER_SIZE = 512, /* largest scan object whose pointer bits are kept in the span */
    TINY_SIZE = 16,        /* bytes of a block shared by several small pointer-free objects */
    TINY_SPAN_CLASS = 2 << 1 | 1,
    PAGE_CACHE_PAGES = 64,
    NUM_STACK_ORDERS = 4, /* pooled stacks: 2, 4, 8 and 16 KB */
    FIXED_STACK = 2048,
    STACK_CACHE_SIZE = 32 << 10, /* bytes of one order a proc keeps, and of one pool span */
    STACK_CACHE_MAX = STACK_CACHE_SIZE / FIXED_STACK + 1,
    NUM_LARGE_STACKS = 48 - PAGE_SHIFT,
    MSPAN_CACHE = 128,        /* mspan structs a proc keeps; refilled by half */
    SPAN_BITS_MAX = 1024 / 8, /* bytes of the longest slot bitmap: 1,024 slots of 8 bytes */
    MAX_SUMMARY_LEVELS = 8,
    SLAB_SPANS = 64,   /* mspan structs allocated at a time */
    SCRIPT_RECLAIM = 1 /* of a scripted span: the reclaimer sweeps it, after the search for a free slot was in vain */
};

#define NO_PAGE UINT64_MAX

/* A span: a run of pages cut into equal slots, or (manual) lent out whole.
 * In use:  alloc_count == slots below freeindex + alloc bits at or above it;  freeindex <= nelems.
 * sweepgen, against the heap's sg: sg - 2 unswept, sg - 1 being swept, sg swept, sg + 1 cached and stale, sg + 3
 * cached. */
typedef struct mspan mspan;
struct mspan {
    uint64_t base; /* address */
    uint64_t npages;
    uint64_t elem_size; /* bytes a slot */
    uint32_t sweepgen;
    uint32_t div_magic; /* offset * div_magic >> 32 == offset / elem_size; 0 for large */
    uint16_t nelems, freeindex, alloc_count;
    uint16_t count_before_cache; /* alloc_count when an mcache took it: what MemStats has counted already */
    uint8_t span_class;          /* size class << 1 | noscan */
    uint8_t state;               /* enum span_state */
    uint8_t kind;                /* enum pymem_span_kind */
    uint8_t page_mark;           /* some object was marked in the last mark: the reclaimer passes it by */
    uint64_t *alloc_bits;        /* slots that survived the last sweep */
    uint64_t *mark_bits;         /* clear between cycles */
    uint64_t *dead_bits;         /* slots declared dead since the last mark; NULL while there are none */
    uint32_t *types;             /* type id a slot; NULL while all are 0 */
    uint16_t *tiny_live; /* a tiny block's living objects: bit k = one begins at byte k; NULL while there are none */
    uint32_t large_type; /* type id of the one object of a large span */
    mspan *set_next[2], *set_prev[2]; /* links in the span sets of either sweepgen parity */
    uint8_t in_set[2];                /* 0 none, 1 partial, 2 full: the set that holds it, by parity */
    uint8_t set_class[2];             /* and its span class then: the struct may have been reused since */
    mspan *next, *prev;               /* free structs; stack pools */
    uint64_t free_stacks;             /* manual pool span: stack of slot numbers, 4 bits each, last freed lowest */
    uint8_t nfree_stacks;
    uint16_t live_stacks; /* pool span: slots lent out; a slot in an mcache is neither live nor in free_stacks */
    uint32_t number;      /* of the struct, from 0 in the order in which they were made; for ever */
};

enum span_state { SPAN_DEAD = 0, SPAN_IN_USE = 1, SPAN_MANUAL = 2 };

/* FIFO of spans. Go keeps them in blocks of 512 behind a spine, and MemStats shows those; here the links are in the
 * spans and only the cursor arithmetic of the blocks is kept. tail - head == length of the list. */
typedef struct {
    mspan *first, *last;
    uint32_t head, tail;           /* pops and pushes since the last reset */
    uint32_t spine_len, spine_cap; /* blocks, and room for blocks */
} span_set;

typedef struct {
    span_set partial[2], full[2];
} mcentral; /* by parity of sweepgen / 2 */

/* A bump allocator of off-heap memory in 256 KB chunks; a proc has one and the heap has one. */
typedef struct {
    uint64_t off;
    bool has_chunk;
} persistent_chunk;

/* 64 pages, aligned, owned by one proc. cache: 1 = free; scav: 1 = returned to the OS. */
typedef struct {
    uint64_t page, cache, scav;
} page_cache;

typedef struct {
    uint64_t list[STACK_CACHE_MAX];
    uint32_t n;
} stack_cache; /* list[n - 1] is the head */

typedef struct {
    mspan *alloc[NUM_SPAN_CLASSES]; /* the span each class allocates from; never NULL */
    uint64_t tiny;                  /* address of the current block, 0: none */
    uint64_t tiny_offset;           /* bytes used in it */
    uint64_t tiny_allocs;           /* objects that joined a block since MemStats counted them last */
    uint64_t scan_alloc;            /* bytes to scan of what was allocated since heap_scan heard of it last */
    mspan *tiny_span;
    uint32_t tiny_slot;
    stack_cache stacks[NUM_STACK_ORDERS];
} mcache;

/* What Go keeps in a P (and, for !has_p, what a thread without one may use). */
typedef struct {
    mcache *cache; /* NULL: may not allocate objects */
    page_cache pages;
    persistent_chunk palloc;
    uint32_t mspans;    /* mspan structs in its cache, <= MSPAN_CACHE */
    uint32_t flush_gen; /* the heap's sweepgen when the cache was last known fresh */
    int64_t credit;     /* bytes it may allocate while marking before it must assist. Go: gcAssistBytes */
    bool paid;          /* the credit for the object it wants next was taken before it was sent to assist */
    bool has_p;
} proc;

/* What the scavenger knows of a chunk; all 0 for a new one. Pages in a page cache count as in use.
 * in_use == pages taken, without those on their way to the OS;  in_use == CHUNK_PAGES implies !has_free.
 * Go: scavChunkData */
typedef struct {
    uint16_t in_use, last_in_use; /* pages now, and when generation gen began; <= CHUNK_PAGES */
    uint32_t gen;                 /* the generation that last changed it */
    bool has_free;                /* something was freed since the scavenger last came away empty-handed */
} scav_chunk;

typedef struct {
    uint64_t alloc[CHUNK_WORDS], scav[CHUNK_WORDS]; /* 1 = in use; 1 = scavenged */
    scav_chunk index;
} chunk;

/* From where a search for pages to scavenge goes down. A mark says that the limit was raised since the last search that
 * lowered it: such a cursor is not cleared when nothing is found. Go: atomicOffAddr */
typedef struct {
    uint64_t limit; /* first page above those still to look at; 0: nothing to look at */
    bool marked;
} scav_cursor;

/* Beside the chunks' own part. Background and heap growth use one cursor, which rises once a generation; forced
 * scavenging another, which rises at once: every chunk above its limit has !has_free. Go: scavengeIndex */
typedef struct {
    scav_cursor background, force;
    uint64_t freed_limit; /* first page above those freed in this generation; 0: none */
    uint32_t gen;         /* generation, one a cycle */
} scav_index;

/* Address-ordered first fit. A summary says of an aligned run of chunks: free pages at its start, the longest free run
 * in it, free pages at its end. Level 0 is one chunk an entry, each level above covers 8 entries of the one below. */
typedef struct {
    uint32_t start, max, end;
} summary;
typedef struct {
    chunk *chunks;
    uint64_t nchunks, cap_chunks;
    summary *level[MAX_SUMMARY_LEVELS];
    uint32_t nlevels;
    scav_index scav;
} page_alloc;

/* Go's counters for structs of one size cut from 16 KB chunks. */
typedef struct {
    uint32_t size, chunk_left, nfree;
    uint64_t inuse;
    int stat;
} fix_alloc;

typedef struct bits_arena bits_arena;
struct bits_arena {
    bits_arena *next;
    uint64_t used;
    uint64_t words[(65536 - 16) / 8];
};

typedef struct {
    uint64_t lo, hi;
} mapped_range; /* bytes of a metadata table that are mapped */

typedef struct {
    uint64_t page, npages;
} page_run;

/* The span of each page of an arena, or NULL. Arenas that lie wholly in one span look it up in the table of the first
 * of them, while their own wait, all NULL and never touched: a span of a terabyte fills one table. spans != own only
 * then. */
typedef struct {
    mspan **spans, **own; /* [ARENA_PAGES] */
} arena_pages;

/* A slab of mspan structs; they are never given back before the heap is. */
typedef struct mspan_slab mspan_slab;
struct mspan_slab {
    mspan_slab *next;
    mspan spans[SLAB_SPANS];
};

typedef struct kept_block kept_block; /* os.c */

/* Which words of one element of a type hold pointers: bit i of the mask says word i. */
typedef struct {
    uint64_t size;    /* bytes of an element; 0: no such type */
    uint64_t ptrdata; /* bytes up to its last pointer */
    uint64_t words;   /* of the mask; at least 1 */
    uint64_t *mask;   /* no bit at or beyond ptrdata / 8 */
} type_map;

/* Addresses that keep objects alive: globals, or the stack of one goroutine. */
typedef struct {
    uint64_t *addrs;
    uint64_t n, cap;
    uint64_t begun; /* globals: scanned so far in this mark */
    uint8_t used, kind;
    uint8_t scanned; /* in this mark; or made while it ran */
} root_set;

enum { PAGE_BIT_WORDS = 16, HEAP_BITS_WORDS = PAGE_SIZE / 64 / 8 };

/* What a batch of stores knows of a page: the slots of its span below the first free one live for sure, all of them.
 * Nothing dies and no map changes during a batch, so a page is looked at once in it. Two fit a cache line.
 * Writer: mwbbuf.c */
typedef struct {
    uint64_t mask;        /* bit i: the words i, i + 64, ... of each object hold pointers */
    uint32_t batch;       /* the batch that this was noted in */
    uint32_t first;       /* pages from the first arena to the span */
    uint32_t living;      /* bytes of those slots; 0: the span is to be asked about each */
    uint32_t size, magic; /* bytes a slot; the span's div_magic */
    uint8_t header;       /* bytes in front of an object */
    uint8_t pair;         /* 1: each word of mark bits is followed by one of grey bits */
    uint8_t rest;         /* enum sure_rest: where to look for a word that the mask has not */
    uint8_t written;      /* the span is known to be dirty */
} sure_page;
enum sure_rest { REST_NONE = 0, REST_BITS = 1, REST_TYPES = 2 };

/* Object memory and the tables beside it, an entry a page; one reservation, made at first use. */
typedef struct {
    char *base;      /* what lies at the first arena's address */
    size_t reserved; /* bytes of the reservation, and pages of objects in it */
    uint64_t pages;
    /* Mark and grey bits of the span that begins there, its 64-bit words by turns; of 8-byte slots: mark bits alone.
     * All zero unless marking by graph. */
    uint64_t (*bits)[PAGE_BIT_WORDS];
    uint64_t *mask; /* pointer bits of each object of the page, where all have the same */
    sure_page *sure;
    uint16_t *info; /* PAGE_NONE, PAGE_MANUAL or span class + PAGE_CLASS; small: | pages from the span's base << 8 */
    uint8_t *state; /* enum page_state */
    uint32_t batch; /* of stores, the last one; from 1 */
    root_set *roots;
    uint32_t nroots; /* room for */
    bool points;     /* a pointer may have been written: by a store, as a root, or by who was given the bytes */
} object_memory;

enum { PAGE_NONE = 0, PAGE_MANUAL = 1, PAGE_CLASS = 2 };
enum page_state {
    PAGE_DIRTY = 1,   /* has been written to; of a span: its first page says it for all */
    PAGE_MASK = 2,    /* the mask holds for at least one object */
    PAGE_MIXED = 4,   /* but not for all */
    PAGE_QUEUED = 8,  /* marking: it waits in the span queue */
    PAGE_MANY = 32,   /* marking: and more than one object with it */
    PAGE_MARKED = 16, /* marking: Go would have set its bit in pageMarks */
    PAGE_HEADERS = 64 /* a span's first page: some header in front of an object is not 0 */
};

typedef struct graph_mark graph_mark;     /* mgcmark.c */
typedef struct size_classes size_classes; /* sizeclasses.c */

struct pymem_heap {
    pymem_config config;
    const size_classes *classes; /* Go's: asked for here for each object, since size_classes_go takes as long */
    atomic_flag busy;
    char message[256];
    int64_t faults; /* allocations left before they fail; < 0: never fail */
    uint64_t real_bytes;
    kept_block *kept; /* the block that is being cut, and those before it */

    /* where pages are */
    page_alloc pages;
    uint64_t cur_page, end_page; /* first page not yet given to the page allocator; first beyond the reserved arenas */
    uint64_t padding;            /* pages of the first chunk that hold nothing, for ever */
    page_run scavenging[16]; /* taken out of the page allocator, free and in no page cache: on their way to the OS */
    uint32_t nscavenging;
    arena_pages *arenas;
    uint64_t narenas, cap_arenas;

    /* scavenging on an allocation's way; what is given is set by the scavenger's policy */
    uint64_t scav_percent_goal; /* bytes of heap to retain, given; UINT64_MAX: any */
    uint64_t scav_limit;        /* bytes of ready memory not to pass, given; UINT64_MAX: any */
    uint64_t scav_eager;        /* bytes given back so since birth */

    /* spans */
    mspan_slab *slabs;
    mspan *free_spans;
    uint32_t slab_used;
    mcentral central[NUM_SPAN_CLASSES];
    uint32_t sweepgen;
    uint32_t sweep_cursor; /* next of the 2 x NUM_SPAN_CLASSES unswept sets */
    bool sweep_done;
    bool gc_running; /* between gc_begin and gc_flip: stacks that fall free are held back */
    uint32_t epoch;  /* sweepgen at the last gcbits_epoch, plus 1: a cycle that had to begin twice turns it once */
    bits_arena *bits_free, *bits_next, *bits_current, *bits_previous; /* Go's four lists */
    bits_arena *bits_spare; /* reserved ahead of need; Go has not asked for them yet, so MemStats does not count them */

    /* procs */
    proc **procs;
    int32_t nprocs, cap_procs;
    proc no_p;
    mcache *mcache0; /* the first proc's, used without a P before there is one */

    /* stacks */
    mspan *stack_pool[NUM_STACK_ORDERS];
    mspan *stack_large[NUM_LARGE_STACKS];

    /* proportional sweep and page reclaim */
    double sweep_pages_per_byte; /* once all is swept, what it was then */
    uint64_t pages_in_use, pages_swept, pages_swept_basis, sweep_live_basis;
    uint64_t sweep_end_live; /* heap_live when the last sweep found nothing left */
    uint64_t object_spans;   /* in use */
    uint64_t reclaim_page, reclaim_limit, reclaim_credit;

    /* why a call that allocates comes back early */
    pymem_stops stops;                 /* when, and why it did */
    pymem_pace_info pace;              /* what policy goes by, as of the last time that somebody asked */
    uint64_t work_objects, work_bytes; /* allocated since birth: what the program's time is charged by */

    /* marking: objects are born black. by_record: what lives was told, all at mark_start */
    bool marking, by_record, assists;
    pymem_mark_totals marks; /* so far in this cycle */
    graph_mark *mark;        /* while marking by graph, else NULL */
    uint32_t queue_puts,
        queue_cap;         /* what the last mark left of its span queue: puts since a spill, pages of a segment */
    object_memory *memory; /* NULL: objects have no memory behind them */
    type_map *types;       /* by id; size 0 where none is known. Writer: memory_type_add */
    uint32_t ntypes;       /* room for */
    uint64_t heap_scan;    /* bytes of the heap that a mark would have to scan; fixed while one runs */

    /* scripted: a replayed allocation sweeps these spans on its way, not those that credit and reclaimer would */
    bool scripted;
    bool must_grow;         /* the next refill takes a fresh span, as the record says */
    const uint64_t *script; /* their bases, or-ed with SCRIPT_RECLAIM */
    uint64_t nscript;

    /* counters behind MemStats */
    uint64_t sys[PYMEM_NUM_STATS];
    uint64_t heap_in_use, heap_free, heap_released, in_stacks, in_workbufs, in_other;
    uint64_t small_allocs[NUM_CLASSES], small_frees[NUM_CLASSES];
    uint64_t tiny_allocs, large_alloc, large_allocs, large_free, large_frees;
    int64_t heap_live;
    uint64_t heap_marked;
    uint64_t finalizer_bytes; /* slots of objects with pointers that have finalizers; a record tells */
    uint64_t revived_bytes;   /* slots without pointers that the next mark finds dead, but the sweep keeps for theirs */
    uint64_t marked_twice; /* bytes that the last mark by record counted beside those of marked slots; modulo 2**64 */
    uint64_t born_before;  /* in a replay: scan_born when marking began */
    pymem_cycle last_mark; /* what the last mark found; row unused */
    uint64_t num_gc, num_forced_gc;
    uint64_t gc_goal;        /* heapLive at which GOGC alone would have the next cycle end; UINT64_MAX: off */
    uint64_t goal_floor;     /* the goal is no lower, unless the limit sets it: for the sweeper, or a late trigger */
    uint64_t memory_limit;   /* GOMEMLIMIT; INT64_MAX: none */
    persistent_chunk palloc; /* used without a P */
    fix_alloc span_fix, cache_fix;
    uint64_t allspans_len, allspans_cap;
    uint64_t arenas_cap_emulated; /* entries that Go's allArenas array has room for */
    uint32_t set_blocks_pool;     /* blocks of span sets waiting for reuse */
    mapped_range summary_mapped[5], scav_index_mapped;
    bool metadata_huge;
    uint64_t l2_mapped; /* 1 MB tables of chunk bitmaps, 8,192 chunks each */
};

/* ---- os.c: every call to the operating system, and the place where faults are injected ---- */
void *os_alloc(pymem_heap *h, size_t size);      /* zeroed */
void *os_alloc_kept(pymem_heap *h, size_t size); /* zeroed; until os_release_kept */
void os_release_kept(pymem_heap *h);
void *os_grow(pymem_heap *h, void *p, size_t old_size, size_t new_size); /* the new part zeroed */
void os_free(pymem_heap *h, void *p, size_t size);
void *os_reserve(pymem_heap *h, size_t size); /* zeros, backed page by page at first touch; not in real_bytes */
void os_unreserve(void *p, size_t size);
void os_zero(char *p, size_t size);
bool os_give_back(char *p, size_t size);

/* ---- stream.c: numbers to bytes and back ---- */
typedef struct {
    pymem_heap *h;     /* which tells what is wrong */
    uint8_t *out;      /* writing; NULL: bytes are only counted */
    const uint8_t *in; /* reading */
    uint64_t at, end;  /* bytes written or read; room, or how many there are */
    bool reading;
    int status; /* of the first thing wrong */
} stream;
void stream_number(stream *s, uint64_t *v, uint64_t most);
void stream_signed(stream *s, int64_t *v);
void stream_words(stream *s, uint64_t *words, uint64_t n);
void stream_runs(stream *s, void *array, uint64_t n, uint32_t width);
void stream_wrong(stream *s, const char *what);
void stream_no_memory(stream *s);
uint64_t stream_left(const stream *s); /* bytes; 0 after an error */
/* Any field of an unsigned type or bool. */
#define STREAM(s, field, most)                                                                                         \
    do {                                                                                                               \
        uint64_t number_ = (uint64_t)(field);                                                                          \
        stream_number(s, &number_, most);                                                                              \
        if ((s)->reading) (field) = (__typeof__(field))number_;                                                        \
    } while (0)

/* ---- sizeclasses.c ---- */
struct size_classes {
    uint16_t size[NUM_CLASSES];
    uint8_t npages[NUM_CLASSES];
    uint32_t div_magic[NUM_CLASSES];
    uint16_t nelems[NUM_SPAN_CLASSES];
    uint8_t of_size[MAX_SMALL / 8 + 1]; /* (size + 7) / 8 -> class */
};
const size_classes *size_classes_go(void);
static inline uint32_t small_span_class(const size_classes *t, uint64_t size, bool noscan) {
    return (uint32_t)t->of_size[(size + 7) >> 3] << 1 | noscan;
}

/* ---- mstats.c: off-heap memory and the sums over it ---- */
void persistent_alloc(pymem_heap *h, proc *p, uint64_t size, uint64_t align, int stat);
void fix_alloc_init(fix_alloc *f, uint32_t size, int stat);
bool fix_alloc_take(pymem_heap *h, proc *p, fix_alloc *f); /* true: cut fresh from a chunk */
void fix_alloc_give(fix_alloc *f);
void account_mspan_new(pymem_heap *h, proc *p);
void account_mspan_free(pymem_heap *h, proc *p);
void account_birth(pymem_heap *h);
void account_cycle_end(pymem_heap *h, proc *p);
void account_arena(pymem_heap *h, proc *p, uint64_t narenas);
void account_pages_grow(pymem_heap *h, uint64_t base, uint64_t limit);
void mem_stats_read(pymem_heap *h, pymem_mem_stats *out);
uint64_t heap_goal(const pymem_heap *h);
void pace_read(pymem_heap *h, pymem_pace_info *out);
uint64_t mapped_ready(const pymem_heap *h); /* bytes had from the OS and not given back. Go: mappedReady */

/* ---- mgcscavenge.c, lower half: the index, told by those who change pages ---- */
void scavenge_note_alloc(page_alloc *p, uint64_t page, uint64_t npages);
void scavenge_note_free(page_alloc *p, uint64_t page, uint64_t npages);

/* ---- mpagealloc.c ---- */
int page_alloc_reserve(pymem_heap *h, uint64_t npages); /* metadata for npages in all; changes nothing else */
void page_alloc_grow(pymem_heap *h, uint64_t npages);   /* npages more, free and scavenged; metadata reserved before */
uint64_t page_alloc_find(const page_alloc *p, uint64_t npages);          /* first fit, or NO_PAGE */
uint64_t page_alloc_take(page_alloc *p, uint64_t page, uint64_t npages); /* returns how many were scavenged */
void page_alloc_free(page_alloc *p, uint64_t page, uint64_t npages);
void page_alloc_hide(page_alloc *p, uint64_t page, uint64_t npages); /* taken as far as anybody else can see */
void page_alloc_release_hidden(page_alloc *p, uint64_t page, uint64_t npages); /* free again, and scavenged */
void page_alloc_update(page_alloc *p, uint64_t first_chunk, uint64_t last_chunk);
summary chunk_summary(const chunk *c);
summary summary_merge(const summary *child, uint64_t n, uint64_t pages_each);
uint64_t summary_entries(const page_alloc *p, uint32_t level);
void page_alloc_release(pymem_heap *h);

/* ---- mpagecache.c ---- */
bool page_cache_fill(page_alloc *p, page_cache *c);                            /* false: no free page anywhere */
void page_cache_fill_block(page_alloc *p, page_cache *c, uint64_t page);       /* of 64 pages, page being its first */
uint64_t page_cache_take(page_cache *c, uint64_t npages, uint64_t *scavenged); /* NO_PAGE: does not fit */
void page_cache_flush(page_alloc *p, page_cache *c);

/* ---- mgcscavenge.c ---- */
uint64_t scavenge(pymem_heap *h, uint64_t bytes, bool force);       /* returns the bytes given back */
void scavenge_begin(pymem_heap *h, uint64_t page, uint64_t npages); /* two steps, as a record tells them */
void scavenge_end(pymem_heap *h, uint64_t page, uint64_t npages);   /* of a run that scavenge_begin was called for */
void scavenge_for_span(pymem_heap *h, uint64_t fresh, uint64_t growth);
uint64_t scavenge_candidate(const chunk *c, uint64_t from, uint64_t min, uint64_t max, uint64_t *npages);

/* ---- mbitmap.c: slot bitmaps and the arenas they live in ---- */
int gcbits_reserve(pymem_heap *h);                    /* the next two bitmaps cannot fail */
int gcbits_reserve_cycle(pymem_heap *h);              /* nor those that sweeping all spans after the next epoch takes */
uint64_t *gcbits_new(pymem_heap *h, uint32_t nelems); /* zeroed; reserve first */
void gcbits_epoch(pymem_heap *h);
uint32_t span_next_free(const mspan *s);             /* first free slot from freeindex on, or nelems */
uint32_t span_next_used(const mspan *s, uint32_t i); /* first slot in use from i on, or nelems */
bool span_is_allocated(const mspan *s, uint32_t i);
bool span_is_unswept(const pymem_heap *h, const mspan *s); /* its mark bits count, its alloc bits are last cycle's */
bool span_slot_lives(const pymem_heap *h, const mspan *s, uint32_t i); /* in use, and neither dead nor to be swept */
uint32_t span_slot_of(const mspan *s, uint64_t addr);
void span_mark_record(mspan *s);
uint32_t span_count_marks(const mspan *s);
static inline uint32_t bit_words(uint32_t n) { return (n + 63) / 64; }
static inline bool bit_get(const uint64_t *b, uint32_t i) { return b[i >> 6] >> (i & 63) & 1; }
static inline void bit_clear(uint64_t *b, uint32_t i) { b[i >> 6] &= ~(1ull << (i & 63)); }
static inline void bit_set(uint64_t *b, uint32_t i) { b[i >> 6] |= 1ull << (i & 63); }

/* ---- mheap.c: spans ---- */
extern mspan empty_span; /* full for ever: what an mcache holds where it has nothing */
int mheap_alloc_span(pymem_heap *h, proc *p, uint64_t npages, int kind, uint32_t span_class, mspan **out);
int mheap_span_at(pymem_heap *h, proc *p, uint64_t page, uint64_t npages, int kind, uint32_t span_class, mspan **out);
int mheap_grow(pymem_heap *h, proc *p, uint64_t npages);
void mheap_free_span(pymem_heap *h, proc *p, mspan *s);
static inline mspan *span_at(const pymem_heap *h, uint64_t page) {
    return h->arenas[page / ARENA_PAGES].spans[page % ARENA_PAGES];
}
static inline bool uses_page_cache(uint64_t npages) { return npages < PAGE_CACHE_PAGES / 4; }
int mheap_reserve_arenas(pymem_heap *h, uint64_t end_page);
int mheap_reserve_struct(pymem_heap *h);                  /* a span struct is free then */
mspan *mheap_span_of(const pymem_heap *h, uint64_t addr); /* NULL: no span there */
/* Who has the pages now; s NULL: nobody, and they are all that a span had. The arenas are reserved. */
void mheap_set_spans(pymem_heap *h, uint64_t page, uint64_t npages, mspan *s);
uint64_t page_of(const pymem_heap *h, uint64_t addr);
uint64_t page_addr(const pymem_heap *h, uint64_t page);
void mheap_release(pymem_heap *h);
void heap_live_add(pymem_heap *h, int64_t delta);
void heap_scan_flush(pymem_heap *h, mcache *c);

/* ---- mcentral.c: the sets of spans a class has ---- */
span_set *set_swept(pymem_heap *h, uint32_t span_class, bool full);
span_set *set_unswept(pymem_heap *h, uint32_t span_class, bool full);
void span_set_push(pymem_heap *h, proc *p, mspan *s, bool full); /* on the swept set */
mspan *span_set_pop(pymem_heap *h, uint32_t span_class, bool full, bool swept);
void span_set_remove(pymem_heap *h, mspan *s, int parity); /* out of turn, as Go never does */
void span_set_to_front(pymem_heap *h, mspan *s);
void span_set_rotate(pymem_heap *h, mspan *s, int parity);
void span_sets_reset(pymem_heap *h);
int swept_parity(const pymem_heap *h);

/* ---- memory.c: the bytes of objects; all but the first and those of types need it to be on ---- */
int memory_on(pymem_heap *h);
void memory_release(pymem_heap *h);                                                   /* types too */
void memory_set_pages(pymem_heap *h, uint64_t page, uint64_t npages, const mspan *s); /* NULL: free from now on */
void memory_written(object_memory *m, uint64_t page); /* to objects of the span that begins there */
void memory_new_object(pymem_heap *h, uint64_t addr, uint64_t size, uint32_t type);
void memory_new_objects(pymem_heap *h, const uint64_t *addrs, uint64_t n, const uint64_t *sizes, uint64_t size,
                        const uint32_t *types, uint32_t type); /* sizes or size, types or type */
void memory_move_slot(pymem_heap *h, const mspan *from, uint32_t i, const mspan *to, uint32_t j);
int memory_type_add(pymem_heap *h, uint32_t id, uint64_t size, uint64_t ptrdata, const uint64_t *mask, uint64_t words);
const type_map *memory_type(const pymem_heap *h, uint64_t type); /* NULL: every word may be a pointer */
/* Bytes of an object of so many bytes up to its last pointer: whole elements but for the last one's tail. */
static inline uint64_t type_scan_size(const pymem_heap *h, uint32_t type, uint64_t size) {
    const type_map *t = type ? memory_type(h, type) : NULL;
    if (t && size == t->size) return t->ptrdata; /* mostly: no division */
    return !t || size < t->size ? size : size / t->size * t->size - t->size + t->ptrdata;
}
bool memory_is_pointer_word(const pymem_heap *h, const mspan *s, uint32_t slot, uint64_t offset); /* from the slot on */
uint64_t memory_read_bits(const object_memory *m, uint64_t page, uint64_t elem_size, uint32_t slot);
char *memory_at(const pymem_heap *h, uint64_t addr);
uint64_t *memory_heap_bits(const object_memory *m, uint64_t page, uint64_t elem_size); /* HEAP_BITS_WORDS of them */
bool memory_is_target(const pymem_heap *h, uint64_t addr);
int memory_view(pymem_heap *h, uint64_t addr, uint64_t size, char **out); /* to read and to write */
int memory_word(pymem_heap *h, uint64_t object, uint64_t offset, uint64_t **word);
int memory_load(pymem_heap *h, const uint64_t *objects, const uint64_t *offsets, uint64_t n, uint64_t *out,
                uint64_t *done);

/* ---- mgcmark.c: marking by graph ---- */
int mark_graph_reserve(pymem_heap *h); /* all that may fail of a start; the barrier is on then */
void mark_graph_start(pymem_heap *h);
int mark_graph_drain(pymem_heap *h, int64_t budget, pymem_mark_progress *out);
int mark_graph_stop(pymem_heap *h);
void mark_release(pymem_heap *h);
void mark_new_object(pymem_heap *h, mspan *s, uint32_t slot);      /* black */
void mark_shade(pymem_heap *h, const uint64_t *addrs, uint64_t n); /* white becomes grey; 0 is nothing */
bool mark_is_idle(const pymem_heap *h);
bool mark_is_marked(const pymem_heap *h, const mspan *s, uint32_t slot);

/* ---- mwbbuf.c: stores, and the write barrier's buffer ---- */
int memory_store(pymem_heap *h, const uint64_t *objects, const uint64_t *offsets, const uint64_t *targets, uint64_t n,
                 uint64_t *done);

/* ---- snapmark.c ---- */
void mark_stream(pymem_heap *h, stream *s); /* all that a mark under way knows, but for the pages' bits */

/* ---- mcheckmark.c ---- */
int mark_check(pymem_heap *h, uint64_t *path, uint64_t cap, uint64_t *n);
int mark_check_dead(pymem_heap *h); /* that nothing living points to what was declared dead */

/* ---- roots.c ---- */
int roots_new(pymem_heap *h, int kind, uint32_t *id);
int roots_set(pymem_heap *h, uint32_t id, uint64_t first, const uint64_t *addrs, uint64_t n);
int roots_resize(pymem_heap *h, uint32_t id, uint64_t n);
int roots_free(pymem_heap *h, uint32_t id);
root_set *roots_of(pymem_heap *h, uint32_t id); /* NULL: there is none; the message is set */

/* ---- mgcsweep.c ---- */
int sweep_span(pymem_heap *h, proc *p, mspan *s, bool preserve, bool *freed);
int sweep_one(pymem_heap *h, proc *p, mspan **swept, uint64_t *base); /* base 0: nothing left */
int sweep_some(pymem_heap *h, proc *p, uint64_t most, uint64_t *spans);
int sweep_all(pymem_heap *h, proc *p, uint64_t *spans); /* spans swept; may be NULL */
bool sweep_acquire(pymem_heap *h, mspan *s);
int sweep_recorded(pymem_heap *h, proc *p, uint64_t base, bool in_turn, bool *due); /* due: there was such a span */
int sweep_script(pymem_heap *h, proc *p, bool reclaimed); /* reclaimed: the reclaimer's part too */
int deduct_sweep_credit(pymem_heap *h, proc *p, uint64_t span_bytes, uint64_t caller_pages);
int reclaim(pymem_heap *h, proc *p, uint64_t npages);
void pace_sweeper(pymem_heap *h, uint64_t trigger);

/* ---- mcache.c ---- */
int mcache_refill(pymem_heap *h, proc *p, uint32_t span_class); /* may set stops.due */
int mcache_release_all(pymem_heap *h, proc *p, mcache *c);
int alloc_large(pymem_heap *h, proc *p, uint64_t size, bool noscan, mspan **out);
mcache *mcache_new(pymem_heap *h);

/* ---- stack.c ---- */
int stack_alloc(pymem_heap *h, proc *p, uint64_t n, bool cached, uint64_t *addr);
int stack_free(pymem_heap *h, proc *p, uint64_t addr, uint64_t n, bool cached);
void stack_cache_clear(pymem_heap *h, proc *p, mcache *c);
void stack_forget_span(pymem_heap *h, mspan *s);
void stack_free_spans(pymem_heap *h, proc *p);

/* ---- proc.c ---- */
int proc_new(pymem_heap *h, int32_t *id);
int proc_destroy(pymem_heap *h, proc *p, int32_t id);

/* ---- mgc.c ---- */
int gc_begin(pymem_heap *h, proc *p);
int gc_settle(pymem_heap *h, proc *p); /* the last cycle ends for good: stale caches flushed, all swept */
int gc_collect(pymem_heap *h, proc *p, const uint64_t *dead, uint64_t n, uint64_t *done, pymem_gc_result *out);
void gc_mark_record(pymem_heap *h);
void gc_mark_start(pymem_heap *h);
void gc_mark_stop(pymem_heap *h);
void gc_flip(pymem_heap *h);
void gc_end(pymem_heap *h, proc *p, bool forced);
int proc_flush(pymem_heap *h, proc *p, proc *owner);

/* ---- malloc.c ---- */
int heap_malloc(pymem_heap *h, proc *p, uint64_t size, bool noscan, uint32_t type, uint64_t *addr);
int heap_malloc_class(pymem_heap *h, proc *p, uint32_t span_class, uint64_t npages, uint32_t type, uint64_t *addr);
int heap_malloc_same(pymem_heap *h, proc *p, uint64_t size, bool noscan, uint32_t type, uint64_t n, uint64_t *addrs,
                     uint64_t *done);
int heap_malloc_each(pymem_heap *h, proc *p, const uint64_t *sizes, const uint8_t *noscan, int noscan_all,
                     const uint32_t *types, uint64_t n, uint64_t *addrs, uint64_t *done);
int heap_find_object(pymem_heap *h, uint64_t addr, mspan **span, uint32_t *slot);        /* living, exactly at addr */
int heap_declare_dead(pymem_heap *h, const uint64_t *addrs, uint64_t n, uint64_t *done); /* all or none */
void heap_undeclare_dead(pymem_heap *h, const uint64_t *addrs, uint64_t n);
int span_kill_slot(pymem_heap *h, mspan *s, uint32_t slot);
int span_set_type(pymem_heap *h, mspan *s, uint32_t slot, uint32_t type);
uint64_t span_object_addr(const mspan *s, uint32_t slot);

/* ---- compact.c: moving objects, which Go never does ---- */
int compact(pymem_heap *h, proc *p, double max_fill, const uint64_t *pins, uint64_t npins, pymem_moves *moves,
            pymem_compaction *out); /* moves NULL: only tells what it would do */

/* ---- restore.c ---- */
int restore_span(pymem_heap *h, uint64_t base, uint64_t npages, int kind, uint32_t span_class, mspan **out);
int restore_is_vacant(pymem_heap *h, uint64_t base, uint64_t npages);
int restore_object(pymem_heap *h, uint64_t addr, uint32_t type, uint64_t *object);
void restore_unswept(pymem_heap *h);
int restore_done(pymem_heap *h);
int restore_use(pymem_heap *h, proc *p, mspan *s);
uint32_t restore_slots_left(const pymem_heap *h, const mspan *s);
void restore_unsweep(pymem_heap *h, mspan *s);
mspan *restore_choose(pymem_heap *h, uint32_t span_class, uint32_t slots);
int restore_cached(pymem_heap *h, proc *p, uint64_t base, uint64_t npages, uint32_t span_class, uint32_t slot);
void restore_claim_page(pymem_heap *h, proc *p, uint64_t base);
void restore_adopt_block(pymem_heap *h, proc *p, uint64_t base, uint64_t npages);
int restore_page_block(pymem_heap *h, proc *p, uint64_t base, uint64_t npages);
void restore_large(pymem_heap *h, proc *p, mspan *s);
void restore_drop(pymem_heap *h, mspan *s);
void restore_rewind(mspan *s, uint32_t slot);
void restore_undo(pymem_heap *h, proc *p, uint64_t addr, bool fresh);

/* ---- check.c ---- */
int heap_check(pymem_heap *h);
int heap_check_cheap(pymem_heap *h);

/* ---- snapshot.c ---- */
int snapshot_write(pymem_heap *h, char *out, uint64_t cap, uint64_t *need);
int snapshot_read(pymem_heap *h, const char *data,
                  uint64_t n); /* into a heap just born; unfit for use after an error */
bool config_good(const pymem_config *c);

/* ---- replay.c ---- */
int replay_run(pymem_replay *r, const pymem_columns *columns, uint64_t *row, int *stopped);
pymem_heap *replay_heap(const pymem_replay *r);

/* ---- follow.c ---- */
int follow_run(pymem_follow *f, uint64_t rows, int *done);
pymem_heap *follow_heap(const pymem_follow *f);

/* ---- errors: the sentence goes into the handle, the status comes back ---- */
int fail(pymem_heap *h, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
