// Reruns is five programs with heaps of different kinds, to be run under many settings of the collector.
//
//	reruns tree|lru|json|parser|table
//
// With $PYMEM_TRACE set it traces itself into that file, from the first statement on; nothing else changes by that.
// What it has done goes to stdout: the same number under any setting.
package main

import (
	"fmt"
	"log"
	"os"
	"runtime/trace"
)

// random is a generator that needs no memory and is the same everywhere.
type random uint64

func (r *random) next(n int) int {
	*r = *r*6364136223846793005 + 1442695040888963407
	return int(uint64(*r)>>33) % n
}

func main() {
	if name := os.Getenv("PYMEM_TRACE"); name != "" {
		file, err := os.Create(name)
		if err == nil {
			err = trace.Start(file)
		}
		if err != nil {
			log.Fatal(err)
		}
		defer file.Close()
		defer trace.Stop()
	}
	programs := map[string]func() int{"tree": tree, "lru": lru, "json": documents, "parser": parse, "table": table}
	if len(os.Args) != 2 || programs[os.Args[1]] == nil {
		log.Fatal("usage: reruns tree|lru|json|parser|table")
	}
	fmt.Println(programs[os.Args[1]]())
}
