module samples

go 1.23
