package main

import "unsafe"

type node struct {
	left, right *node
	key         int64
}

// tree is binary and complete; first one half of it is dropped, then one of each pair of grandchildren.
func tree(step func(string)) {
	root = unsafe.Pointer(grow(14, 1))
	step("built")
	(*node)(root).left = nil
	step("half")
	thin((*node)(root).right)
	step("thinned")
	root = nil
	step("gone")
}

func grow(depth int, key int64) *node {
	n := &node{key: key}
	if depth > 0 {
		n.left = grow(depth-1, 2*key)
		n.right = grow(depth-1, 2*key+1)
	}
	return n
}

func thin(n *node) {
	for _, child := range []*node{n.left, n.right} {
		if child != nil {
			child.right = nil
			thin(child)
		}
	}
}

type branch struct {
	children []*branch
	name     *[40]byte
	weight   [3]int32
	parent   *branch
}

// bush has branches with 0 to 90 children, in slices of every size below and above the one from which objects have a
// header, each with its parent: no part that is cut off is free of pointers to what lives.
func bush(step func(string)) {
	r := random(11)
	root = unsafe.Pointer(sprout(&r, nil, 4))
	step("built")
	prune((*branch)(root), &r)
	step("pruned")
	(*branch)(root).children = (*branch)(root).children[:1]
	step("shortened") // the slice still holds all of them
	(*branch)(root).children = append([]*branch(nil), (*branch)(root).children...)
	step("copied")
}

func sprout(r *random, parent *branch, depth int) *branch {
	b := &branch{parent: parent, weight: [3]int32{int32(depth)}}
	if r.next(3) == 0 {
		b.name = new([40]byte)
	}
	if depth > 0 {
		n := r.next(1 << (2 + r.next(5)))
		if depth == 4 {
			n = 90
		}
		b.children = make([]*branch, n)
		for i := range b.children {
			b.children[i] = sprout(r, b, depth-1-r.next(2)*(depth-1)/2)
		}
	}
	return b
}

func prune(b *branch, r *random) {
	for i, child := range b.children {
		switch {
		case child == nil:
		case r.next(4) == 0:
			b.children[i] = nil
		default:
			prune(child, r)
		}
	}
}
