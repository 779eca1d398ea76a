// Command churn allocates as a service does: requests that die at once, sessions that stay for a while, in a store
// whose size swings between 4 and 11 MB. It records itself into the file that PYMEM_TRACE names, if that is set.
//
// Usage: churn OBJECTS
package main

import (
	"os"
	"runtime/trace"
	"strconv"
	"sync"
)

type (
	item struct {
		next  *item
		price int
	}
	user struct {
		name  string
		inbox []byte
		score [4]int
	}
	session struct {
		user  *user
		cart  *item
		token []byte
	}
	request struct {
		path string
		body []byte
		from *session
	}
)

const (
	workers    = 2
	slots      = 20_000  // sessions that a worker keeps at most
	tide       = 1 << 18 // requests in which that falls to a third, and rises again
	perRequest = 10      // objects, about
)

func mix(i uint64) uint64 {
	z := i * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// room is how many sessions are kept at a request.
func room(i uint64) uint64 {
	at := i % tide
	fallen := min(at, tide-at) * 2
	return slots - fallen*(slots*2/3)/tide
}

func newSession(random uint64) *session {
	s := &session{user: &user{name: strconv.Itoa(int(random)), inbox: make([]byte, 16+random%128)}}
	for i := range random % 4 {
		s.cart = &item{s.cart, int(i)}
	}
	s.token = make([]byte, 32)
	return s
}

var latest [workers]*request // so that no request is on a stack

// serve answers requests; every fourth opens a session in place of another, or closes it where there is no room.
func serve(worker, requests int) {
	store := make([]*session, slots)
	for i := range uint64(requests) {
		random := mix(i*workers + uint64(worker))
		at := random % slots
		r := &request{path: strconv.Itoa(int(random)), body: make([]byte, 64+random>>32%512), from: store[at]}
		latest[worker] = r
		if at >= room(i) {
			store[at] = nil
		} else if i%4 == 0 {
			store[at] = newSession(random)
		}
		for range 3 {
			r.from = &session{token: []byte(r.path)}
		}
	}
}

func main() {
	objects, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	if name := os.Getenv("PYMEM_TRACE"); name != "" {
		file, err := os.Create(name)
		if err == nil {
			err = trace.Start(file)
		}
		if err != nil {
			panic(err)
		}
		defer file.Close()
		defer trace.Stop()
	}
	var all sync.WaitGroup
	for worker := range workers {
		all.Go(func() { serve(worker, objects/workers/perRequest) })
	}
	all.Wait()
}
