// Costs times what the memory manager does, one thing a run, and prints a line of JSON: what was done and the
// nanoseconds of this process's processor time that it took, so that other programs on the machine hardly matter.
//
//	costs malloc SIZE | mark SHAPE | sweep | scavenge | scavenge-runs | events FILE
package main

import (
	"encoding/json"
	"log"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/trace"
	"strconv"
	"syscall"
)

// result has counts of what was done, by which bench/costs.py divides.
type result struct {
	NS      float64 `json:"ns"`
	Objects uint64  `json:"objects,omitempty"`
	Bytes   uint64  `json:"bytes,omitempty"` // of slots; of scan work where something is marked
	Spans   uint64  `json:"spans,omitempty"`
	Pages   uint64  `json:"pages,omitempty"`
}

func cpu() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return float64(usage.Utime.Nano() + usage.Stime.Nano())
}

var sink []byte

// malloc takes 512 MB in objects of one size, without pointers; the collector is off.
func malloc(size int) result {
	n := (512 << 20) / size
	before := cpu()
	for range n {
		sink = make([]byte, size)
	}
	return result{NS: cpu() - before, Objects: uint64(n), Bytes: uint64(n * size)}
}

type node struct{ next, other *node }

type wide struct {
	next *wide
	more [31]*wide
}

func grow(depth int) *node {
	if depth == 0 {
		return &node{}
	}
	return &node{grow(depth - 1), grow(depth - 1)}
}

var (
	nodes *node
	root  *node
	wides *wide
	bare  [][]byte
)

// mark collects a heap of one shape, eight times; what sweeping takes is in it, and is small.
func mark(shape string) result {
	const n = 1 << 20
	switch shape {
	case "small": // objects of 16 bytes
		for range n {
			nodes = &node{next: nodes}
		}
	case "wide": // objects of 256 bytes, nearly all of them pointers
		for range n / 8 {
			wides = &wide{next: wides}
			for i := range wides.more {
				wides.more[i] = wides
			}
		}
	case "bare": // objects of 64 bytes without pointers, in one array of slices
		bare = make([][]byte, n)
		for i := range bare {
			bare[i] = make([]byte, 64)
		}
	case "tree": // a full binary tree, made depth first
		root = grow(19)
	case "nothing":
	default:
		log.Fatal("unknown shape " + shape)
	}
	runtime.GC()
	runtime.GC()
	const times = 8
	before := cpu()
	for range times {
		runtime.GC()
	}
	took := (cpu() - before) / times
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return result{NS: took, Objects: m.HeapObjects, Bytes: scanned(), Spans: m.HeapInuse / 8192}
}

// sweep collects a heap of spans that all die against one of none: what it takes longer is sweeping and freeing them.
func sweep() result {
	const n = 1 << 20
	kept := make([]*[64]byte, n)
	for i := range kept {
		kept[i] = new([64]byte)
	}
	runtime.GC()
	clear(kept)
	collect := func() float64 {
		before := cpu()
		runtime.GC()
		return cpu() - before
	}
	with := collect()
	without := collect()
	runtime.KeepAlive(kept)
	return result{NS: with - without, Spans: n * 64 / 8192}
}

// scavenge gives back pages, every other run of 16 of them free, or all of them in one run.
func scavenge(runs bool) result {
	const n = 4096
	blocks := make([][]byte, n)
	for i := range blocks {
		blocks[i] = make([]byte, 16*8192)
		for at := 0; at < len(blocks[i]); at += 4096 {
			blocks[i][at] = 1
		}
	}
	if runs {
		for i := 0; i < n; i += 2 {
			blocks[i] = nil
		}
	} else {
		for i := range n / 2 {
			blocks[i] = nil
		}
	}
	runtime.GC()
	runtime.GC()
	least, before := released(), cpu()
	debug.FreeOSMemory()
	both := cpu() - before
	pages := (released() - least) / 8192
	before = cpu()
	runtime.GC()
	alone := cpu() - before
	runtime.KeepAlive(blocks)
	spans := uint64(1)
	if runs {
		spans = n / 2
	}
	return result{NS: both - alone, Pages: pages, Spans: spans}
}

// events takes a million objects of mixed sizes; given a file it traces itself into that, unless it is called none.
func events(file string) result {
	if file != "none" {
		f, err := os.Create(file)
		if err == nil {
			err = trace.Start(f)
		}
		if err != nil {
			log.Fatal(err)
		}
		defer trace.Stop()
	}
	const n = 1 << 20
	before := cpu()
	for i := range n {
		sink = make([]byte, 16+i%240)
	}
	return result{NS: cpu() - before, Objects: n}
}

func released() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapReleased
}

func main() {
	debug.SetGCPercent(-1)
	if len(os.Args) < 2 {
		log.Fatal("usage: costs malloc SIZE | mark SHAPE | sweep | scavenge | scavenge-runs | events FILE")
	}
	var out result
	switch os.Args[1] {
	case "malloc":
		size, err := strconv.Atoi(os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		out = malloc(size)
	case "mark":
		out = mark(os.Args[2])
	case "sweep":
		out = sweep()
	case "events":
		out = events(os.Args[2])
	case "scavenge", "scavenge-runs":
		out = scavenge(os.Args[1] == "scavenge-runs")
	default:
		log.Fatal("unknown cost " + os.Args[1])
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatal(err)
	}
}
