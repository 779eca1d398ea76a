#!/bin/sh
# Records the traces beside this folder: record.sh GO122 GO123 GO125 GO127, each the path of a go command.
set -eu
cd "$(dirname "$0")"
export GODEBUG=traceallocfree=1 GOTOOLCHAIN=local
program=$(mktemp)

# record GO GOMAXPROCS TRACE MODE. At two Ps a goroutine that waits for the collector may yield thousands of times: such
# a recording is too large to keep and is made again.
record() {
    GODEBUG= "$1" build -o "$program" .
    while :; do
        GOMAXPROCS=$2 "$program" "../$3.trace" $4 || test "$4" = kill
        test "$(wc -c <"../$3.trace")" -gt 50000 || break
    done
}

record "$1" 1 go122 ""
record "$2" 1 go123 ""
record "$2" 2 go123_killed kill
record "$3" 2 go125 second
record "$4" 1 go127 ""
record "$4" 2 go127_second second
record "$4" 2 go127_killed kill
rm -f "$program"
