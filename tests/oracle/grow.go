package main

type node struct {
	next *node
	key  [5]int
}

// grow only adds, in objects of some twenty sizes: what it may allocate before its first GC is the pacer's to say.
func grow(steps int, tick func(int)) {
	r := random(11)
	var list *node
	kept := make([][]byte, 0, steps)
	for i := range steps {
		list = &node{next: list}
		kept = append(kept, make([]byte, 16+r.next(1500)))
		tick(i)
	}
	sink = []any{list, kept}
}
