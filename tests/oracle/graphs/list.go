package main

import "unsafe"

type element struct {
	next, prev *element
	value      [4]int64
	extra      *[5]int64
}

// list is doubly linked; its tail is cut off, then every second element taken out, then the head is moved on.
func list(step func(string)) {
	var last *element
	for i := range 20000 {
		e := &element{prev: last}
		if i%3 == 0 {
			e.extra = new([5]int64)
		}
		if last == nil {
			root = unsafe.Pointer(e)
		} else {
			last.next = e
		}
		last = e
	}
	last = nil
	step("built")
	cut(14000).next = nil
	step("cut")
	for e := (*element)(root); e != nil && e.next != nil; e = e.next {
		e.next = e.next.next
		if e.next != nil {
			e.next.prev = e
		}
	}
	step("every second")
	root = unsafe.Pointer(cut(3000))
	step("moved on") // prev still reaches what is in front
	(*element)(root).prev = nil
	step("beheaded")
}

//go:noinline
func cut(n int) *element {
	e := (*element)(root)
	for range n {
		e = e.next
	}
	return e
}

type link struct {
	prev, next *link
	value      any
	pad        [120]byte
}

// ring is held at one point; every third link is taken out and still points in, then the ring is split in two rings of
// which one is dropped.
func ring(step func(string)) {
	first := newLink(0)
	root = unsafe.Pointer(first)
	first.next, first.prev = first, first
	for i := 1; i < 9000; i++ {
		l := newLink(i)
		l.prev, l.next = first.prev, first
		first.prev.next, first.prev = l, l
	}
	first = nil
	step("built")
	unlink()
	step("unlinked")
	split(1700)
	step("split")
	root = nil
	step("gone")
}

func newLink(i int) *link {
	switch i % 4 {
	case 0:
		return &link{}
	case 1:
		return &link{value: new([3]*link)}
	case 2:
		return &link{value: [3]int64{int64(i)}}
	}
	return &link{value: &link{}}
}

//go:noinline
func unlink() {
	l := (*link)(root)
	for range 2999 {
		out := l.next.next.next
		out.prev.next, out.next.prev = out.next, out.prev
		l = out.prev
	}
}

//go:noinline
func split(n int) {
	a := (*link)(root)
	b := a
	for range n {
		b = b.next
	}
	end := a.prev
	a.prev, b.prev.next = b.prev, a
	b.prev, end.next = end, b
}
