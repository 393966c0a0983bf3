package metrics

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWhatIsBroken damages a database in every way it may be damaged. It opens again each time, says so in the log, keeps
// what can be kept, and takes new samples.
func TestWhatIsBroken(t *testing.T) {
	cases := []struct {
		name   string
		damage func(t *testing.T, dir string)
		old    bool // the samples from before are still there
	}{
		{"nothing", func(*testing.T, string) {}, true},
		{"a killed agent", func(t *testing.T, dir string) { drop(t, dir, "chunk_snapshot*") }, true},
		{"the log's end is torn", func(t *testing.T, dir string) {
			drop(t, dir, "chunk_snapshot*")
			spoil(t, dir, "wal/0*", -200)
		}, false}, // one small segment: all of it may be behind the tear
		{"the log begins with zeroes", func(t *testing.T, dir string) {
			drop(t, dir, "chunk_snapshot*")
			spoil(t, dir, "wal/0*", 0)
		}, false},
		{"the log is a file", func(t *testing.T, dir string) {
			drop(t, dir, "chunk_snapshot*")
			drop(t, dir, "wal")
			put(t, filepath.Join(dir, "wal"), "not a folder")
		}, false},
		{"a block without index", func(t *testing.T, dir string) {
			block := filepath.Join(dir, "01BX5ZZKBKACTAV9WEVGEMMVRZ")
			if err := os.MkdirAll(filepath.Join(block, "chunks"), 0o755); err != nil {
				t.Fatal(err)
			}
			put(t, filepath.Join(block, "meta.json"), `{"ulid":"01BX5ZZKBKACTAV9WEVGEMMVRZ","minTime":1,"maxTime":2,"version":1,"compaction":{"level":1,"sources":["01BX5ZZKBKACTAV9WEVGEMMVRZ"]}}`)
			put(t, filepath.Join(block, "index"), "garbage")
		}, true},
		{"a lock left by a dead agent", func(t *testing.T, dir string) { put(t, filepath.Join(dir, "lock"), "") }, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "m")
			db := open(t, Options{Dir: dir})
			db.write(t, 50, time.Second, func(i int, r *Round) { r.Gauge("old", float64(i)) })
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			c.damage(t, dir)
			var l log
			db = open(t, Options{Dir: dir, Log: l.logger()})
			db.write(t, 1, time.Second, func(_ int, r *Round) { r.Gauge("new", 7) })
			if got := now(t, db, "new", ""); got[""] != 7 {
				t.Errorf("it takes no samples: %v", got)
			}
			if got := len(now(t, db, "old", "")); c.old && got != 1 {
				t.Errorf("the old samples are gone; the log:\n%s", l.String())
			}
			if !c.old && !strings.Contains(l.String(), "level=WARN") {
				t.Errorf("nothing was said:\n%s", l.String())
			}
		})
	}
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	got, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(got) == 0 {
		t.Fatalf("no %s in %s: %v", pattern, dir, err)
	}
	return got
}

func drop(t *testing.T, dir, pattern string) {
	t.Helper()
	for _, f := range glob(t, dir, pattern) {
		if err := os.RemoveAll(f); err != nil {
			t.Fatal(err)
		}
	}
}

// spoil overwrites 100 bytes at an offset, from the end of what was written when it is negative.
func spoil(t *testing.T, dir, pattern string, at int) {
	t.Helper()
	for _, f := range glob(t, dir, pattern) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if at < 0 {
			at = max(0, len(strings.TrimRight(string(b), "\x00"))+at)
		}
		for i := at; i < min(at+100, len(b)); i++ {
			b[i] = 0xa5
		}
		put(t, f, string(b))
	}
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
