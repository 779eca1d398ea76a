/* The hash map of the trace reader: ids of M, strings, stacks and types to indices. One kind of map for all, since
 * nothing is ever deleted from one. */
#include <stdlib.h>
#include <string.h>
#include "trace_reader.h"

enum {
    MAP_FIRST_CAPACITY = 64,
    MAP_MAX_CAPACITY = 1 << 30,
    /* At half load a real trace's longest run is some dozens; ids made to collide must not make us slow. */
    MAP_MAX_PROBES = 4096
};

/* Every bit of the key reaches every bit of the result (the finaliser of the splitmix64 generator). */
static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* FNV-1a, continued from seed. */
uint64_t trace_hash_bytes(uint64_t seed, const char *bytes, uint32_t len) {
    uint64_t h = seed ^ UINT64_C(0xcbf29ce484222325);
    for (uint32_t i = 0; i < len; i++) h = (h ^ (uint8_t)bytes[i]) * UINT64_C(0x100000001b3);
    return h;
}

uint32_t trace_map_get(const struct trace_map *map, uint64_t key) {
    if (map->used == 0) return TRACE_NONE;
    uint32_t mask = map->capacity - 1;
    uint32_t i = (uint32_t)mix(key) & mask;
    while (map->values[i] != TRACE_NONE && map->keys[i] != key) i = (i + 1) & mask;
    return map->values[i];
}

/* The slot of key, or the free one where it goes; TRACE_NONE where the run is too long. */
static uint32_t find_slot(const struct trace_map *map, uint64_t key) {
    uint32_t mask = map->capacity - 1;
    uint32_t i = (uint32_t)mix(key) & mask;
    for (int probes = 0; probes < MAP_MAX_PROBES; probes++) {
        if (map->values[i] == TRACE_NONE || map->keys[i] == key) return i;
        i = (i + 1) & mask;
    }
    return TRACE_NONE;
}

static int allocate(trace_reader *r, struct trace_map *map, uint32_t capacity) {
    map->keys = trace_realloc(r, NULL, capacity * sizeof *map->keys);
    map->values = trace_realloc(r, NULL, capacity * sizeof *map->values);
    map->capacity = capacity;
    map->used = 0;
    if (map->keys == NULL || map->values == NULL) return 0;
    memset(map->values, 0xff, capacity * sizeof *map->values);
    return 1;
}

static int crowded(trace_reader *r) {
    return trace_fail(r, PYMEM_EFORMAT, r->pos,
                      "the ids in this generation's tables collide as no real trace's do: the file was tampered with");
}

static int widen(trace_reader *r, struct trace_map *map) {
    if (map->capacity >= MAP_MAX_CAPACITY)
        return trace_fail(r, PYMEM_EFORMAT, r->pos, "a table has more than %d entries", MAP_MAX_CAPACITY / 2);
    struct trace_map wider;
    if (!allocate(r, &wider, map->capacity ? map->capacity * 2 : MAP_FIRST_CAPACITY)) {
        trace_map_free(&wider);
        return trace_no_memory(r);
    }
    for (uint32_t i = 0; i < map->capacity; i++) {
        if (map->values[i] == TRACE_NONE) continue;
        uint32_t slot = find_slot(&wider, map->keys[i]);
        if (slot == TRACE_NONE) {
            trace_map_free(&wider);
            return crowded(r);
        }
        wider.keys[slot] = map->keys[i];
        wider.values[slot] = map->values[i];
    }
    wider.used = map->used;
    trace_map_free(map);
    *map = wider;
    return PYMEM_OK;
}

int trace_map_put(trace_reader *r, struct trace_map *map, uint64_t key, uint32_t value) {
    if (map->used >= map->capacity / 2) {
        int status = widen(r, map);
        if (status != PYMEM_OK) return status;
    }
    uint32_t slot = find_slot(map, key);
    if (slot == TRACE_NONE) return crowded(r);
    if (map->values[slot] != TRACE_NONE) return PYMEM_OK;
    map->keys[slot] = key;
    map->values[slot] = value;
    map->used++;
    return PYMEM_OK;
}

/* A map far larger than its last use needed is given back: else a thousand small generations after a large one would
 * each pay for clearing it. */
void trace_map_clear(struct trace_map *map) {
    if (map->capacity > MAP_FIRST_CAPACITY && map->used < map->capacity / 16) trace_map_free(map);
    else if (map->used != 0) memset(map->values, 0xff, map->capacity * sizeof *map->values);
    map->used = 0;
}

void trace_map_free(struct trace_map *map) {
    free(map->keys);
    free(map->values);
    memset(map, 0, sizeof *map);
}
