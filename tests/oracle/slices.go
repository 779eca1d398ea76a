package main

// slices appends to many slices at once: sizes rounded up by growslice, half of each old array garbage, objects that
// climb through all size classes into spans of their own.
func slices(steps int, tick func(int)) {
	r := random(5)
	bytes, structs := make([][]byte, 64), make([][]struct {
		p *int
		n int32
	}, 64)
	for i := range steps {
		k := r.next(64)
		if r.next(2) == 0 {
			bytes[k] = append(bytes[k], make([]byte, 1+r.next(200))...)
		} else {
			structs[k] = append(structs[k], struct {
				p *int
				n int32
			}{nil, int32(i)})
		}
		if r.next(2000) == 0 {
			bytes[k], structs[k] = nil, nil
		}
		tick(i)
	}
	sink = []any{bytes, structs}
}
