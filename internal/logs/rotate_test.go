package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// noise returns a line of n letters that does not compress.
func noise(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('A' + rand.IntN(58))
		if b[i] == '\\' {
			b[i] = '_'
		}
	}
	return string(b)
}

func onDisk(t *testing.T, dir string) (total int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			total += fi.Size()
		}
	}
	return total
}

func TestSizeIsKept(t *testing.T) {
	for _, size := range []int64{32 << 10, 512 << 10, 2 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			m := meta
			m.Size = size
			root := t.TempDir()
			w := writer(t, root, m)
			n := int(4*size) / 1000
			for i := range n {
				w.Write("stdout", fmt.Appendf(nil, "{\"msg\":\"%08d\",\"x\":%q}\n", i, noise(min(900, int(size/100)))))
				if i%9 > 0 {
					continue
				}
				if have := onDisk(t, w.dir); have > size {
					t.Fatalf("after %d lines there are %d bytes, wanted at most %d", i, have, size)
				}
			}
			w.Close()
			got := records(t, root, all)
			if len(got) == 0 || got[len(got)-1].Message != fmt.Sprintf("%08d", n-1) {
				t.Fatalf("%d records, the newest is not among them", len(got))
			}
			for i := range got[1:] {
				if got[i].Message >= got[i+1].Message {
					t.Fatalf("%s before %s", got[i].Message, got[i+1].Message)
				}
			}
			if kept := onDisk(t, w.dir); kept < size/3 {
				t.Errorf("only %d of %d bytes are kept", kept, size)
			}
		})
	}
}

