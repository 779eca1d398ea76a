module graphs

go 1.27
