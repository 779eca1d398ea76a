package main

// header allocates objects with pointers around 512 bytes, where the type moves from heap bits in the span to an 8-byte
// header before the object, and around the size classes that the header pushes an object over.
func header(steps int, tick func(int)) {
	r := random(2)
	kept := make([][]*int, 512)
	for i := range steps / 4 {
		words := 62 + r.next(6)
		switch r.next(4) {
		case 0:
			words = 127 + r.next(3)
		case 1:
			words = 1 + r.next(2048)
		}
		kept[r.next(len(kept))] = make([]*int, words)
		tick(i * 4)
	}
	sink = kept
}
