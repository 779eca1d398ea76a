// Samples is a cache of records that are replaced at random, and that samples itself every 10 ms.
//
//	samples FOLDER
//
// writes FOLDER/metrics.csv (runtime/metrics) and FOLDER/memstats.jsonl (MemStats). Without a folder it samples nothing.
// Its heap grows in its first third, stays, and shrinks to half in its last.
package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"time"
)

type record struct {
	next *record
	data []byte
}

const steps, places = 1_500_000, 20_000

func work() int {
	table := make([]*record, places)
	random := uint64(1)
	total := 0
	for i := range steps {
		random = random*6364136223846793005 + 1442695040888963407
		room := places
		if i < steps/3 {
			room = places/8 + i*(places-places/8)/(steps/3)
		} else if i > 2*steps/3 {
			room = places / 2
			table[places-1-i%room] = nil
		}
		at := int(random>>33) % room
		table[at] = &record{data: make([]byte, 64+int(random>>20)%1024)}
		total += len(table[at].data)
	}
	return total
}

var names = []string{
	"/gc/heap/allocs:bytes", "/gc/heap/live:bytes", "/gc/heap/goal:bytes", "/gc/cycles/total:gc-cycles",
	"/gc/cycles/forced:gc-cycles", "/gc/gogc:percent", "/sched/gomaxprocs:threads", "/gc/scan/globals:bytes",
	"/gc/scan/stack:bytes", "/cpu/classes/gc/mark/assist:cpu-seconds", "/cpu/classes/gc/mark/dedicated:cpu-seconds",
	"/cpu/classes/gc/mark/idle:cpu-seconds", "/cpu/classes/gc/pause:cpu-seconds", "/cpu/classes/user:cpu-seconds",
}

func create(folder, name string) *os.File {
	file, err := os.Create(filepath.Join(folder, name))
	if err != nil {
		log.Fatal(err)
	}
	return file
}

func text(v metrics.Value) string {
	if v.Kind() == metrics.KindFloat64 {
		return strconv.FormatFloat(v.Float64(), 'g', 9, 64)
	}
	return strconv.FormatUint(v.Uint64(), 10)
}

func sample(folder string, stop, done chan bool) {
	table := csv.NewWriter(create(folder, "metrics.csv"))
	lines := json.NewEncoder(create(folder, "memstats.jsonl"))
	samples := make([]metrics.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	table.Write(append([]string{"time"}, names...))
	begin := time.Now()
	for going := true; going; {
		select {
		case <-stop:
			going = false
		case <-time.After(10 * time.Millisecond):
		}
		metrics.Read(samples)
		at := strconv.FormatFloat(time.Since(begin).Seconds(), 'f', 6, 64)
		row := []string{at}
		for _, s := range samples {
			row = append(row, text(s.Value))
		}
		table.Write(row)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		lines.Encode(map[string]any{
			"time": at, "TotalAlloc": m.TotalAlloc, "HeapAlloc": m.HeapAlloc, "NextGC": m.NextGC, "NumGC": m.NumGC,
			"NumForcedGC": m.NumForcedGC, "PauseTotalNs": m.PauseTotalNs, "GCCPUFraction": m.GCCPUFraction,
		})
	}
	table.Flush()
	done <- true
}

func main() {
	stop, done := make(chan bool), make(chan bool)
	if len(os.Args) > 1 {
		go sample(os.Args[1], stop, done)
	}
	fmt.Println(work())
	if len(os.Args) > 1 {
		stop <- true
		<-done
	}
}
