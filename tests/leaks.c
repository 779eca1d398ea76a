/* A heap's life from birth to end, again and again with each allocation inside failing once; .ci/sanitize builds it
 * with the core under LeakSanitizer. Then the same with a trace, the program's argument, read and made into rows.
 * Prints one line, and exits with 1 where memory is left or a call does what it must not. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include "pymem_api.h"

enum { N = 3000 };

static uint64_t addrs[N];

static uint8_t kinds[N + 1];
static uint8_t flags[N + 1];
static int16_t procs[N + 1];
static uint32_t types[N + 1];
static uint64_t objects[N + 1], sizes[N + 1];

static int replay(pymem_heap *h) {
    pymem_replay *r;
    for (uint64_t i = 0; i < N; i++) {
        kinds[i] = PYMEM_EV_ALLOC;
        sizes[i] = i % 900 + 1;
        objects[i] = i;
        types[i] = i % 2;
    }
    pymem_columns c = {
        .kind = kinds, .flags = flags, .proc = procs, .type = types, .object = objects, .size = sizes, .n = N};
    uint64_t row = 0;
    int stopped, rc = pymem_replay_new(h, PYMEM_REPLAY_TURNS, 1, &r);
    if (rc) return rc;
    rc = pymem_replay_run(r, &c, &row, &stopped);
    pymem_replay_free(r);
    return rc;
}

/* The heap as it stands to bytes and back, the n-th allocation of that failing. Returns whether it failed. */
static int copy(pymem_heap *h, int64_t fault) {
    uint64_t need;
    pymem_heap *other;
    if (pymem_snapshot(h, NULL, 0, &need)) exit(1);
    char *data = malloc(need);
    if (!data || pymem_snapshot(h, data, need, &need)) exit(1);
    int rc = pymem_restore(data, need, fault, &other);
    if (rc && rc != PYMEM_ENOMEM) exit(1);
    pymem_heap_free(other);
    for (uint64_t cut = 0; !rc && cut < need; cut += need / 50 + 1) {
        if (pymem_restore(data, cut, -1, &other) != PYMEM_EFORMAT) exit(1);
        pymem_heap_free(other);
    }
    free(data);
    return rc != PYMEM_OK;
}

static int work(pymem_heap *h) {
    uint64_t done, stack;
    int32_t p;
    pymem_gc_result result;
    int rc = pymem_proc_new(h, &p);
    if (!rc) rc = pymem_proc_new(h, &p);
    if (!rc) rc = pymem_stack_alloc(h, 0, 2048, 1, &stack);
    if (!rc) rc = pymem_stack_alloc(h, 0, 65536, 1, &stack);
    if (!rc) rc = pymem_malloc_same(h, 1, 100, 0, 7, N, addrs, &done);
    if (!rc) rc = pymem_gc_collect(h, 0, addrs, N / 2, &done, &result);
    if (!rc) rc = pymem_malloc_same(h, 0, 5, 1, 0, N, addrs, &done);
    if (!rc) rc = pymem_malloc_same(h, 0, 1 << 20, 1, 3, 100, addrs, &done);
    if (!rc) rc = pymem_mark_dead(h, addrs, 50, &done);
    if (!rc) rc = pymem_proc_destroy(h, 1);
    return rc ? rc : replay(h);
}

/* Returns whether the fault struck. Each heap is freed in the state that the fault left. */
static int life(int64_t fault) {
    pymem_config config = {.arena_base = 0xc000000000, .address_space = 1ull << 40, .padding_pages = 5};
    pymem_heap *h;
    if (pymem_heap_new(&config, &h)) exit(1);
    pymem_fault_after(h, fault);
    int rc = work(h);
    if ((rc && rc != PYMEM_ENOMEM) || pymem_heap_check(h)) {
        printf("fault %lld: status %d, %s\n", (long long)fault, rc, pymem_heap_message(h));
        exit(1);
    }
    pymem_fault_after(h, -1);
    for (int64_t n = 0; !rc && copy(h, n); n++) continue;
    pymem_heap_free(h);
    return rc != PYMEM_OK;
}

static uint8_t trace[1 << 22];

static int convert(trace_rows *rows, const trace_columns *events, uint64_t n, int *started) {
    static int64_t time[N];
    static uint32_t goroutine[N];
    static uint64_t expect[N];
    trace_rows_out out = {time, kinds, flags, procs, goroutine, types, objects, sizes, expect, 0, N};
    int stop = TRACE_ROWS_FULL, rc = 0;
    for (uint64_t at = 0, dead; !rc && stop != TRACE_ROWS_USED; out.n = 0) {
        rc = trace_rows_run(rows, events, n, &at, &out, &stop);
        if (stop == TRACE_ROWS_START && !*started) trace_rows_started(rows, *started = 1, &out);
        if (stop != TRACE_ROWS_CYCLE) continue;
        for (dead = at, out.n = 0; !rc && dead < n; out.n = 0) rc = trace_rows_dead(rows, events, n, &dead, &out);
        trace_rows_cycle(rows, 10);
    }
    return rc;
}

static int read_trace(uint64_t len, int64_t *faults) {
    static int64_t time[N], g[N];
    static uint64_t a[N], b[N];
    static int16_t p[N];
    static uint16_t c[N];
    static uint8_t kind[N];
    const trace_columns columns = {time, a, b, g, p, c, kind};
    trace_reader *r;
    trace_rows *rows = NULL;
    int64_t count;
    int started = 0, done = 0, rc = trace_open(trace, len, UINT64_MAX, faults, &r);
    if (!rc) rc = trace_rows_new(2, 0, faults, &rows);
    while (!rc && !done) {
        rc = trace_next(r, &columns, N, &count, &done);
        if (!rc) rc = convert(rows, &columns, (uint64_t)count, &started);
    }
    trace_rows_free(rows);
    trace_close(r);
    return rc;
}

/* Returns how many faults it took. */
static int64_t traces(const char *path) {
    FILE *f = fopen(path, "rb");
    uint64_t len = f ? fread(trace, 1, sizeof trace, f) : 0;
    int rc = PYMEM_ENOMEM;
    int64_t n = 0;
    for (; rc == PYMEM_ENOMEM; n++) rc = read_trace(len, &(int64_t){n});
    if (f) fclose(f);
    if (rc) printf("%s: status %d\n", path, rc);
    return rc ? 0 : n;
}

int main(int argc, char **argv) {
    for (uint32_t n = 1; n <= 2; n++) {
        pymem_config config = {.arena_base = 0xc000000000, .address_space = 1ull << 40, .birth_fault = n};
        pymem_heap *h;
        if (pymem_heap_new(&config, &h) != PYMEM_ENOMEM) return 1;
    }
    int64_t faults = 0;
    while (life(faults)) faults++;
    int64_t more = traces(argc > 1 ? argv[1] : "");
    printf("%lld faults in a heap, %lld in a trace, nothing left behind\n", (long long)faults, (long long)more);
    return faults > 100 && more > 20 ? 0 : 1;
}
