package main

import "unsafe"

// mallocgc is the function that every new and make ends in. A type of nil means pointer-free.
//
//go:linkname mallocgc runtime.mallocgc
func mallocgc(size uintptr, typ unsafe.Pointer, needzero bool) unsafe.Pointer

// typeOf returns the type word of an interface: what mallocgc takes.
func typeOf(v any) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&v)) }
