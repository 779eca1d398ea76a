package main

import "unsafe"

// A work item fills out with the addresses of as many objects. Storing the address as a number needs no write barrier
// and keeps no object alive, so nothing but the allocation itself is on Go's bill.
type work struct {
	run     func(out []uintptr)
	classes []class        // those that run takes objects from, beside that of 64 bytes without pointers
	tiny    func() uintptr // takes one byte, if run has objects below 16 bytes
}

//go:noinline
func new64() *[64]byte { return new([64]byte) }

func runUniformNew(out []uintptr) {
	for i := range out {
		out[i] = uintptr(unsafe.Pointer(new64()))
	}
}

func runUniformMallocgc(out []uintptr) {
	for i := range out {
		out[i] = uintptr(mallocgc(64, nil, true))
	}
}

func noscan(size uintptr) func() uintptr {
	return func() uintptr { return uintptr(mallocgc(size, nil, true)) }
}

// mix is splitmix64's output function of a counter: both sides draw the same numbers without sharing a file.
func mix(i uint64) uint64 {
	z := i * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func randomSizes(n int) []uint16 {
	sizes := make([]uint16, n)
	for i := range sizes {
		sizes[i] = uint16(mix(uint64(i))%256 + 1)
	}
	return sizes
}

func runRandomMallocgc(sizes []uint16) func([]uintptr) {
	return func(out []uintptr) {
		for i := range out {
			out[i] = uintptr(mallocgc(uintptr(sizes[i]), nil, true))
		}
	}
}

//go:noinline
func makeBytes(n int) *byte { return unsafe.SliceData(make([]byte, n)) }

func runRandomMake(sizes []uint16) func([]uintptr) {
	return func(out []uintptr) {
		for i := range out {
			out[i] = uintptr(unsafe.Pointer(makeBytes(int(sizes[i]))))
		}
	}
}

// Structs as programs have them: a cons cell, a string header with a link, a tree node, a small record, a request.
type (
	cell  struct{ a, b *byte }
	named struct {
		name string
		next *byte
		n    int
	}
	node struct {
		left, right, parent *byte
		key, value, height  int
	}
	record struct {
		links [4]*byte
		data  [8]uint64
	}
	request struct {
		url, method, body string
		headers           map[string]string
		raw               [20]uint64
		done              chan bool
	}
)

var structs = []any{cell{}, named{}, node{}, record{}, request{}}

var structSizes = []uintptr{
	unsafe.Sizeof(cell{}), unsafe.Sizeof(named{}), unsafe.Sizeof(node{}), unsafe.Sizeof(record{}), unsafe.Sizeof(request{}),
}

func structKinds(n int) []uint8 {
	kinds := make([]uint8, n)
	for i := range kinds {
		kinds[i] = uint8(mix(uint64(i)) % uint64(len(structs)))
	}
	return kinds
}

func typed(kind int) func() uintptr {
	typ := typeOf(structs[kind])
	return func() uintptr { return uintptr(mallocgc(structSizes[kind], typ, true)) }
}

func runTypedMallocgc(kinds []uint8) func([]uintptr) {
	types := make([]unsafe.Pointer, len(structs))
	for i := range structs {
		types[i] = typeOf(structs[i])
	}
	return func(out []uintptr) {
		for i := range out {
			k := kinds[i]
			out[i] = uintptr(mallocgc(structSizes[k], types[k], true))
		}
	}
}

//go:noinline
func newStruct(kind uint8) unsafe.Pointer {
	switch kind {
	case 0:
		return unsafe.Pointer(new(cell))
	case 1:
		return unsafe.Pointer(new(named))
	case 2:
		return unsafe.Pointer(new(node))
	case 3:
		return unsafe.Pointer(new(record))
	}
	return unsafe.Pointer(new(request))
}

func runTypedNew(kinds []uint8) func([]uintptr) {
	return func(out []uintptr) {
		for i := range out {
			out[i] = uintptr(newStruct(kinds[i]))
		}
	}
}

func noscanClasses(sizes ...uintptr) []class {
	var all []class
	for _, s := range sizes {
		all = append(all, class{s, noscan(s)})
	}
	return all
}

func typedClasses() []class {
	var all []class
	for k, size := range structSizes {
		all = append(all, class{size, typed(k)})
	}
	return all
}

func makeWork(name string, n int) work {
	small := noscanClasses(16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256)
	switch name {
	case "uniform-new":
		return work{run: runUniformNew}
	case "uniform-mallocgc":
		return work{run: runUniformMallocgc}
	case "random-make":
		return work{run: runRandomMake(randomSizes(n)), classes: small, tiny: noscan(1)}
	case "random-mallocgc":
		return work{run: runRandomMallocgc(randomSizes(n)), classes: small, tiny: noscan(1)}
	case "typed-new":
		return work{run: runTypedNew(structKinds(n)), classes: typedClasses()}
	case "typed-mallocgc":
		return work{run: runTypedMallocgc(structKinds(n)), classes: typedClasses()}
	}
	panic("no work item is called " + name)
}
