//go:build go1.23

package main

import "iter"

// pull switches to a coroutine and back.
func pull() {
	next, stop := iter.Pull(func(yield func(int) bool) {
		for i := 0; yield(i); i++ {
		}
	})
	next()
	next()
	stop()
}
