package main

import (
	"strconv"
	"sync"
)

type record struct {
	name  string
	count int
	next  *record
}

// table is two goroutines with a map each, of chains of records that grow and are dropped.
func table() int {
	var wait sync.WaitGroup
	var sums [2]int
	for part := range sums {
		wait.Go(func() { sums[part] = fill(random(part + 1)) })
	}
	wait.Wait()
	return sums[0] + sums[1]
}

func fill(seed random) int {
	records, sum := map[string]*record{}, 0
	for i := range 700_000 {
		name := "key " + strconv.Itoa(seed.next(50_000))
		r := records[name]
		if r != nil && r.count >= 3 {
			delete(records, name)
			sum += r.count
			continue
		}
		fresh := &record{name: name, count: 1, next: r}
		if r != nil {
			fresh.count += r.count
		}
		records[name] = fresh
		if i%100_000 == 0 {
			clear(records)
		}
	}
	return sum
}
