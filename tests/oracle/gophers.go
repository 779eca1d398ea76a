package main

// gophers keeps many goroutines parked at once and lets them go in another order: stacks in use by the hundreds, gs on
// the free lists, sudogs and channel buffers.
func gophers(steps int, tick func(int)) {
	r := random(8)
	waiting := make([]chan int, 256)
	done := make(chan int)
	for i := range steps / 20 {
		k := r.next(len(waiting))
		if waiting[k] != nil {
			waiting[k] <- i
			<-done
			waiting[k] = nil
		} else {
			c := make(chan int)
			waiting[k] = c
			go func() { done <- <-c + len(make([]byte, 1+k)) }()
		}
		tick(i * 20)
	}
	for _, c := range waiting {
		if c != nil {
			c <- 0
			<-done
		}
	}
}
