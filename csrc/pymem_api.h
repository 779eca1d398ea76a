/* The one header between C and Python. cffi reads this very file as its cdef, so it holds plain declarations
 * only: constants as enums, opaque handles, flat structs. api.c validates every argument; nothing below it does.
 * Units: bytes, unless a name says pages (8,192 bytes) or words (8 bytes). Addresses are emulated ones. */

/* ---- status ---- */
enum pymem_status {
    PYMEM_OK = 0,
    PYMEM_ENOMEM,   /* this machine is out of memory (or a fault was injected); the heap is as before the call */
    PYMEM_ELIMIT,   /* the emulated address space is used up */
    PYMEM_EINVAL,   /* an argument out of its range */
    PYMEM_EADDRESS, /* not a live object of this heap */
    PYMEM_EBUSY,    /* another thread is inside this heap */
    PYMEM_ETHROW,   /* a broken invariant: the heap can no longer be trusted */
    PYMEM_EFORMAT   /* input that does not follow its format */
};

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
 *   GO_*          a goroutine created, started or switched to;  GO_BLOCK, GO_STOP: b string index of the reason
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
    int64_t *g;    /* goroutine that was running on the event's thread just before the event, -1 for none known */
    int16_t *p;    /* P that the thread held just before the event, -1 for none known */
    uint16_t *c;
    uint8_t *kind; /* enum trace_kind */
} trace_columns;

/* What is known so far; complete once trace_next has said done. */
typedef struct {
    uint32_t version;     /* minor version in the header: 22 to 27 */
    uint32_t generations; /* read so far, with the one being read */
    uint32_t num_types;   /* type indices in use are below this; 0 is "no type" */
    uint32_t num_strings; /* string indices in use are below this; 0 is the empty or unknown string */
    uint32_t threads;     /* Ms seen */
    uint32_t incomplete;  /* 1: the last generation was cut short, at incomplete_offset */
    uint32_t frequency_assumed; /* 1: the clock's frequency was lost in the cut and is taken to be Go's usual one */
    uint32_t has_heap_info;     /* 1: the trace says where the heap begins, so addresses are real */
    uint64_t incomplete_offset;
    uint64_t position;    /* bytes of the block that are behind the reader, for progress */
    uint64_t length;      /* bytes of the block */
    int64_t duration_ns;  /* time of the last event of any kind */
    int64_t start_ns;     /* the program's monotonic clock at time 0 */
    uint64_t frequency;   /* ticks a second of the generation being read */
    int64_t wall_ns;      /* wall clock at time 0, ns since 1970; 0 where the trace has none (before Go 1.25) */
    uint64_t min_heap_addr;
    uint64_t page_size;   /* bytes, as the two that follow */
    uint64_t heap_align;
    uint64_t stack_align;
    uint64_t events;      /* timed events of any kind decoded */
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

/* Makes a reader of data[0:len] that selects the kinds whose bits (1 << kind) are set. *out is set in every
 * case but PYMEM_ENOMEM, so that the text of the error can be read, and is to be closed. PYMEM_EFORMAT: no
 * execution trace, or one of a Go that this reader does not know. */
int trace_open(const uint8_t *data, uint64_t len, uint64_t kind_mask, trace_reader **out);

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
