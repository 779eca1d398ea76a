// What GODEBUG=gctrace=1,gcpacertrace=1,scavtrace=1 prints: a program in which every form of the lines comes up.
// Concurrent cycles over a growing and a shrinking heap, forced ones, one that looks for leaked goroutines (Go 1.27),
// deep stacks, memory given back on demand, a limit that binds. It builds with Go 1.21 and newer.
package main

import (
	"io"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"time"
)

type node struct {
	left, right *node
	pad         [4]uint64
}

func tree(depth int) *node {
	if depth == 0 {
		return &node{}
	}
	return &node{left: tree(depth - 1), right: tree(depth - 1)}
}

var (
	keep  []any
	table [1 << 18]*node // 2 MB of globals to scan
)

func churn(bytes int) {
	for n := 0; n < bytes; n += 4096 {
		keep[n/4096%len(keep)] = make([]byte, 4096)
	}
}

// deep holds a stack of some MB while a cycle runs.
func deep(n int) int {
	var frame [1024]byte
	frame[n%1024] = byte(n)
	if n == 0 {
		runtime.GC()
		return int(frame[0])
	}
	return deep(n-1) + int(frame[n%1024])
}

func main() {
	keep = make([]any, 64)
	for i := range table {
		table[i] = &node{}
	}
	for depth := 12; depth < 19; depth++ {
		keep = append(keep, tree(depth))
		churn(8 << 20)
	}
	runtime.GC()
	deep(4000)
	keep = keep[:66]
	churn(64 << 20)
	debug.FreeOSMemory()
	debug.SetGCPercent(20)
	churn(32 << 20)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(24 << 20)
	churn(32 << 20)
	time.Sleep(20 * time.Millisecond)
	if p := pprof.Lookup("goroutineleak"); p != nil {
		p.WriteTo(io.Discard, 0)
	}
	debug.FreeOSMemory()
}
