// Traceprog records a small execution trace with every sort of event that the reader knows.
//
//	traceprog FILE            one generation
//	traceprog FILE second     two generations (they last a second)
//	traceprog FILE kill       the program kills itself in its second generation
package main

import (
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"sync"
	"syscall"
	"time"
)

type leaf struct{ value int }

type tree struct {
	left, right *tree
	leaves      []leaf
}

func grow(depth int) *tree {
	if depth == 0 {
		return &tree{leaves: make([]leaf, 3)}
	}
	return &tree{left: grow(depth - 1), right: grow(depth - 1)}
}

var kept []*tree

// deep makes its goroutine's stack grow.
func deep(n int) int {
	var frame [256]byte
	if n == 0 {
		return 0
	}
	return deep(n-1) + int(frame[n%256])
}

func work(wg *sync.WaitGroup) {
	defer wg.Done()
	kept = append(kept, grow(3))
	deep(64)
	big := make([]byte, 100_000)
	runtime.Gosched()
	runtime.KeepAlive(big)
}

func spin(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}

var large []byte

// collect forces a collection, or at two Ps, where runtime.GC yields thousands of times until the sweep is done,
// allocates enough to set one off.
func collect() {
	if runtime.GOMAXPROCS(0) == 1 {
		runtime.GC()
		return
	}
	large = make([]byte, 5<<20)
	time.Sleep(10 * time.Millisecond)
}

func round() {
	var wg sync.WaitGroup
	for i := 0; i < 4; i++ {
		wg.Add(1)
		go work(&wg)
		wg.Wait()
	}
	pull()
	collect()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	kept = nil
	collect()
}

func main() {
	mode := ""
	if len(os.Args) > 2 {
		mode = os.Args[2]
	}
	f, err := os.Create(os.Args[1])
	if err != nil {
		panic(err)
	}
	if mode == "" {
		pprof.StartCPUProfile(io.Discard)
	}
	if err := trace.Start(f); err != nil {
		panic(err)
	}
	round()
	if mode == "" {
		spin(50 * time.Millisecond)
	} else {
		time.Sleep(1200 * time.Millisecond)
		round()
	}
	if mode == "kill" {
		time.Sleep(time.Second)
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	trace.Stop()
	f.Close()
}
