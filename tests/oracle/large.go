package main

// large allocates objects with spans of their own, with and without pointers, on both sides of 32,760 bytes and up to
// 1 MB, and keeps few: spans come and go, the heap grows, and freed pages are found again first fit.
func large(steps int, tick func(int)) {
	r := random(3)
	bytes, pointers := make([][]byte, 16), make([][]*int, 16)
	for i := range steps / 200 {
		size := 32<<10 - 16 + r.next(32)
		if r.next(2) == 0 {
			size = 32<<10 + r.next(1<<20)
		}
		if r.next(3) == 0 {
			pointers[r.next(16)] = make([]*int, size/8)
		} else {
			bytes[r.next(16)] = make([]byte, size)
		}
		tick(i * 200)
	}
	sink = []any{bytes, pointers}
}
