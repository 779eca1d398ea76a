module modules

go 1.27

require (
	github.com/yuin/goldmark v1.7.8
	go.etcd.io/bbolt v1.3.11
)

require golang.org/x/sys v0.4.0 // indirect
