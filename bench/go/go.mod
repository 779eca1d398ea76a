module pymem/bench

go 1.27
