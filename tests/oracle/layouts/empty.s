// Lets the Go file declare a function without a body.
