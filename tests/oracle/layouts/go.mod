module layouts

go 1.27
