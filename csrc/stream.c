/* Numbers to bytes and back, for snapshots. Whoever describes a struct does it once, field by field; the same walk then
 * counts the bytes, writes them, or reads them back. Small numbers take one byte, tables of bits and of object memory
 * only their words that are not 0. A reader believes nothing: each number has a bound, and after the first that is out
 * of bounds, or missing, all others are 0, so that loops come to their end. */
#include <string.h>
#include "internal.h"

enum { GROUP = 64 /* words that share a bitmap */ };

typedef unsigned long long ull;

void stream_wrong(stream *s, const char *what) {
    if (s->status) return;
    s->status = fail(s->h, PYMEM_EFORMAT, "byte %llu of the heap: %s", (ull)s->at, what);
}

void stream_no_memory(stream *s) {
    if (!s->status) s->status = fail(s->h, PYMEM_ENOMEM, "no memory for the heap of a snapshot");
}

uint64_t stream_left(const stream *s) { return s->status ? 0 : s->end - s->at; }

/* ---- bytes ---- */

static void put(stream *s, const void *bytes, uint64_t n) {
    if (s->out && n <= s->end && s->at <= s->end - n) memcpy(s->out + s->at, bytes, n);
    s->at += n;
}

static bool get(stream *s, void *bytes, uint64_t n) {
    if (n > stream_left(s)) {
        stream_wrong(s, "it ends too early");
        return false;
    }
    memcpy(bytes, s->in + s->at, n);
    s->at += n;
    return true;
}

/* ---- numbers: 7 bits a byte, the lowest first; the highest bit says that more follow ---- */

static void put_number(stream *s, uint64_t v) {
    if (v < 0x80 && s->out && s->at < s->end) { /* most are */
        s->out[s->at++] = (uint8_t)v;
        return;
    }
    uint8_t bytes[10];
    uint64_t n = 0;
    for (; v >= 0x80; v >>= 7) bytes[n++] = (uint8_t)(v | 0x80);
    bytes[n++] = (uint8_t)v;
    put(s, bytes, n);
}

static uint64_t get_number(stream *s) {
    if (stream_left(s) && s->in[s->at] < 0x80) return s->in[s->at++];
    uint64_t v = 0;
    uint8_t byte = 0x80;
    for (uint32_t shift = 0; shift < 64 && byte & 0x80 && get(s, &byte, 1); shift += 7)
        v |= (uint64_t)(byte & 0x7f) << shift;
    if (byte & 0x80) stream_wrong(s, "a number without end");
    return v;
}

void stream_number(stream *s, uint64_t *v, uint64_t most) {
    if (!s->reading) {
        put_number(s, *v);
        return;
    }
    *v = get_number(s);
    if (*v > most) stream_wrong(s, "a number is out of its bounds");
    if (s->status) *v = 0;
}

/* Near 0 on either side is short: 0, -1, 1, -2 ... are 0, 1, 2, 3 ... */
void stream_signed(stream *s, int64_t *v) {
    uint64_t u = (uint64_t)*v << 1 ^ (uint64_t)(*v >> 63);
    stream_number(s, &u, UINT64_MAX);
    if (s->reading) *v = (int64_t)(u >> 1 ^ -(u & 1));
}

/* ---- tables of words: which of 64 are not 0, then those ---- */

static void put_group(stream *s, const uint64_t *words, uint64_t n) {
    uint64_t map = 0, used = 0, kept[GROUP];
    for (uint64_t i = 0; i < n; i++) {
        kept[used] = words[i];
        map |= (uint64_t)(words[i] != 0) << i;
        used += words[i] != 0;
    }
    put(s, &map, sizeof map);
    put(s, kept, used * sizeof *kept);
}

static void get_group(stream *s, uint64_t *words, uint64_t n) {
    uint64_t map;
    if (!get(s, &map, sizeof map)) return;
    if (n < GROUP && map >> n) stream_wrong(s, "words beyond a table's end");
    for (; map && !s->status; map &= map - 1) get(s, &words[__builtin_ctzll(map)], sizeof *words);
}

/* What is read into must be 0 before. */
void stream_words(stream *s, uint64_t *words, uint64_t n) {
    for (uint64_t i = 0; i < n && !s->status; i += GROUP) {
        uint64_t some = n - i < GROUP ? n - i : GROUP;
        if (s->reading) get_group(s, words + i, some);
        else put_group(s, words + i, some);
    }
}

/* ---- tables with runs of one value ---- */

static uint64_t element(const void *array, uint64_t i, uint32_t width) {
    switch (width) {
    case 1: return ((const uint8_t *)array)[i];
    case 2: return ((const uint16_t *)array)[i];
    case 4: return ((const uint32_t *)array)[i];
    default: return ((const uint64_t *)array)[i];
    }
}

static void set_elements(void *array, uint64_t i, uint64_t n, uint32_t width, uint64_t v) {
    for (uint64_t end = i + n; i < end; i++) {
        if (width == 1) ((uint8_t *)array)[i] = (uint8_t)v;
        else if (width == 2) ((uint16_t *)array)[i] = (uint16_t)v;
        else if (width == 4) ((uint32_t *)array)[i] = (uint32_t)v;
        else ((uint64_t *)array)[i] = v;
    }
}

static uint64_t run_length(const void *array, uint64_t i, uint64_t n, uint32_t width) {
    uint64_t first = element(array, i, width), end = i + 1;
    while (end < n && element(array, end, width) == first) end++;
    return end - i;
}

/* width: bytes an element */
void stream_runs(stream *s, void *array, uint64_t n, uint32_t width) {
    for (uint64_t i = 0, run; i < n && !s->status; i += run) {
        uint64_t v = s->reading ? 0 : element(array, i, width);
        run = s->reading ? 0 : run_length(array, i, n, width);
        stream_number(s, &v, width == 8 ? UINT64_MAX : (1ull << 8 * width) - 1);
        stream_number(s, &run, n - i);
        if (!s->reading) continue;
        if (!run) stream_wrong(s, "a run of nothing");
        set_elements(array, i, run, width, v);
    }
}
