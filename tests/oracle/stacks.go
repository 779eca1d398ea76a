package main

// stacks recurses to random depths in short-lived goroutines: stacks grow by copying from 2 KB to spans of their own,
// the P's stack caches fill and spill, and the GC shrinks and frees.
func stacks(steps int, tick func(int)) {
	r := random(7)
	done := make(chan int)
	for i := range steps / 200 {
		depth := 1 << r.next(10)
		go func() { done <- descend(depth) }()
		<-done
		tick(i * 200)
	}
}

//go:noinline
func descend(depth int) int {
	var room [16]int
	room[depth%16] = depth
	if depth == 0 {
		return room[0]
	}
	return descend(depth-1) + room[depth%16]
}
