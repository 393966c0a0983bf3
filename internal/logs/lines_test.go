package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var access = Query{Service: "shop", Env: "default", Access: true}

// requestLine is the n-th line of a writer, as an edge writes it.
func requestLine(who, n, pad int) string {
	at := time.Now().UTC().Format("2006-01-02T15:04:05.000000000Z")
	return fmt.Sprintf(`{"time":%q,"level":"info","service":"shop","environment":"default","release":%d,"instance":1,"stream":"access","trace_id":"ab","n":%d,"pad":%q}`+"\n",
		at, who, n, strings.Repeat("x", pad))
}

// Several writers of one log, each as a process has it, lose no line and tear none, while they rotate it.
func TestSeveralWritersOfOneLog(t *testing.T) {
	const writers, batches, each = 4, 100, 5
	root := t.TempDir()
	dir := AccessDir(root, "shop", "default")
	var wg sync.WaitGroup
	for who := 1; who <= writers; who++ {
		wg.Go(func() {
			l := NewLines(dir, 2<<20, time.Hour)
			for b := range batches {
				var batch []byte
				for i := range each {
					batch = append(batch, requestLine(who, b*each+i, 300)...)
				}
				if n, err := l.Write(batch); err != nil || n != len(batch) {
					t.Errorf("%d of %d bytes: %v", n, len(batch), err)
				}
			}
			l.Close()
		})
	}
	wg.Wait()
	next := map[int]int{}
	for _, r := range records(t, root, access) {
		if got := string(r.Fields[0].Value); got != fmt.Sprint(next[r.Release]) {
			t.Fatalf("writer %d: %s, want %d", r.Release, got, next[r.Release])
		}
		next[r.Release]++
	}
	for who := 1; who <= writers; who++ {
		if next[who] != batches*each {
			t.Errorf("writer %d: %d lines of %d", who, next[who], batches*each)
		}
	}
	packed, _ := filepath.Glob(filepath.Join(dir, "*.zst"))
	if segs := segments(dir); len(segs) < 4 || len(packed) != len(segs)-1 {
		t.Errorf("%d segments, %d of them compressed", len(segs), len(packed))
	}
}

func TestSizeOfSharedLogIsKept(t *testing.T) {
	root := t.TempDir()
	dir := AccessDir(root, "shop", "default")
	l := NewLines(dir, 256<<10, time.Hour)
	for i := range 2000 {
		line := strings.Replace(requestLine(1, i, 1), `"x"`, fmt.Sprintf("%q", noise(500)), 1)
		if _, err := l.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			l.Close() // what is being compressed stands there twice
			if have := onDisk(t, dir); have > 256<<10 {
				t.Fatalf("%d bytes after %d lines", have, i)
			}
		}
	}
	l.Close()
	if got := records(t, root, access); len(got) < 100 || string(got[len(got)-1].Fields[0].Value) != "1999" {
		t.Errorf("%d records", len(got))
	}
}

// A segment's age is that of its first line, whoever wrote it.
func TestSharedLogRotatesByAge(t *testing.T) {
	root := t.TempDir()
	dir := AccessDir(root, "shop", "default")
	old := strings.Replace(requestLine(1, 0, 1), time.Now().UTC().Format("2006-"), "2001-", 1)
	for _, line := range []string{old, requestLine(1, 1, 1), requestLine(1, 2, 1)} {
		l := NewLines(dir, 1<<20, 8*time.Hour)
		if _, err := l.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	if segs := segments(dir); len(segs) != 2 {
		t.Errorf("%+v", segs)
	}
}

// Who empties the folder by hand finds the next lines in it.
func TestSharedLogThatWasRemoved(t *testing.T) {
	root := t.TempDir()
	l := NewLines(AccessDir(root, "shop", "default"), 1<<20, time.Hour)
	for i := range 3 {
		if _, err := l.Write([]byte(requestLine(1, i, 1))); err != nil {
			t.Fatal(err)
		}
		if got := records(t, root, access); len(got) != 1 || string(got[0].Fields[0].Value) != fmt.Sprint(i) {
			t.Errorf("%+v", got)
		}
		if err := os.RemoveAll(filepath.Join(root, "shop@default")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAccessQueries(t *testing.T) {
	root := t.TempDir()
	w := writer(t, root, meta)
	w.Write("stdout", []byte("not this\n"))
	w.Close()
	l := NewLines(AccessDir(root, "shop", "default"), 1<<20, time.Hour)
	var text []string
	for i := range 6 {
		text = append(text, requestLine(1+i%2, i, i))
		if i == 4 {
			text[i] = strings.Replace(text[i], `"info"`, `"error"`, 1)
		}
		if _, err := l.Write([]byte(text[i])); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		change func(*Query)
		want   []int
	}{
		"all":     {func(*Query) {}, []int{0, 1, 2, 3, 4, 5}},
		"release": {func(q *Query) { q.Release = 2 }, []int{1, 3, 5}},
		"level":   {func(q *Query) { q.Level = "error" }, []int{4}},
		"tail":    {func(q *Query) { q.Tail, q.Release = 2, 1 }, []int{2, 4}},
		"since":   {func(q *Query) { q.Since = time.Now().Add(time.Hour) }, nil},
	} {
		q := access
		c.change(&q)
		got := records(t, root, q)
		if len(got) != len(c.want) {
			t.Errorf("%s: %d records", name, len(got))
			continue
		}
		for i, r := range got {
			if b, err := r.MarshalJSON(); err != nil || string(b)+"\n" != text[c.want[i]] {
				t.Errorf("%s: %s is not what was written: %s", name, b, text[c.want[i]])
			}
		}
	}
	for _, r := range records(t, root, all) {
		if r.Stream == Access {
			t.Errorf("a request among what the service printed: %+v", r)
		}
	}
}
