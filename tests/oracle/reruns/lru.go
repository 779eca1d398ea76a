package main

import "container/list"

type page struct {
	id   int
	body []byte
	tags []string
}

// lru is a cache of pages without pointers in their bodies; two of three requests find theirs.
func lru() int {
	const most, requests = 20_000, 600_000
	order, pages, seed, hits := list.New(), map[int]*list.Element{}, random(1), 0
	for range requests {
		id := min(seed.next(60_000), seed.next(60_000))
		if e, ok := pages[id]; ok {
			order.MoveToFront(e)
			hits++
			continue
		}
		p := &page{id: id, body: make([]byte, 64+seed.next(1000)), tags: []string{"a", "b"}}
		pages[id] = order.PushFront(p)
		if order.Len() > most {
			delete(pages, order.Remove(order.Back()).(*page).id)
		}
	}
	return hits
}
