package main

// maps grows maps of several key and element types and deletes from them: groups, tables and directories of the map
// implementation in sizes that follow from its growth.
func maps(steps int, tick func(int)) {
	r := random(4)
	ints, strings, pointers := map[int]int{}, map[string]int{}, map[int]*[3]int{}
	for i := range steps / 4 {
		k := r.next(5000)
		ints[k] = i
		strings[string(rune('a'+k%26))+string(rune('a'+k/26%26))] = i
		pointers[k] = new([3]int)
		if r.next(3) == 0 {
			delete(pointers, r.next(5000))
		}
		if r.next(4000) == 0 {
			ints = map[int]int{}
		}
		tick(i * 4)
	}
	sink = []any{ints, strings, pointers}
}
