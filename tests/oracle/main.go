// Oracle programs: small, deterministic Go programs, each of which leans on one part of the memory manager. Recorded
// with `pymem record --exact` they say what the real runtime does; built plainly they say what it does unwatched.
//
//	oracle PROGRAM [-mode off|forced|paced|concurrent] [-n STEPS] [-every STEPS]
//
// off runs without GC, forced asks for a GC every so many steps, concurrent leaves the GC to the pacer, paced does
// both: GOGC and GOMEMLIMIT hold, and a GC is asked for every so many steps, the last one at the end. Each program
// ends with a runtime.ReadMemStats, printed as JSON. Phase 1 marks the program's start in the log and phase 2 its end.
package main

import (
	"encoding/json"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
)

// programs are the oracle's scenarios by name; each runs for a number of steps and calls tick after each.
var programs = map[string]func(steps int, tick func(step int)){
	"empty":   empty,
	"tiny":    tiny,
	"header":  header,
	"large":   large,
	"maps":    maps,
	"slices":  slices,
	"types":   types,
	"stacks":  stacks,
	"gophers": gophers,
	"table":   table,
	"final":   final,
	"budget":  budget,
	"grow":    grow,
}

// random is a linear congruential generator: the same numbers in every run and on every machine.
type random uint64

func (r *random) next(n int) int {
	*r = *r*6364136223846793005 + 1442695040888963407
	return int(uint64(*r) >> 33 % uint64(n))
}

// sink keeps what a program allocates reachable, and out of the compiler's reach.
var sink any

func main() {
	name, mode, steps, every := options()
	program := programs[name]
	if program == nil {
		fail("no program " + name)
	}
	tick := func(int) {}
	switch mode {
	case "off":
		debug.SetGCPercent(-1)
	case "forced", "paced":
		if mode == "forced" {
			debug.SetGCPercent(-1)
		}
		due := every
		tick = func(step int) {
			if step >= due {
				due += every
				runtime.GC()
			}
		}
	case "concurrent":
	default:
		fail("no mode " + mode)
	}
	phase(1)
	program(steps, tick)
	if mode == "paced" {
		runtime.GC()
	}
	phase(2)
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	sink = nil
	json.NewEncoder(os.Stdout).Encode(&stats)
}

func options() (name, mode string, steps, every int) {
	mode, steps, every = "off", 20000, 5000
	args := os.Args[1:]
	if len(args) == 0 {
		fail("usage: oracle PROGRAM [-mode off|forced|paced|concurrent] [-n STEPS] [-every STEPS]")
	}
	for i := 1; i+1 < len(args); i += 2 {
		switch args[i] {
		case "-mode":
			mode = args[i+1]
		case "-n":
			steps, _ = strconv.Atoi(args[i+1])
		case "-every":
			every, _ = strconv.Atoi(args[i+1])
		default:
			fail("no option " + args[i])
		}
	}
	return args[0], mode, steps, max(every, 1)
}

func fail(why string) {
	os.Stderr.WriteString("oracle: " + why + "\n")
	os.Exit(2)
}
