// Compiled into runtime's tests by -overlay: reads operations from a file, a line each, and writes them with what each
// changed.

package runtime_test

import (
	"bufio"
	"fmt"
	"os"
	. "runtime"
	"strconv"
	"strings"
	"testing"
)

func TestPymemController(t *testing.T) {
	in, err := os.Open(os.Getenv("PYMEM_OPERATIONS"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(os.Getenv("PYMEM_ANSWERS"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var driver PymemDriver
	last := make([]uint64, len(PymemFields))
	for lines := bufio.NewScanner(in); lines.Scan(); {
		words := strings.Fields(lines.Text())
		args := make([]int64, len(words)-1)
		for i, word := range words[1:] {
			if args[i], err = strconv.ParseInt(word, 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Fprint(out, lines.Text(), " =>")
		state := driver.Do(words[0], args)
		for i, value := range state {
			if value != last[i] {
				fmt.Fprintf(out, " %s=%x", PymemFields[i], value)
			}
		}
		fmt.Fprintln(out)
		last = state
	}
}
