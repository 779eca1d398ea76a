/* A small fuzzer for compilers without libFuzzer: driver SECONDS FILE... runs the harness on each file, then on
 * mutations of them until the time is up. A run that dies leaves its input in crash.trace; one of over 10 s counts as a
 * hang. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_INPUT = 1 << 17, MAX_FILES = 4096, HANG_SECONDS = 10 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
#if defined(__SANITIZE_ADDRESS__)
void __sanitizer_set_death_callback(void (*callback)(void));
#else
static void __sanitizer_set_death_callback(void (*callback)(void)) { (void)callback; }
#endif

struct input {
    uint8_t *bytes;
    size_t size;
};

static struct input files[MAX_FILES];
static size_t num_files;
static struct input current;
static uint64_t seed = 1;

/* xorshift64*. */
static uint64_t rnd(void) {
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * UINT64_C(0x2545f4914f6cdd1d);
}

static size_t below(size_t n) { return n == 0 ? 0 : rnd() % n; }

static void save_input(void) {
    FILE *f = fopen("crash.trace", "wb");
    if (f == NULL) return;
    fwrite(current.bytes, 1, current.size, f);
    fclose(f);
    fprintf(stderr, "the input is in crash.trace (%zu bytes)\n", current.size);
}

static void on_signal(int number) {
    fprintf(stderr, number == SIGALRM ? "hangs\n" : "died of signal %d\n", number);
    save_input();
    _exit(1);
}

static void load(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f == NULL || num_files == MAX_FILES) {
        perror(path);
        exit(2);
    }
    struct input *in = &files[num_files++];
    in->bytes = malloc(MAX_INPUT);
    in->size = fread(in->bytes, 1, MAX_INPUT, f);
    fclose(f);
}

static void flip_bits(struct input *in) {
    for (size_t n = 1 + below(4); n-- > 0 && in->size > 0;) in->bytes[below(in->size)] ^= (uint8_t)(1 << below(8));
}

static void set_bytes(struct input *in) {
    static const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xff, 49, 52, 128, 132, 255};
    for (size_t n = 1 + below(12), at = below(in->size); n-- > 0 && at < in->size; at++)
        in->bytes[at] = odd[below(sizeof odd)];
}

static void truncate_input(struct input *in) { in->size = below(in->size + 1); }

/* A stretch of another file over, or into, this one. */
static void splice(struct input *in) {
    const struct input *other = &files[below(num_files)];
    size_t from = below(other->size), n = below(other->size - from), at = below(in->size);
    if (n > MAX_INPUT - in->size) n = MAX_INPUT - in->size;
    if (rnd() & 1) {
        memmove(in->bytes + at + n, in->bytes + at, in->size - at);
        in->size += n;
    } else if (n > in->size - at) {
        n = in->size - at;
    }
    memcpy(in->bytes + at, other->bytes + from, n);
}

static void remove_stretch(struct input *in) {
    size_t at = below(in->size), n = below(in->size - at);
    memmove(in->bytes + at, in->bytes + at + n, in->size - at - n);
    in->size -= n;
}

static void mutate(struct input *in) {
    static void (*const ways[])(struct input *) = {flip_bits,      flip_bits, set_bytes,
                                                   truncate_input, splice,    remove_stretch};
    for (size_t n = 1 + below(3); n-- > 0;) ways[below(sizeof ways / sizeof *ways)](in);
}

/* A block of exactly the input's size, so that the sanitizer sees a byte too far. */
static void run(const struct input *in) {
    current.size = in->size;
    current.bytes = malloc(in->size ? in->size : 1);
    memcpy(current.bytes, in->bytes, in->size);
    alarm(HANG_SECONDS);
    LLVMFuzzerTestOneInput(current.bytes, current.size);
    alarm(0);
    free(current.bytes);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s SECONDS FILE...\n", argv[0]);
        return 2;
    }
    signal(SIGALRM, on_signal);
    signal(SIGABRT, on_signal);
    signal(SIGSEGV, on_signal);
    __sanitizer_set_death_callback(save_input);
    for (int i = 2; i < argc; i++) {
        load(argv[i]);
        run(&files[num_files - 1]);
    }
    struct input scratch = {malloc(MAX_INPUT), 0};
    long runs = 0;
    for (time_t end = time(NULL) + atol(argv[1]); time(NULL) < end; runs++) {
        const struct input *in = &files[below(num_files)];
        memcpy(scratch.bytes, in->bytes, scratch.size = in->size);
        mutate(&scratch);
        run(&scratch);
    }
    printf("%ld mutations of %zu files: no crash, no hang\n", runs, num_files);
    return 0;
}
