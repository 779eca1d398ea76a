// Command graphs builds a graph in real Go, collects twice by force and tells what the second mark came to, beyond what
// it came to before the graph was there. tests/graphs.py builds the same graphs in the emulator.
//
// Usage: graphs NAME N
package main

import (
	"encoding/json"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"unsafe"
)

type (
	treeNode struct {
		left, right *treeNode
		key         uint64
	}
	cell struct {
		next  *cell
		value int
	}
	ringNode struct {
		next, prev *ringNode
		value      [4]int
	}
	entry struct {
		next *entry
		key  uint64
		data *[3]int
		hits int
	}
	lruEntry struct {
		newer, older, next *lruEntry
		key                uint64
		data               *[3]int
	}
)

func mix(i uint64) uint64 {
	z := i * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// fresh drops objects until the next one of their kind begins a span; tail is what a span keeps at its end.
func fresh[T any](tail uintptr) {
	alloc := func() uintptr { return uintptr(unsafe.Pointer(escape(new(T)))) }
	last := alloc()
	for {
		at := alloc()
		if at&^8191 != last&^8191 {
			slot := alloc() - at
			for n := (8192-tail)/slot - 2; n > 0; n-- {
				last = alloc()
			}
			if last&^8191 != at&^8191 {
				panic("a span has fewer slots than that")
			}
			return
		}
		last = at
	}
}

var escaped any

//go:noinline
func escape[T any](p *T) *T { escaped = p; return p }

func tree(n int) any {
	root := &treeNode{key: mix(0)}
	for i := 1; i < n; i++ {
		key, at := mix(uint64(i)), &root
		for *at != nil {
			if key < (*at).key {
				at = &(*at).left
			} else {
				at = &(*at).right
			}
		}
		*at = &treeNode{key: key}
	}
	return root
}

func order(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	for i := n - 1; i > 0; i-- {
		j := int(mix(uint64(i)) % uint64(i+1))
		all[i], all[j] = all[j], all[i]
	}
	return all
}

func list(n int) any {
	cells := make([]*cell, n)
	for i := range cells {
		cells[i] = new(cell)
	}
	o := order(n)
	for i := range n - 1 {
		cells[o[i]].next = cells[o[i+1]]
	}
	return cells[o[0]]
}

func ring(n int) any {
	nodes := make([]*ringNode, n)
	for i := range nodes {
		nodes[i] = new(ringNode)
	}
	for i := range nodes {
		next := nodes[(i+1)%n]
		nodes[i].next, next.prev = next, nodes[i]
	}
	return nodes[0]
}

func table(n int) any {
	buckets := make([]*entry, n/2)
	for i := range n {
		key := mix(uint64(i))
		at := &buckets[key%uint64(len(buckets))]
		e := &entry{next: *at, key: key}
		if i%3 == 0 {
			e.data = new([3]int)
		}
		*at = e
	}
	return &buckets[0]
}

type lru struct {
	buckets        []*lruEntry
	newest, oldest *lruEntry
	size, cap      int
}

func (c *lru) unlink(e *lruEntry) {
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		c.newest = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		c.oldest = e.newer
	}
}

func (c *lru) push(e *lruEntry) {
	e.newer, e.older = nil, c.newest
	if c.newest != nil {
		c.newest.newer = e
	} else {
		c.oldest = e
	}
	c.newest = e
}

func (c *lru) use(key uint64) {
	at := &c.buckets[key%uint64(len(c.buckets))]
	for e := *at; e != nil; e = e.next {
		if e.key == key {
			c.unlink(e)
			c.push(e)
			return
		}
	}
	e := &lruEntry{next: *at, key: key}
	e.data = new([3]int)
	*at = e
	c.push(e)
	if c.size++; c.size <= c.cap {
		return
	}
	c.size--
	old := c.oldest
	c.unlink(old)
	at = &c.buckets[old.key%uint64(len(c.buckets))]
	for *at != old {
		at = &(*at).next
	}
	*at = old.next
}

var cache lru

func lruCache(n int) any {
	cache = lru{buckets: make([]*lruEntry, n), cap: n}
	for i := range 4 * n {
		cache.use(mix(uint64(i)) % uint64(2*n))
	}
	return &cache.buckets[0]
}

type state struct {
	Scan    uint64 `json:"scan"`
	Objects uint64 `json:"objects"`
	Bytes   uint64 `json:"bytes"`
	Frees   uint64 `json:"frees"`
}

func collect() state {
	runtime.GC()
	sample := []metrics.Sample{{Name: "/gc/scan/heap:bytes"}}
	metrics.Read(sample)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return state{sample[0].Value.Uint64(), m.HeapObjects, m.HeapAlloc, m.Frees}
}

var held any

func main() {
	debug.SetGCPercent(-1)
	n, _ := strconv.Atoi(os.Args[2])
	builders := map[string]func(int) any{"tree": tree, "list": list, "ring": ring, "table": table, "lru": lruCache}
	const scan, noscan = 256, 128
	prepare := map[string]func(){
		"tree":  func() { fresh[treeNode](scan) },
		"list":  func() { fresh[cell](scan) },
		"ring":  func() { fresh[ringNode](scan) },
		"table": func() { fresh[entry](scan); fresh[[3]int](noscan) },
		"lru":   func() { fresh[lruEntry](scan); fresh[[3]int](noscan) },
	}
	build := builders[os.Args[1]]
	collect()
	collect()
	before := collect()
	prepare[os.Args[1]]()
	escaped = nil
	held = build(n)
	first := collect()
	second := collect()
	json.NewEncoder(os.Stdout).Encode([]state{before, first, second})
	runtime.KeepAlive(held)
}
