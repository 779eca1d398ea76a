package main

import (
	"encoding/json"
	"fmt"
	"log"
	"strings"
)

type document struct {
	ID    int
	Title string
	Tags  []string
	Meta  map[string]string
	Parts []part
}

type part struct {
	Name string
	Data []float64
}

// documents decodes and encodes JSON; the last 6,000 documents stay, more or less.
func documents() int {
	kept, seed, sum := map[int]*document{}, random(1), 0
	for i := range 30_000 {
		text := fmt.Sprintf(`{"ID": %d, "Title": "document %d", "Tags": ["a", "b%d"], "Meta": {"body": %q},
			"Parts": [{"Name": "one", "Data": [1, 2.5, 3e4]}, {"Name": "two", "Data": [%d, 5, 6, 7, 8, 9]}]}`,
			i, i, i%11, strings.Repeat("x", seed.next(600)), i)
		d := new(document)
		if err := json.Unmarshal([]byte(text), d); err != nil {
			log.Fatal(err)
		}
		back, err := json.Marshal(d)
		if err != nil {
			log.Fatal(err)
		}
		sum += len(back)
		kept[seed.next(6000)] = d
	}
	return sum + len(kept)
}
