// Oracle program: what real Go gives back to the operating system, when, and which pages. Recorded with
// `pymem record --exact` each call of the scavenger stands in the log with what it was asked for and what it released.
//
//	scavenge PROGRAM
//
// Each program is a mutator that leaves the heap full of holes, and one reason to scavenge: debug.FreeOSMemory (free),
// the background scavenger (background), growth of the heap past its goal (growth), a memory limit (limit). After each
// step HeapReleased and HeapIdle are printed, a line each.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

var programs = map[string]func(){
	"free":       free,
	"background": background,
	"growth":     growth,
	"limit":      limit,
}

// random is a linear congruential generator: the same numbers in every run and on every machine.
type random uint64

func (r *random) next(n int) int {
	*r = *r*6364136223846793005 + 1442695040888963407
	return int(uint64(*r) >> 33 % uint64(n))
}

var (
	source random = 1
	kept   [4096][]byte
)

func main() {
	if len(os.Args) != 2 || programs[os.Args[1]] == nil {
		os.Stderr.WriteString("usage: scavenge free|background|growth|limit\n")
		os.Exit(2)
	}
	programs[os.Args[1]]()
}

// churn allocates n blocks of 1 KB to 256 KB, small ones most often, each in a place that may hold another.
func churn(n, places int) {
	for i := 0; i < n; i++ {
		kept[source.next(places)] = make([]byte, 1<<(10+source.next(9)*source.next(9)/8)+source.next(512))
	}
}

// drop forgets all but every k-th place.
func drop(k int) {
	for i := range kept {
		if i%k != 0 {
			kept[i] = nil
		}
	}
}

func report(step int) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Println(step, m.HeapReleased, m.HeapIdle)
}

func free() {
	debug.SetGCPercent(-1)
	for step := 0; step < 8; step++ {
		churn(3000, 500*(1+step%4))
		drop(2 + step%5)
		if step%3 == 1 {
			runtime.GC()
			churn(500, 4096)
		}
		debug.FreeOSMemory()
		report(step)
	}
}

func background() {
	for step := 0; step < 4; step++ {
		churn(8000, 4096)
		drop(3 + step)
		runtime.GC()
		runtime.GC()
		for i := 0; i < 6; i++ {
			time.Sleep(60 * time.Millisecond)
			churn(20, 512)
		}
		report(step)
	}
}

func growth() {
	debug.SetGCPercent(30)
	for step := 0; step < 12; step++ {
		churn(3000, 1024)
		drop(2)
		kept[1] = make([]byte, (step%4+1)<<20)
		kept[3] = make([]byte, (9+2*step)<<20)
	}
	report(0)
}

func limit() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(26 << 20)
	for step := 0; step < 10; step++ {
		churn(1200, 700)
		drop(2 + step%3)
		runtime.GC()
		kept[1] = make([]byte, (step%5+1)<<20)
	}
	report(0)
}
