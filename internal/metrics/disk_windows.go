package metrics

import (
	"fmt"

	"golang.org/x/sys/windows"
)

// disk returns the share of path's volume that is taken and the bytes free for this user.
func disk(path string) (used, free float64, err error) {
	p, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", path, err)
	}
	var left, total, all uint64
	if err := windows.GetDiskFreeSpaceEx(p, &left, &total, &all); err != nil || total == 0 {
		return 0, 0, fmt.Errorf("%s: a volume of %d bytes: %w", path, total, err)
	}
	return 1 - float64(left)/float64(total), float64(left), nil
}
