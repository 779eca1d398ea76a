module pymem/graphs

go 1.27
