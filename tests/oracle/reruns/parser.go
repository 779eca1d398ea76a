package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log"
	"strings"
)

func source(functions int) string {
	var b strings.Builder
	b.WriteString("package p\n\nimport \"fmt\"\n")
	for i := range functions {
		fmt.Fprintf(&b, `
// F%d adds up what it is given.
func F%d(a, b int, names map[string][]int) (sum int, err error) {
	for name, list := range names {
		if len(list) > %d && name != "none" {
			sum += a*list[0] + b
		} else {
			return 0, fmt.Errorf("%%s: %%d of %%v", name, len(list), list)
		}
	}
	return sum, nil
}
`, i, i, i%17)
	}
	return b.String()
}

// parse makes the syntax trees of a file again and again; the last three stay.
func parse() int {
	text, nodes := source(4000), 0
	var kept [3]*ast.File
	for i := range 12 {
		file, err := parser.ParseFile(token.NewFileSet(), "p.go", text, parser.ParseComments)
		if err != nil {
			log.Fatal(err)
		}
		if i%4 == 0 {
			ast.Inspect(file, func(ast.Node) bool { nodes++; return true })
		}
		kept[i%len(kept)] = file
	}
	return nodes + len(kept)
}
