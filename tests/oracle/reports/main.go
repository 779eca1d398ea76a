// What the runtime tells about itself: its metrics, what it made of the environment, how it prints floats.
//
//	reports metrics      names, kinds and buckets of runtime/metrics, and values beside the MemStats of the same moment
//	reports settings     GOGC, GOMEMLIMIT and GOMAXPROCS as understood; a forced cycle shows GODEBUG's trace lines
//	reports floats HEX   each float64 of these bits as print writes it, on stderr
//	reports pauses       debug.ReadGCStats beside the MemStats of the same moment, after 300 cycles
package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
)

type description struct {
	Name, Kind string
	Cumulative bool
	Buckets    []string
}

var kinds = map[metrics.ValueKind]string{
	metrics.KindUint64:           "uint64",
	metrics.KindFloat64:          "float64",
	metrics.KindFloat64Histogram: "float64-histogram",
}

// value is a number, or the counts of a histogram.
func value(s metrics.Sample) any {
	switch s.Value.Kind() {
	case metrics.KindUint64:
		return s.Value.Uint64()
	case metrics.KindFloat64:
		return s.Value.Float64()
	}
	return s.Value.Float64Histogram().Counts
}

// bounds are texts, as JSON has no infinity.
func bounds(s metrics.Sample) (texts []string) {
	if s.Value.Kind() == metrics.KindFloat64Histogram {
		for _, b := range s.Value.Float64Histogram().Buckets {
			texts = append(texts, strconv.FormatFloat(b, 'g', -1, 64))
		}
	}
	return texts
}

var sink []any

func work() {
	for i := range 30000 {
		sink = append(sink, make([]byte, 1+i%7), new([4]*int), make([]byte, i*13%1000))
		if i%300 == 0 {
			sink = append(sink, make([]byte, 32768+i))
		}
	}
	clear(sink[:len(sink)/2])
	runtime.GC()
}

func showMetrics() any {
	all := metrics.All()
	samples := make([]metrics.Sample, len(all))
	for i := range all {
		samples[i].Name = all[i].Name
	}
	work()
	metrics.Read(samples) // makes the histograms, so that the second reading allocates nothing
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	metrics.Read(samples)
	var list []description
	values := map[string]any{}
	for i, d := range all {
		list = append(list, description{d.Name, kinds[d.Kind], d.Cumulative, bounds(samples[i])})
		values[d.Name] = value(samples[i])
	}
	return map[string]any{"All": list, "Values": values, "MemStats": &stats}
}

func showSettings() any {
	runtime.GC()
	limit := debug.SetMemoryLimit(-1)
	procs := runtime.GOMAXPROCS(0)
	return map[string]any{
		"GOGC": debug.SetGCPercent(-1), "GOMEMLIMIT": limit, "GOMAXPROCS": procs, "NumCPU": runtime.NumCPU(),
	}
}

func showPauses() any {
	type reading struct {
		MemStats runtime.MemStats
		Pause    []int64
		PauseEnd []int64
		LastGC   int64
		Total    int64
		NumGC    int64
		// by number of quantiles asked for
		Quantiles map[int][]int64
	}
	read := func() (r reading) {
		runtime.ReadMemStats(&r.MemStats)
		r.Quantiles = map[int][]int64{}
		for _, n := range []int{1, 2, 5, 101} {
			stats := debug.GCStats{}
			for range n {
				stats.PauseQuantiles = append(stats.PauseQuantiles, 0)
			}
			debug.ReadGCStats(&stats)
			r.LastGC, r.Total, r.NumGC = stats.LastGC.UnixNano(), int64(stats.PauseTotal), stats.NumGC
			r.Pause, r.PauseEnd = nil, nil
			for i, p := range stats.Pause {
				r.Pause = append(r.Pause, int64(p))
				r.PauseEnd = append(r.PauseEnd, stats.PauseEnd[i].UnixNano())
			}
			for _, q := range stats.PauseQuantiles {
				r.Quantiles[n] = append(r.Quantiles[n], int64(q))
			}
		}
		return r
	}
	debug.SetGCPercent(-1)
	readings := []reading{read()}
	for n := range 300 {
		runtime.GC()
		if n == 6 || n == 299 {
			readings = append(readings, read())
		}
	}
	return readings
}

func main() {
	switch os.Args[1] {
	case "metrics":
		show(showMetrics())
	case "settings":
		show(showSettings())
	case "pauses":
		show(showPauses())
	case "floats":
		for _, hex := range os.Args[2:] {
			bits, err := strconv.ParseUint(hex, 16, 64)
			if err != nil {
				panic(err)
			}
			println(math.Float64frombits(bits))
		}
	}
}

func show(v any) {
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
