package main

const chunkBytes = 4 << 20 // the heap grows by whole chunks

// class is one from which a work item takes objects: the size of its slots and a way to take one.
type class struct {
	slot  uintptr
	alloc func() uintptr
}

// settle brings a heap that was never collected to a point that another heap can be brought to as well: no tiny block
// has room, the span of each class is full, and no page below the current chunk is free, because a span of one page has
// just begun at a chunk's first. From there on the same requests get the same addresses, relative to the first.
// It returns how many objects that took. bench/vs_go.py does the same in the emulator.
func settle(classes []class, tiny func() uintptr, last class) (objects int) {
	if tiny != nil {
		objects += fillBlock(tiny)
	}
	for _, c := range classes {
		objects += fillSpan(c, func(addr uintptr) bool { return true })
	}
	return objects + fillSpan(last, func(addr uintptr) bool { return addr%chunkBytes == 0 })
}

// fillBlock takes objects of one byte until a tiny block has begun, and then the rest of it.
func fillBlock(tiny func() uintptr) (objects int) {
	for objects = 1; tiny()%16 != 0; objects++ {
	}
	for range 15 {
		tiny()
	}
	return objects + 15
}

// fillSpan takes objects until a fresh span of the class has begun at an address that is good, and then the rest of it.
// The classes used here waste some bytes at a span's end, so a new span shows as a gap.
func fillSpan(c class, good func(addr uintptr) bool) (objects int) {
	prev := c.alloc()
	slots, run := 0, 0 // of a whole span; taken from the current one
	for objects = 1; ; objects++ {
		addr := c.alloc()
		run++
		if addr != prev+c.slot {
			slots, run = run, 0
			if objects > 2*slots && good(addr) {
				break
			}
		}
		prev = addr
	}
	for range slots - 1 {
		c.alloc()
	}
	return objects + slots
}
