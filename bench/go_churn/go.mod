module pymem/benchmark

go 1.27
