package logs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

type segment struct {
	path string
	seq  int
	size int64
	mod  time.Time
}

func segmentName(dir string, seq int) string {
	return filepath.Join(dir, fmt.Sprintf("%08d.jsonl", seq))
}

// segments lists a log's segments, oldest first; of a plain and a compressed one of the same number the plain one counts.
func segments(dir string) []segment {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	by := map[int]segment{}
	for _, e := range entries {
		var seq int
		plain := strings.HasSuffix(e.Name(), ".jsonl")
		if _, err := fmt.Sscanf(e.Name(), "%08d.jsonl", &seq); err != nil || !plain && !strings.HasSuffix(e.Name(), ".jsonl.zst") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		fi, err := os.Stat(path)
		if err != nil && plain { // it was compressed between the listing and now
			path += ".zst"
			fi, err = os.Stat(path)
		}
		if err != nil {
			continue
		}
		if _, ok := by[seq]; !ok || plain {
			by[seq] = segment{path, seq, fi.Size(), fi.ModTime()}
		}
	}
	out := make([]segment, 0, len(by))
	for _, s := range by {
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].seq < out[j].seq })
	return out
}

// prune removes the oldest of the segments before current until the others hold at most size bytes, and what is too old.
func prune(dir string, current int, size int64, age time.Duration) {
	all := segments(dir)
	var total int64
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].seq >= current {
			continue
		}
		total += all[i].size
		if all[i].size == 0 || total > size || age > 0 && time.Since(all[i].mod) > age {
			os.Remove(all[i].path)
			os.Remove(all[i].path + ".zst") // it may just have been compressed
		}
	}
}

// pack compresses every segment but the current one. One that fails stays as it is and is tried at the next rotation.
func pack(dir string, current int) {
	torn, _ := filepath.Glob(filepath.Join(dir, "*.tmp")) // of a supervisor that was killed
	for _, t := range torn {
		os.Remove(t)
	}
	for _, s := range segments(dir) {
		if s.seq < current && strings.HasSuffix(s.path, ".jsonl") {
			compress(s.path)
		}
	}
}

func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1))
	if err == nil {
		_, err = io.Copy(z, in)
	}
	if err == nil {
		err = z.Close()
	}
	if err == nil {
		err = out.Sync() // or a power cut could take both: the original is removed below
	}
	if e := out.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Chtimes(tmp, fi.ModTime(), fi.ModTime())
	}
	if err == nil {
		err = os.Rename(tmp, path+".zst")
	}
	if err == nil {
		if err = os.Remove(path); errors.Is(err, os.ErrNotExist) {
			err = os.Remove(path + ".zst") // pruned meanwhile: it must not come back
		}
	}
	return err
}
