// Prints what Python's numbers would not match to the last bit: the random and sine streams of runtime's
// TestGcPacer, from -1 to 1; how Go converts floats that do not fit; how its print writes floats (to standard error).

package main

import (
	"fmt"
	"math"
	"math/rand"
)

const steps = 50

//go:noinline
func toInt64(f float64) int64 { return int64(f) }

//go:noinline
func toUint64(f float64) uint64 { return uint64(f) }

func main() {
	for _, seed := range []int64{0x0, 0x1, 0xe, 0xf, 0x53, 0x152} {
		fmt.Print("random ", seed)
		source := rand.New(rand.NewSource(seed))
		for range steps {
			fmt.Printf(" %x", math.Float64bits((source.Float64()-0.5)*2))
		}
		fmt.Println()
	}
	const period = 8
	fmt.Print("sine ", period)
	for i := range period {
		fmt.Printf(" %x", math.Float64bits(math.Sin(float64(i)/float64(period)*2*math.Pi)))
	}
	fmt.Println()
	for _, f := range []float64{0, -0.5, -1.5, 1 << 62, 1 << 63, 1 << 64, -(1 << 63), 1.9e19, 1.8e19, -1e19, 1e300,
		math.Inf(1), math.Inf(-1), math.NaN(), math.Nextafter(1<<63, 0), math.Nextafter(1<<64, 0)} {
		fmt.Printf("convert %x %d %d\n", math.Float64bits(f), toInt64(f), toUint64(f))
	}
	for _, f := range []float64{0, math.Copysign(0, -1), 1, -0.25, 123456, 999999.5, 1e6, 1234567, 1e20, 1e-4, 1.25e-5,
		1.0 / 3, 0x1p70, 5e-324, math.Inf(1), math.Inf(-1), math.NaN()} {
		print("format ", fmt.Sprintf("%x", math.Float64bits(f)), " ", f, "\n")
	}
}