// TestManyRotationsAtOnce holds that compressions do not step on each other: nothing is lost or torn.
func TestManyRotationsAtOnce(t *testing.T) {
	m := meta
	m.Size = 8 << 20 // segments of 1 MiB
	root := t.TempDir()
	w := writer(t, root, m)
	const n = 12000
	for i := 0; i < n; i += 100 {
		var b bytes.Buffer
		for k := range 100 {
			fmt.Fprintf(&b, "{\"msg\":\"%08d\",\"x\":%q}\n", i+k, strings.Repeat("ab", 200))
		}
		w.Write("stdout", b.Bytes())
	}
	w.Close()
	got := records(t, root, all)
	if len(got) != n {
		t.Fatalf("%d of %d records", len(got), n)
	}
	for i, r := range got {
		if r.Message != fmt.Sprintf("%08d", i) {
			t.Fatalf("record %d is %s", i, r.Message)
		}
	}
	packed, _ := filepath.Glob(filepath.Join(w.dir, "*.jsonl.zst"))
	plain, _ := filepath.Glob(filepath.Join(w.dir, "*.jsonl"))
	if len(packed) < 4 || len(plain) != 1 || len(packed)+len(plain) != len(segments(w.dir)) {
		t.Errorf("%d compressed, %d plain segments", len(packed), len(plain))
	}
	f, err := os.Open(packed[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if b, err := io.ReadAll(z); err != nil || len(b) > 1<<20 || !bytes.HasSuffix(b, []byte("}\n")) {
		t.Errorf("a compressed segment holds %d bytes: %v", len(b), err)
	}
}

func TestAge(t *testing.T) {
	root := t.TempDir()
	w := writer(t, root, meta)
	w.Write("stdout", []byte("old\n"))
	w.Close()
	w = writer(t, root, meta)
	w.Write("stdout", []byte("new\n"))
	w.Close()
	expect(t, brief(records(t, root, all)), "info old", "info new")
	old := segments(w.dir)[0]
	long := time.Now().Add(-meta.Age - time.Minute)
	if err := os.Chtimes(old.path, long, long); err != nil {
		t.Fatal(err)
	}
	writer(t, root, meta).Close()
	expect(t, brief(records(t, root, all)), "info new")
}

// TestAfterAKill holds that a writer goes on behind what a killed one left: a torn line, a torn compression, empty files.
func TestAfterAKill(t *testing.T) {
	root := t.TempDir()
	w := writer(t, root, meta)
	w.Write("stdout", []byte("one\n"))
	w.Close()
	seg := segments(w.dir)[0].path
	f, err := os.OpenFile(seg, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"time":"2026-01-31T12:00:00Z","level":"in`)
	f.Close()
	for _, name := range []string{"00000001.jsonl.tmp", "00000000.jsonl.tmp"} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte("torn"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		writer(t, root, meta).Close() // they print nothing
	}
	w = writer(t, root, meta)
	w.Write("stdout", []byte("two\n"))
	w.Close()
	expect(t, brief(records(t, root, all)), "info one", "info two")
	if left, _ := filepath.Glob(filepath.Join(w.dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left over: %s", left)
	}
	if n := len(segments(w.dir)); n != 2 {
		t.Errorf("%d segments; empty ones should go", n)
	}
}

func TestQueries(t *testing.T) {
	root := t.TempDir()
	base := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for _, who := range []struct{ release, instance, from int }{{1, 1, 0}, {1, 2, 1}, {2, 1, 2}} {
		m := meta
		m.Release, m.Instance, m.Age = who.release, who.instance, 0
		w := writer(t, root, m)
		for i := who.from; i < 300; i += 3 {
			w.Write("stdout", fmt.Appendf(nil, "{\"time\":%q,\"level\":%q,\"msg\":\"m%03d\",\"order\":%d}\n",
				base.Add(time.Duration(i)*time.Second).Format(time.RFC3339), Levels[i%4], i, i%10))
		}
		w.Close()
	}
	names := func(q Query) []string {
		q.Service, q.Env = "shop", "default"
		var out []string
		for _, r := range records(t, root, q) {
			out = append(out, r.Message)
		}
		return out
	}
	want := func(keep func(i int) bool) []string {
		var out []string
		for i := range 300 {
			if keep(i) {
				out = append(out, fmt.Sprintf("m%03d", i))
			}
		}
		return out
	}
	for _, c := range []struct {
		name string
		q    Query
		keep func(i int) bool
	}{
		{"all, merged by time", Query{}, func(int) bool { return true }},
		{"one release", Query{Release: 1}, func(i int) bool { return i%3 != 2 }},
		{"one instance", Query{Release: 1, Instance: 2}, func(i int) bool { return i%3 == 1 }},
		{"level", Query{Level: "warn"}, func(i int) bool { return i%4 >= 2 }},
		{"since", Query{Since: base.Add(250 * time.Second)}, func(i int) bool { return i >= 250 }},
		{"grep", Query{Grep: regexp.MustCompile(`"order":7\b`)}, func(i int) bool { return i%10 == 7 }},
		{"tail", Query{Tail: 10}, func(i int) bool { return i >= 290 }},
		{"tail of a level", Query{Tail: 5, Level: "error"}, func(i int) bool { return i%4 == 3 && i >= 280 }},
		{"a tail longer than the log", Query{Tail: int(^uint(0) >> 1)}, func(int) bool { return true }},
		{"nothing of that kind", Query{Release: 9}, func(int) bool { return false }},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, names(c.q), want(c.keep)...) })
	}
	if got := Tail(root, Query{Service: "shop", Env: "default", Release: 2}, 2); len(got) != 2 || got[1].Message != "m299" {
		t.Errorf("%+v", got)
	}
	stop := errors.New("enough")
	if err := Read(t.Context(), root, all, func(Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

// TestFollow reads along while another goroutine writes over many rotations: every record comes once, in order.
func TestFollow(t *testing.T) {
	for _, tail := range []int{0, 10} {
		t.Run(fmt.Sprint("tail ", tail), func(t *testing.T) {
			m := meta
			m.Size = 12 << 20 // what is removed before it was read would be missed, rightly
			root := t.TempDir()
			w := writer(t, root, m)
			w.Write("stdout", []byte("first\n"))
			w.Note("info", "go")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			const n = 30000
			started, ended := make(chan bool), make(chan bool)
			go func() {
				defer close(ended)
				<-started
				var b bytes.Buffer
				for i := range n {
					fmt.Fprintf(&b, "{\"msg\":\"%08d\",\"x\":%q}\n", i, strings.Repeat("x", 50))
					if i%500 == 499 {
						w.Write("stdout", b.Bytes())
						b.Reset()
					}
				}
			}()
			q := all
			q.Follow, q.Tail = true, tail
			next := -2
			err := Read(ctx, root, q, func(r Record) error {
				switch {
				case next == -2 && r.Message == "first":
				case next == -1 && r.Message == "go":
					close(started)
				case r.Message != fmt.Sprintf("%08d", next):
					return fmt.Errorf("%q came when number %d was next", r.Message, next)
				}
				if next++; next == n {
					cancel()
				}
				return nil
			})
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			<-ended
		})
	}
}

func TestBrokenSegmentIsSaid(t *testing.T) {
	root := t.TempDir()
	w := writer(t, root, meta)
	w.Write("stdout", []byte("one\n"))
	w.Close()
	w = writer(t, root, meta)
	w.Write("stdout", []byte("two\n"))
	w.Close()
	first := segments(w.dir)[0].path
	if err := os.WriteFile(first, []byte("(no zstd)"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, q := range []Query{all, {Service: "shop", Env: "default", Tail: 5}} {
		got := brief(records(t, root, q))
		if len(got) != 2 || !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "warn a part of this log cannot be read") }) {
			t.Errorf("%q", got)
		}
	}
}
