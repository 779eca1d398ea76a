package main

import "unsafe"

type entry struct {
	next  *entry
	key   int64
	name  string
	value *[12]int64
}

type hashTable struct {
	buckets []*entry
	count   int
}

// table is open hashing with chains: it grows to arrays of buckets beyond the largest size class, loses two entries in
// three, and shrinks to small arrays.
func table(step func(string)) {
	t := new(hashTable)
	root = unsafe.Pointer(t)
	t.buckets = make([]*entry, 4)
	r := random(5)
	for i := range 12000 {
		t.insert(int64(i), &r)
		if i == 200 || i == 3000 {
			step("growing")
		}
	}
	step("built")
	t.remove()
	step("removed")
	t.resize(60)
	step("resized")
	t.resize(70)
	step("resized again")
}

func (t *hashTable) insert(key int64, r *random) {
	if t.count > len(t.buckets) {
		t.resize(2 * len(t.buckets))
	}
	e := &entry{key: key}
	if n := r.next(6); n > 0 {
		bytes := make([]byte, 16*n)
		e.name = unsafe.String(&bytes[0], len(bytes))
	}
	if r.next(2) == 0 {
		e.value = new([12]int64)
	}
	t.link(e)
	t.count++
}

func (t *hashTable) link(e *entry) {
	b := &t.buckets[uint64(e.key)*2654435761%uint64(len(t.buckets))]
	e.next, *b = *b, e
}

func (t *hashTable) resize(n int) {
	old := t.buckets
	t.buckets = make([]*entry, n)
	for _, e := range old {
		for e != nil {
			next := e.next
			t.link(e)
			e = next
		}
	}
}

func (t *hashTable) remove() {
	for i := range t.buckets {
		for p := &t.buckets[i]; *p != nil; {
			if (*p).key%3 != 0 {
				*p = (*p).next
				t.count--
			} else {
				p = &(*p).next
			}
		}
	}
}

type item struct {
	newer, older *item
	chain        *item
	key          int64
	value        *int64
	text         []byte
}

type cache struct {
	newest, oldest *item
	buckets        [512]*item
	count          int
}

// lru is a cache of 3,000 items, a list and a table, into which 12,000 keys are put; values are tiny objects.
func lru(step func(string)) {
	c := new(cache)
	root = unsafe.Pointer(c)
	r := random(7)
	for i := range 12000 {
		c.put(int64(r.next(6000)), &r)
		if i%3000 == 2999 {
			step("put")
		}
	}
	for c.count > 100 {
		c.evict()
	}
	step("evicted")
}

func (c *cache) put(key int64, r *random) {
	e := c.buckets[key%512]
	for e != nil && e.key != key {
		e = e.chain
	}
	if e != nil {
		c.unlist(e)
	} else {
		e = &item{key: key, chain: c.buckets[key%512]}
		c.buckets[key%512] = e
		e.value = new(int64)
		if n := r.next(5); n > 0 {
			e.text = make([]byte, 50*n)
		}
		c.count++
	}
	c.front(e)
	if c.count > 3000 {
		c.evict()
	}
}

func (c *cache) front(e *item) {
	e.newer, e.older = nil, c.newest
	if c.newest != nil {
		c.newest.newer = e
	} else {
		c.oldest = e
	}
	c.newest = e
}

func (c *cache) unlist(e *item) {
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

func (c *cache) evict() {
	e := c.oldest
	c.unlist(e)
	p := &c.buckets[e.key%512]
	for *p != e {
		p = &(*p).chain
	}
	*p = e.chain
	c.count--
}
