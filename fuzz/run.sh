#!/bin/sh
# Fuzzes the trace reader and the converter to rows: fuzz/run.sh SECONDS. With clang (installed if this is Debian or Ubuntu and we may) by libFuzzer,
# else with gcc by the small driver beside this file; under AddressSanitizer and UndefinedBehaviorSanitizer either way.
# Exit code 0: nothing found. FUZZ_ENGINE=gcc asks for the driver.
set -eu
seconds=${1:-60}
here=$(cd "$(dirname "$0")" && pwd)
work=${FUZZ_DIR:-$here/build}
mkdir -p "$work/corpus"
cd "$work"

sources="$here/fuzz_trace_reader.c $(echo "$here"/../csrc/*.c)"
flags="-std=gnu11 -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=undefined -I$here/../csrc -pthread"

has_libfuzzer() { echo 'int LLVMFuzzerTestOneInput(const char *d, long n); int LLVMFuzzerTestOneInput(const char *d, long n)
{ return d && n < 0; }' | clang -fsanitize=fuzzer,address -x c - -o probe 2>/dev/null; }

install_clang() {
    test "$(id -u)" = 0 && command -v apt-get >/dev/null || return 1
    # The runtime is a package of its own whose name has clang's version in it; older ones have it in clang's.
    { apt-get update -q && apt-get install -qy --no-install-recommends clang; } >apt.log 2>&1 || return 1
    version=$(clang -dumpversion | cut -d. -f1)
    apt-get install -qy --no-install-recommends "libclang-rt-$version-dev" >>apt.log 2>&1 || true
}

${PYTHON:-python3} "$here/make_corpus.py" corpus
engine=${FUZZ_ENGINE:-clang}
if [ "$engine" = clang ] && ! has_libfuzzer; then
    install_clang && has_libfuzzer || engine=gcc
fi
if [ "$engine" = clang ]; then
    clang $flags -fsanitize=fuzzer,address,undefined $sources -o fuzz_trace_reader
    mkdir -p found
    exec ./fuzz_trace_reader -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
        -print_final_stats=1 found corpus
fi
${CC:-gcc} $flags -fsanitize=address,undefined $sources "$here/driver.c" -o fuzz_driver
exec ./fuzz_driver "$seconds" corpus/*.trace
