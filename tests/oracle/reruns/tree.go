package main

type node struct {
	left, right *node
	key         [2]uint64
}

func grow(depth int) *node {
	if depth == 0 {
		return &node{}
	}
	return &node{left: grow(depth - 1), right: grow(depth - 1)}
}

func (n *node) size() int {
	if n == nil {
		return 0
	}
	return 1 + n.left.size() + n.right.size()
}

// tree keeps a tree of 8 MB and builds small ones beside it, of which it looks at each once.
func tree() int {
	old, sum := grow(17), 0
	for range 600 {
		sum += grow(12).size()
	}
	return sum + old.size()
}
