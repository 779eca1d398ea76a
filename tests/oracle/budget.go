package main

// budget keeps so many full spans of one class that a refill sweeps a hundred of them in vain, takes a fresh span and
// on the way there reclaims pages: the reclaimer sweeps spans of that same class too, and what it leaves with free
// slots is for the refill after that. The oldest objects stay for ever; of the younger ones one in eight is dropped.
func budget(steps int, tick func(int)) {
	const old = 3000
	r := random(11)
	kept := make([][]byte, steps)
	for i := range steps {
		kept[i] = make([]byte, 500)
		if dropped := i - 1 - r.next(old); dropped > old && r.next(8) == 0 {
			kept[dropped] = nil
		}
		sink = make([]byte, 1+r.next(400))
		tick(i)
	}
	sink = kept
}
