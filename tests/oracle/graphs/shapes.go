package main

import "unsafe"

type (
	early struct {
		p *int64
		a [9]int64
	}
	late struct {
		a [9]int64
		p *int64
	}
	sparse struct {
		p [2]*int64
		a [70]int64
		q *int64
		b [70]int64
	}
	big struct {
		p *int64
		a [5000]int64
		q []int64
		b [3000]int64
	}
	holder struct {
		singles [6][]unsafe.Pointer
		early   []early
		late    []late
		sparse  []sparse
		big     [3]*big
		huge    []*int64
		words   []any
		bytes   []byte
	}
)

// shapes holds objects whose pointers lie early, late and far apart, alone and in arrays from 8 bytes to 640 KB, so that
// each way of keeping a pointer map comes up: in the span, behind a header, and for spans of one object.
func shapes(step func(string)) {
	h := new(holder)
	root = unsafe.Pointer(h)
	for i := range h.singles {
		h.singles[i] = make([]unsafe.Pointer, 100)
	}
	for i := range 100 {
		h.singles[0][i] = unsafe.Pointer(new(early))
		h.singles[1][i] = unsafe.Pointer(new(late))
		h.singles[2][i] = unsafe.Pointer(new(sparse))
		h.singles[3][i] = unsafe.Pointer(new(*int64))
		h.singles[4][i] = unsafe.Pointer(new([2]string))
		h.singles[5][i] = unsafe.Pointer(new([6][]byte))
	}
	step("singles")
	h.early, h.late, h.sparse = make([]early, 6), make([]late, 7), make([]sparse, 1)
	step("arrays")
	h.early, h.late, h.sparse = make([]early, 60), make([]late, 70), make([]sparse, 13)
	step("longer arrays")
	h.early, h.late, h.sparse = make([]early, 600), make([]late, 7000), make([]sparse, 1300)
	step("large arrays")
	for i := range h.big {
		h.big[i] = new(big)
		h.big[i].q = make([]int64, 3000)
	}
	step("large objects")
	h.huge, h.words, h.bytes = make([]*int64, 80000), make([]any, 3001), make([]byte, 100000)
	step("huge")
	h.huge[79999] = new(int64)
	h.huge = h.huge[70000:]
	step("interior")
	h.singles[2], h.huge, h.big[1], h.bytes = nil, nil, nil, nil
	step("dropped")
}
