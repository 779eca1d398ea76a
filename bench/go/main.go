// Command bench does in real Go what bench/vs_go.py has the emulator do, and times it.
//
// It reads orders, one a line, and answers each with a line of JSON. "round" runs the work item once. "collect" frees
// all its objects, so that the next round meets spans that were used before. The collector is off in between.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

type answer struct {
	NS       int64  `json:"ns"`       // the round's time
	Objects  uint64 `json:"objects"`  // that MemStats counted in it; the runtime may add a few of its own
	Checksum uint64 `json:"checksum"` // of the addresses and their order, relative to the first
}

// checksum weighs each address with its odd place number; vs_go.py computes the same with numpy.
func checksum(out []uintptr) (sum uint64) {
	for i, addr := range out {
		sum += uint64(addr-out[0]) * uint64(2*i+1)
	}
	return sum
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

func round(w work, out []uintptr, fresh bool) answer {
	before, settled := mallocs(), 0
	if fresh {
		settled = settle(w.classes, w.tiny, class{64, noscan(64)})
	}
	start := time.Now()
	w.run(out)
	elapsed := time.Since(start)
	return answer{elapsed.Nanoseconds(), mallocs() - before - uint64(settled), checksum(out)}
}

func main() {
	name := flag.String("work", "", "work item")
	n := flag.Int("n", 1000, "objects in a round")
	flag.Parse()
	debug.SetGCPercent(-1)
	w, out := makeWork(*name, *n), make([]uintptr, *n)
	for i := range out {
		out[i] = 1 // the array's own page faults are not what is measured
	}
	fresh := true
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); fresh = false {
		if orders.Text() == "collect" {
			runtime.GC()
			fmt.Println("{}")
			continue
		}
		line, err := json.Marshal(round(w, out, fresh))
		if err != nil {
			panic(err)
		}
		fmt.Println(string(line))
	}
}
