//go:build pymemrecord

package main

import "runtime"

func phase(n uint64) { runtime.PymemPhase(n) }
