// Two programs that trace themselves, as a service would with net/http/pprof: a trace that begins in the middle of life,
// with a heap full of objects and, under the pacer, perhaps in the middle of a collection.
//
//	traced tree|small|large FILE [STEPS]
package main

import (
	"os"
	"runtime/trace"
	"strconv"
	"strings"
	"sync"
)

type node struct {
	left, right *node
	key         [3]uint64
}

func grow(depth int) *node {
	if depth == 0 {
		return &node{}
	}
	return &node{left: grow(depth - 1), right: grow(depth - 1)}
}

// tree keeps one large tree and builds small ones, which die young.
func tree(steps int, old any) any {
	if old == nil {
		old = grow(14)
	}
	for range steps / 64 {
		grow(6)
	}
	return old
}

// cache is a map of strings that two goroutines fill and overwrite: strings, maps that grow, a channel, stacks. The small
// one makes the heap turn over every 20,000 allocations.
func small(steps int, old any) any { return cache(1<<12, steps, old) }
func large(steps int, old any) any { return cache(1<<16, steps, old) }

func cache(keys, steps int, old any) any {
	entries, _ := old.(map[int]string)
	if entries == nil {
		entries = map[int]string{}
	}
	queue := make(chan string, 16)
	var work sync.WaitGroup
	for part := range 2 {
		work.Go(func() {
			for i := part; i < steps; i += 2 {
				queue <- strings.Repeat("x", i%700) + strconv.Itoa(i)
			}
		})
	}
	go func() { work.Wait(); close(queue) }()
	n := 0
	for text := range queue {
		entries[n*7919%keys] = text
		n++
	}
	return entries
}

func main() {
	program := map[string]func(int, any) any{"tree": tree, "small": small, "large": large}[os.Args[1]]
	steps := 40000
	if len(os.Args) > 3 {
		steps, _ = strconv.Atoi(os.Args[3])
	}
	old := program(steps, nil) // the life before the trace
	file, err := os.Create(os.Args[2])
	if err == nil {
		err = trace.Start(file)
	}
	if err != nil {
		panic(err)
	}
	program(steps, old)
	trace.Stop()
	file.Close()
}
