//go:build !go1.23

package main

// pull does nothing: coroutines came with Go 1.23.
func pull() {}
