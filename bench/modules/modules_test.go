// Package modules is real modules at work, for bench/accuracy.py: a markdown renderer and a key-value store.
package modules

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"go.etcd.io/bbolt"
)

// document is a markdown text of so many sections.
func document(sections int) []byte {
	var text bytes.Buffer
	for n := range sections {
		fmt.Fprintf(&text, "## Section %d\n\nSome *words* with `code`, a [link](https://example.org/%d) and\n", n, n)
		fmt.Fprintf(&text, "**more words**, until the paragraph ends.\n\n- one\n- two %d\n  - nested\n\n", n)
		fmt.Fprintf(&text, "| a | b |\n|---|---|\n| %d | %d |\n\n```go\nfunc f%d() {}\n```\n\n", n, n*n, n)
	}
	return text.Bytes()
}

// BenchmarkGoldmark renders a document of 300 KB.
func BenchmarkGoldmark(b *testing.B) {
	text := document(1200)
	renderer := goldmark.New(goldmark.WithExtensions(extension.GFM))
	for b.Loop() {
		var page bytes.Buffer
		if err := renderer.Convert(text, &page); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBbolt changes 2,000 of 50,000 keys in a transaction, and reads all of them.
func BenchmarkBbolt(b *testing.B) {
	options := &bbolt.Options{NoSync: true, NoFreelistSync: true}
	db, err := bbolt.Open(filepath.Join(b.TempDir(), "db"), 0o600, options)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	next := uint64(1)
	put := func(keys int) error {
		return db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("numbers"))
			for range keys {
				if err != nil {
					return err
				}
				next = next*6364136223846793005 + 1442695040888963407
				key := binary.BigEndian.AppendUint64(nil, next>>33%50_000)
				err = bucket.Put(key, bytes.Repeat(key, int(next>>40%32)+1))
			}
			return err
		})
	}
	if err := put(50_000); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := put(2_000); err != nil {
			b.Fatal(err)
		}
		sum := 0
		err := db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("numbers")).ForEach(func(k, v []byte) error {
				sum += len(v)
				return nil
			})
		})
		if err != nil || sum == 0 {
			b.Fatal(sum, err)
		}
	}
}
