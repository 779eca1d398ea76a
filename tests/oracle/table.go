package main

// table replaces random entries of a table by objects of 1 byte to 40 KB, small ones more often, one in three with
// pointers: every size class comes up, lifetimes are long-tailed, and spans are swept in every state of fullness.
func table(steps int, tick func(int)) {
	r := random(9)
	kept := make([]any, 2000)
	for i := range steps {
		size := 1 + r.next(1<<(1+r.next(15)))
		if r.next(40) == 0 {
			size = 1 + r.next(40<<10)
		}
		if r.next(3) == 0 {
			kept[r.next(len(kept))] = make([]*int, 1+size/8)
		} else {
			kept[r.next(len(kept))] = make([]byte, size)
		}
		tick(i)
	}
	sink = kept
}
