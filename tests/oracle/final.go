package main

import "runtime"

// final gives one object in eight a finalizer or a cleanup: sweeping revives such objects once, special records come
// and go, and the finalizer goroutine takes turns.
func final(steps int, tick func(int)) {
	r := random(10)
	kept := make([]*[6]int, 500)
	count := 0
	for i := range steps / 4 {
		p := new([6]int)
		switch r.next(16) {
		case 0:
			runtime.SetFinalizer(p, func(*[6]int) { count++ })
		case 1:
			runtime.AddCleanup(p, func(n int) { count += n }, 1)
		}
		kept[r.next(len(kept))] = p
		tick(i * 4)
	}
	sink = kept
}
