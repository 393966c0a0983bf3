package inspect

import (
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// tree is the folder that stands for a machine's /; "" is this machine. Paths in it are slash-separated and absolute.
type tree string

// maxLinks is how many symbolic links one path may go through, as in Linux.
const maxLinks = 40

// real turns a path of the machine into one of ours. Symbolic links are followed by hand: an absolute one starts again at
// the tree's top, and no ".." leads out of it.
func (t tree) real(name string) (string, bool) {
	if t == "" {
		return filepath.FromSlash(name), true
	}
	at, todo, links := "/", strings.Split(name, "/"), 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		next := path.Join(at, part) // at "/" this stays, whatever the part
		ours := filepath.Join(string(t), filepath.FromSlash(next))
		st, err := os.Lstat(ours)
		if err != nil {
			return "", false
		}
		if st.Mode()&os.ModeSymlink == 0 {
			at = next
			continue
		}
		to, err := os.Readlink(ours)
		if links++; err != nil || links > maxLinks {
			return "", false
		}
		to = filepath.ToSlash(to)
		if path.IsAbs(to) {
			at = "/"
		}
		todo = append(strings.Split(to, "/"), todo...)
	}
	return filepath.Join(string(t), filepath.FromSlash(at)), true
}

// open opens a regular file of the machine.
func (t tree) open(name string) (input, io.Closer, bool) {
	ours, ok := t.real(name)
	if !ok {
		return input{}, nil, false
	}
	in, closer, err := open(ours)
	return in, closer, err == nil
}

// read returns the first bytes of a text file of the machine.
func (t tree) read(name string) string {
	in, closer, ok := t.open(name)
	if !ok {
		return ""
	}
	defer closer.Close()
	return string(in.read(0, 1<<20))
}

// list returns the names in a folder of the machine.
func (t tree) list(dir string) (names []string) {
	ours, ok := t.real(dir)
	if !ok {
		return nil
	}
	entries, err := os.ReadDir(ours)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// header reads the ELF header of a file of the machine.
func (t tree) header(name string) (*elfFile, bool) {
	in, closer, ok := t.open(name)
	if !ok {
		return nil, false
	}
	defer closer.Close()
	e, err := parseHeader(in)
	return e, err == nil
}

// inside is a path of ours as the machine sees it, where it lies in the tree.
func (t tree) inside(ours string) (string, bool) {
	ours = abs(ours)
	if t == "" {
		return filepath.ToSlash(ours), true
	}
	rel, err := filepath.Rel(abs(string(t)), ours)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return "/" + filepath.ToSlash(rel), true
}

// landmarks are programs that nearly every system has; what they are for, the system is for.
var landmarks = []string{"/bin/sh", "/bin/busybox", "/usr/bin/env", "/bin/true", "/sbin/init", "/usr/lib/systemd/systemd", "/bin/bash"}

// arch says for which architecture the tree's own programs are, "" if it has none.
func (t tree) arch() string {
	for _, name := range landmarks {
		if e, ok := t.header(name); ok {
			return e.arch()
		}
	}
	return ""
}
