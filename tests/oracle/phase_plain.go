//go:build !pymemrecord

package main

func phase(n uint64) {}
