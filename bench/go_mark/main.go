// Command mark builds a graph and, for each line it reads, collects by force and answers with the nanoseconds of
// processor time that took; for the graph sweep, with those between the end of marking and that of the sweep, by the
// clock. bench/vs_go_mark.py does the same in the emulator. The collector is off in between.
//
// Usage: mark GRAPH OBJECTS
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
)

type (
	node struct{ left, right *node }
	cell struct {
		next  *cell
		value int
	}
	vertex struct{ out [4]*vertex }
)

func mix(i uint64) uint64 {
	z := i * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// tree allocates a node before its children, the left one first.
func tree(n int) *node {
	if n == 0 {
		return nil
	}
	p := new(node)
	p.left = tree((n - 1) / 2)
	p.right = tree(n - 1 - (n-1)/2)
	return p
}

func list(n int) (head *cell) {
	for i := range n {
		head = &cell{head, i}
	}
	return head
}

func graph(n int) []*vertex {
	all := make([]*vertex, n)
	for i := range all {
		all[i] = new(vertex)
	}
	for i, v := range all {
		for k := range v.out {
			v.out[k] = all[mix(uint64(4*i+k))%uint64(n)]
		}
	}
	return all
}

func array(n int) []*[2]int {
	all := make([]*[2]int, n)
	for i := range all {
		all[i] = new([2]int)
	}
	return all
}

// halve gives every other object a new one, and drops it.
func halve(all []*[2]int) {
	for i := 1; i < len(all); i += 2 {
		all[i] = new([2]int)
	}
	for i := 1; i < len(all); i += 2 {
		all[i] = nil
	}
}

func processorTime() int64 {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return r.Utime.Nano() + r.Stime.Nano()
}

var held any

func main() {
	debug.SetGCPercent(-1)
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	switch os.Args[1] {
	case "tree":
		held = tree(n)
	case "list":
		held = list(n)
	case "graph":
		held = graph(n)
	case "array", "sweep":
		held = array(n)
	}
	sweep := os.Args[1] == "sweep"
	runtime.GC()
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		if sweep {
			halve(held.([]*[2]int))
		}
		start := processorTime()
		runtime.GC()
		elapsed, end := processorTime()-start, time.Now().UnixNano()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if sweep {
			elapsed = end - int64(m.LastGC)
		}
		fmt.Println(elapsed, m.HeapObjects)
	}
}
