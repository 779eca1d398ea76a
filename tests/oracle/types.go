package main

// types allocates one object each of many types, small and with pointers in different places: the type table, the 8-byte
// span class with pointers, and closures, interfaces, strings and channels as the compiler allocates them.
func types(steps int, tick func(int)) {
	r := random(6)
	kept := make([]any, 2048)
	for i := range steps {
		kept[r.next(len(kept))] = one(r.next(16), i)
		tick(i)
	}
	sink = kept
}

type list struct {
	next *list
	n    int
}

type tree[T any] struct {
	left, right *tree[T]
	value       T
}

func one(kind, n int) any {
	switch kind {
	case 0:
		return n + 1000
	case 1:
		return new(*int)
	case 2:
		return &list{n: n}
	case 3:
		return &tree[int8]{value: int8(n)}
	case 4:
		return &tree[string]{value: "x"}
	case 5:
		return &tree[[5]int]{}
	case 6:
		return func() int { return n }
	case 7:
		return make(chan int, n%8)
	case 8:
		return make(chan *int, 1+n%8)
	case 9:
		return string(rune(n)) + "pymem"
	case 10:
		return float64(n)
	case 11:
		return [2]string{"a", "b"}
	case 12:
		return &[]byte{1, 2, 3}
	case 13:
		return &struct {
			a [9]int
			p *int
		}{}
	case 14:
		return &struct {
			p *int
			a [40]int
		}{}
	}
	return [100]byte{}
}
