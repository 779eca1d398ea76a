// Lru answers requests from a cache of decoded JSON documents: a small service's memory, in one file.
//
//	pymem record -o lru.trace -- go run .
//
// makes the recording beside it (examples/lru.trace). It writes an execution trace to $PYMEM_TRACE.
package main

import (
	"container/list"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"runtime/trace"
	"strings"
)

type document struct {
	ID    int               `json:"id"`
	Title string            `json:"title"`
	Tags  []string          `json:"tags"`
	Meta  map[string]string `json:"meta"`
}

type cache struct {
	most  int
	order *list.List // of *document, the one used last in front
	byID  map[int]*list.Element
}

func (c *cache) get(id int) *document {
	if e, ok := c.byID[id]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*document)
	}
	d := load(id)
	c.byID[id] = c.order.PushFront(d)
	if c.order.Len() > c.most {
		oldest := c.order.Remove(c.order.Back()).(*document)
		delete(c.byID, oldest.ID)
	}
	return d
}

// load stands for a database that answers in JSON.
func load(id int) *document {
	text := fmt.Sprintf(`{"id": %d, "title": "document %d", "tags": ["a%d", "b%d"], "meta": {"body": %q}}`,
		id, id, id%7, id%11, strings.Repeat("x", 40+id%400))
	d := new(document)
	if err := json.Unmarshal([]byte(text), d); err != nil {
		log.Fatal(err)
	}
	return d
}

func main() {
	if name := os.Getenv("PYMEM_TRACE"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			log.Fatal(err)
		}
		defer f.Close()
		if err := trace.Start(f); err != nil {
			log.Fatal(err)
		}
		defer trace.Stop()
	}
	c := &cache{most: 4000, order: list.New(), byID: map[int]*list.Element{}}
	total, seed := 0, uint32(1)
	for i := 0; i < 12000; i++ {
		seed = seed*1664525 + 1013904223
		total += len(c.get(int(seed>>16) % 9000).Title)
	}
	fmt.Println("bytes of titles:", total)
}
