// layouts prints what the runtime knows of each type in a list that tests/oracle/layouts.py puts beside this file: size,
// alignments, the bytes that may hold pointers, the collector's mask, and where the fields of a struct are.
package main

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"unsafe"
)

// gcMask is the runtime's own way to a type's mask: large types have none before they are asked.
//
//go:linkname gcMask runtime.getGCMask
func gcMask(t unsafe.Pointer) *byte

type answer struct {
	Name       string    `json:"name"`
	Kind       int       `json:"kind"`
	Size       uintptr   `json:"size"`
	Align      int       `json:"align"`
	FieldAlign int       `json:"field_align"`
	PtrBytes   uintptr   `json:"ptrdata"`
	Mask       string    `json:"mask"`
	Offsets    []uintptr `json:"offsets,omitempty"`
}

func main() {
	answers := make([]answer, 0, len(types))
	for _, t := range types {
		answers = append(answers, ask(t))
	}
	json.NewEncoder(os.Stdout).Encode(answers)
}

func ask(t reflect.Type) answer {
	descriptor := (*[2]unsafe.Pointer)(unsafe.Pointer(&t))[1]
	ptrBytes := *(*uintptr)(unsafe.Add(descriptor, 8)) // the second word of abi.Type
	a := answer{t.String(), int(t.Kind()), t.Size(), t.Align(), t.FieldAlign(), ptrBytes, mask(descriptor, ptrBytes), nil}
	if t.Kind() == reflect.Struct {
		for f := range t.Fields() {
			a.Offsets = append(a.Offsets, f.Offset)
		}
	}
	return a
}

// mask returns a digit for each word.
func mask(descriptor unsafe.Pointer, ptrBytes uintptr) string {
	var digits strings.Builder
	if ptrBytes == 0 {
		return ""
	}
	bits := gcMask(descriptor)
	for word := range ptrBytes / 8 {
		b := *(*byte)(unsafe.Add(unsafe.Pointer(bits), word/8))
		digits.WriteByte('0' + b>>(word%8)&1)
	}
	return digits.String()
}
