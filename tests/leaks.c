/* A heap's life from birth to end, again and again with each allocation inside failing once; .ci/sanitize builds it
 * with the core under LeakSanitizer. Prints one line, and exits with 1 where memory is left or a call does what it must
 * not. */
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

int main(void) {
    for (uint32_t n = 1; n <= 2; n++) {
        pymem_config config = {.arena_base = 0xc000000000, .address_space = 1ull << 40, .birth_fault = n};
        pymem_heap *h;
        if (pymem_heap_new(&config, &h) != PYMEM_ENOMEM) return 1;
    }
    int64_t faults = 0;
    while (life(faults)) faults++;
    printf("%lld faults, nothing left behind\n", (long long)faults);
    return faults > 100 ? 0 : 1;
}
