//go:build linux || darwin

package preflight

import (
	"golang.org/x/sys/unix"
)

// plentyFiles is the soft limit that Fix asks for, where the hard one allows it.
const plentyFiles = 65536

func writable(dir string) error { return unix.Access(dir, unix.W_OK|unix.X_OK) }

func space(dir string) (volume, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return volume{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return volume{}, err
	}
	v := volume{free: int64(fs.Bavail) * int64(fs.Bsize), inodes: int64(fs.Ffree), device: uint64(st.Dev)} //nolint:unconvert // the types differ by operating system
	if fs.Files == 0 {
		v.inodes = -1 // btrfs and others make them as they go
	}
	return v, nil
}

func measureFiles(f *facts) {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil {
		f.softFiles, f.hardFiles = l.Cur, l.Max
	}
}

// raiseFiles raises the soft limit of this process, which its children inherit.
func raiseFiles() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Cur = max(l.Cur, min(plentyFiles, l.Max))
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}
