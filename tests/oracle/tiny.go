package main

// tiny mixes pointer-free objects of 1 to 15 bytes with 16- and 24-byte ones: the tiny allocator's alignment, its rule
// for replacing the current block, and tiny objects that keep their block's neighbours alive.
func tiny(steps int, tick func(int)) {
	r := random(1)
	kept := make([][]byte, 1024)
	for i := range steps {
		size := 1 + r.next(15)
		if r.next(8) == 0 {
			size = 16 + 8*r.next(2)
		}
		b := make([]byte, size)
		if r.next(4) == 0 {
			kept[r.next(len(kept))] = b
		}
		sink = &b[0]
		tick(i)
	}
	sink = kept
}
