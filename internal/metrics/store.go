package metrics

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/compression"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// storeOptions are Prometheus's with less of everything that grows with the size of the company: a machine has some ten
// thousand series, not ten million.
func storeOptions(o Options) *tsdb.Options {
	t := tsdb.DefaultOptions()
	t.RetentionDuration = o.Retention.Milliseconds()
	t.MaxBytes = o.MaxBytes
	// As Prometheus does: at most a tenth of what is kept goes into one block, for a block is deleted as a whole.
	t.MaxBlockDuration = max(t.MinBlockDuration, min(o.Retention/10, 31*24*time.Hour).Milliseconds())
	t.WALCompression = compression.Snappy
	t.WALSegmentSize = 16 << 20
	t.MaxBlockChunkSegmentSize = 64 << 20
	t.StripeSize = 1 << 10
	t.HeadChunksWriteBufferSize = 256 << 10
	t.HeadChunksWriteQueueSize = 0 // written where they are cut: a queue is worth its memory only with many appenders
	t.EnableMemorySnapshotOnShutdown = true
	return t
}

// openStore opens the database, setting aside what cannot be read: single blocks, then the log of the last hours, then all
// there is. Metrics are not worth a machine that does not start. The registry is the one the store counts in.
func openStore(o Options) (*tsdb.DB, *prometheus.Registry, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, nil, fail.New(fail.Preflight, "open the metrics", "%w", err)
	}
	a := &aside{dir: o.Dir}
	if err := checkBlocks(o, a); err != nil {
		return nil, nil, err
	}
	remedies := []func(string) bool{recent, anything}
	for {
		reg := prometheus.NewRegistry() // a store that failed to open leaves its counters in the one it was given
		db, err := tsdb.Open(o.Dir, o.Log.With("part", "tsdb"), reg, storeOptions(o), nil)
		if err == nil {
			return db, reg, nil
		}
		if e := notOurs(o.Dir, err); e != nil {
			return nil, nil, e
		}
		moved := 0
		for moved == 0 && len(remedies) > 0 {
			var e error
			if moved, e = a.take(remedies[0]); e != nil {
				return nil, nil, fail.New(fail.Internal, "open the metrics", "%w", errors.Join(err, e))
			}
			remedies = remedies[1:]
		}
		if moved == 0 {
			return nil, nil, fail.New(fail.Internal, "open the metrics", "%w", err).Hinted("check the disk that holds %s", o.Dir)
		}
		warnAside(o, err.Error(), moved)
	}
}

// checkBlocks sets single broken blocks aside before the store finds them: it would refuse to open, and leave a goroutine
// behind. Meanwhile it holds the folder's lock, so that nobody's living database is touched.
func checkBlocks(o Options, a *aside) error {
	lock, err := tsdbutil.NewDirLocker(o.Dir, "tsdb", slog.New(slog.DiscardHandler), nil)
	if err == nil {
		err = lock.Lock()
	}
	if err != nil {
		if e := notOurs(o.Dir, err); e != nil {
			return e
		}
		return fail.New(fail.Internal, "open the metrics", "%w", err)
	}
	moved, err := a.take(brokenBlock)
	if err = errors.Join(err, lock.Release()); err != nil {
		return fail.New(fail.Internal, "open the metrics", "%w", err)
	}
	if moved > 0 {
		warnAside(o, "blocks do not open", moved)
	}
	return nil
}

func warnAside(o Options, why string, entries int) {
	o.Log.Warn("metrics that cannot be read were set aside", "why", why, "from", o.Dir, "to", asideDir(o.Dir), "entries", entries)
}

// notOurs tells the failures that moving files does not cure.
func notOurs(dir string, err error) error {
	switch {
	case strings.Contains(err.Error(), "lock DB directory"):
		return fail.New(fail.Busy, "open the metrics", "%s is open in another process: %w", dir, err).Hinted("is a second agent running?")
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EROFS):
		return fail.New(fail.Preflight, "open the metrics", "%w", err).Hinted("make room in %s, or make it writable for the agent", dir)
	}
	return nil
}

func asideDir(dir string) string { return dir + ".broken" }

// brokenBlock picks blocks that do not open, or whose index does not.
func brokenBlock(path string) bool {
	if _, err := ulid.ParseStrict(filepath.Base(path)); err != nil {
		return false
	}
	b, err := tsdb.OpenBlock(slog.New(slog.DiscardHandler), path, nil, nil)
	if err != nil {
		return true
	}
	return b.Close() != nil
}

// recent picks what has not become a block yet: the write-ahead logs, the chunks mapped from memory and its snapshot.
func recent(path string) bool {
	switch name := filepath.Base(path); name {
	case "wal", "wbl", "chunks_head":
		return true
	default:
		return strings.HasPrefix(name, "chunk_snapshot")
	}
}

func anything(path string) bool { return filepath.Base(path) != "lock" }

// aside moves what cannot be read into a folder beside. What an earlier start put there is deleted by the first move, so
// that a disk that keeps breaking things is not filled with them.
type aside struct {
	dir   string
	begun bool
}

// take moves the entries that pick names and returns how many those were.
func (a *aside) take(pick func(path string) bool) (int, error) {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return 0, err
	}
	moved := 0
	for _, e := range entries {
		from := filepath.Join(a.dir, e.Name())
		if !pick(from) {
			continue
		}
		if !a.begun {
			if err := errors.Join(os.RemoveAll(asideDir(a.dir)), os.MkdirAll(asideDir(a.dir), 0o700)); err != nil {
				return 0, err
			}
			a.begun = true
		}
		if err := os.Rename(from, filepath.Join(asideDir(a.dir), e.Name())); err != nil {
			return moved, fmt.Errorf("set %s aside: %w", from, err)
		}
		moved++
	}
	return moved, nil
}
