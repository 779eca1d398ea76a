// Its presence allows the function without a body in mallocgc.go.
