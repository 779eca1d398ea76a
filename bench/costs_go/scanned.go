package main

import "runtime/metrics"

// scanned returns the bytes that the last collection looked through for pointers.
func scanned() uint64 {
	sample := []metrics.Sample{{Name: "/gc/scan/total:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
