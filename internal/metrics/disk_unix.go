//go:build !windows

package metrics

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// disk returns the share of path's file system that is taken and the bytes free for an ordinary user. What is kept back for
// root counts as neither, as in df.
func disk(path string) (used, free float64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", path, err)
	}
	taken, left := float64(s.Blocks)-float64(s.Bfree), float64(s.Bavail)
	if taken+left <= 0 {
		return 0, 0, fmt.Errorf("%s: a file system without a size", path)
	}
	return taken / (taken + left), left * float64(s.Bsize), nil
}
