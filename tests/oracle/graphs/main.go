// graphs builds structures, drops parts of them, and says after each step what a forced collection marked and freed. Run
// with GOMAXPROCS=1; tests/test_graph_oracle.py builds the same structures on the emulator. All that a program keeps
// hangs on one global variable, so that no stack holds a part of it.
//
// Two more numbers say how many collections come before, and how many pages hold an object more that has nothing to do
// with the program: what full pages come to at a scan depends on both.
//
//	graphs PROGRAM [COLLECTIONS PAGES]
package main

import (
	"encoding/json"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"time"
	"unsafe"
)

// programs call step after each of their steps.
var programs = map[string]func(step func(string)){
	"nothing": func(step func(string)) { step("nothing") },
	"tree":    tree,
	"bush":    bush,
	"list":    list,
	"ring":    ring,
	"table":   table,
	"lru":     lru,
	"shapes":  shapes,
}

// root keeps a structure reachable.
var root unsafe.Pointer

// random is a linear congruential generator: the same numbers here and in Python.
type random uint64

func (r *random) next(n int) int {
	*r = *r*6364136223846793005 + 1442695040888963407
	return int(uint64(*r) >> 33 % uint64(n))
}

// row is the state after a forced collection, counted from the program's start.
type row struct {
	Step    string `json:"step"`
	Objects int64  `json:"objects"` // that live
	Bytes   int64  `json:"bytes"`   // of their slots
	Marked  int64  `json:"marked"`  // bytes, as the collector counts them
	Scan    int64  `json:"scan"`    // bytes of heap scanned
	Mallocs int64  `json:"mallocs"`
	Frees   int64  `json:"frees"`
}

var samples = []metrics.Sample{{Name: "/gc/scan/heap:bytes"}, {Name: "/gc/heap/live:bytes"}}

func collect(step string) row {
	runtime.GC()
	metrics.Read(samples)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	scan, marked := int64(samples[0].Value.Uint64()), int64(samples[1].Value.Uint64())
	return row{step, int64(m.HeapObjects), int64(m.HeapAlloc), marked, scan, int64(m.Mallocs), int64(m.Frees)}
}

func (r row) since(start row) row {
	return row{r.Step, r.Objects - start.Objects, r.Bytes - start.Bytes, r.Marked - start.Marked, r.Scan - start.Scan,
		r.Mallocs - start.Mallocs, r.Frees - start.Frees}
}

var (
	start row
	rows  = make([]row, 0, 64)
)

// company keeps objects of pointers alive, each of another size class.
var company [6]unsafe.Pointer

func number(arg, otherwise int) int {
	if arg >= len(os.Args) {
		return otherwise
	}
	n, err := strconv.Atoi(os.Args[arg])
	if err != nil {
		panic(err)
	}
	return n
}

func main() {
	debug.SetGCPercent(-1)
	program := programs[os.Args[1]]
	for i := range number(3, 0) {
		company[i] = reflect.New(reflect.ArrayOf(40+4*i, reflect.TypeFor[*int]())).UnsafePointer()
	}
	for range number(2, 5) { // what the runtime's own goroutines allocate for themselves they have after this
		start = collect("start")
		time.Sleep(5 * time.Millisecond)
	}
	program(func(step string) { rows = append(rows, collect(step).since(start)) })
	json.NewEncoder(os.Stdout).Encode(rows)
}
