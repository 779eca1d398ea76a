module lru

go 1.23
