// Package inspect reads executable files, ours and foreign: ELF, Mach-O (also universal) and PE. It says what a file is
// for, what it needs, what a Go program tells of its build, and whether a given machine can run it as it is.
//
// A file is foreign until proven otherwise. So nothing here trusts a length, an offset or a count of the file: every read
// goes through [input], which knows where the file ends, and every number through [words], which answers 0 beyond its
// end. That is why this room has readers of its own in place of debug/elf, debug/macho and debug/pe, which decompress and
// allocate what a file asks them to, and give up on a program whose section headers are damaged though it runs.
package inspect

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Options say which machine the question is about. The zero value asks about this one.
type Options struct {
	// Root is the folder taken for / when loaders and libraries are looked up, such as an unpacked image. "" is this machine.
	Root string
	// OS and Arch are the machine's, in Go's words (GOOS, GOARCH). "" is what the files below Root are for, and without a
	// Root this machine's.
	OS, Arch string
	// Features reports whether the processor has a feature, by Linux's name for it in /proc/cpuinfo ("avx2"). nil asks
	// this machine's, where its architecture is the one in question.
	Features func(name string) bool
	// FileOnly leaves the machine aside: no library is looked up, and there is no verdict. This takes a few milliseconds
	// whatever the file's size.
	FileOnly bool
	// Packages also asks the machine's dpkg database which package each library that was found belongs to.
	Packages bool
}

// File reports on the executable file or shared library at path. All errors are [*fail.Error] of kind [fail.Usage]: the
// file is not there or may not be read, is a folder, empty, cut short, or no executable; then the hint says what it is.
func File(path string, o Options) (*Report, error) {
	in, closer, err := open(path)
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	return Read(in.r, int64(in.size), path, o)
}

// open opens a regular file.
func open(path string) (input, io.Closer, error) {
	none, op := input{}, "inspect "+path
	// Before it is opened: opening a named pipe waits for its other end.
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return none, nil, fail.New(fail.Usage, op, "there is no such file").Hinted("give the path of a program, such as bin/shop")
	case err != nil:
		return none, nil, fail.New(fail.Usage, op, "%w", cause(err)).Hinted("check the path and your rights on it")
	case st.IsDir():
		return none, nil, fail.New(fail.Usage, op, "it is a folder").Hinted("give the path of one file in it")
	case !st.Mode().IsRegular():
		return none, nil, fail.New(fail.Usage, op, "it is a device, pipe or socket").Hinted("give the path of a program")
	}
	f, err := os.Open(path)
	if err != nil {
		return none, nil, fail.New(fail.Usage, op, "%w", cause(err)).Hinted("check your rights on it")
	}
	return input{f, uint64(st.Size())}, f, nil
}

// cause takes the path out of a system error: the operation names it already.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// Read reports on the executable that r holds in its first size bytes. The name is used in messages and, where it is a
// path, for $ORIGIN. It returns the errors of [File] that are about contents.
func Read(r io.ReaderAt, size int64, name string, o Options) (*Report, error) {
	op := "inspect " + name
	in := input{r, uint64(max(size, 0))}
	if in.size == 0 {
		return nil, fail.New(fail.Usage, op, "it is empty").Hinted("build or download it again")
	}
	rep := &Report{Name: name, Size: size}
	var elf *elfFile
	var err error
	switch head := in.read(0, 64); {
	case isELF(head):
		elf, err = rep.readELF(in)
	case isMacho(head):
		err = rep.readMacho(in)
	case isFat(head):
		err = rep.readFat(in, o)
	case isPE(in, head):
		err = rep.readPE(in)
	default:
		err = notExecutable(in)
	}
	if err != nil {
		e := fail.As(err)
		e.Kind, e.Op = fail.Usage, op
		return nil, e
	}
	if !o.FileOnly {
		rep.judge(elf, o)
	}
	rep.settle()
	return rep, nil
}

// settle makes lists that are empty [] in JSON, which readers can loop over, and not null.
func (r *Report) settle() {
	some(&r.Arches)
	some(&r.Damage)
	some(&r.Libraries)
	some(&r.RunPath)
	some(&r.Found)
	some(&r.Missing)
	some(&r.TooOld)
	some(&r.CPULacks)
	some(&r.Sections)
	if r.Go != nil {
		some(&r.Go.Deps)
	}
}

func some[T any](list *[]T) {
	if *list == nil {
		*list = []T{}
	}
}

// abs is filepath.Abs, or path itself where the working directory is gone.
func abs(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}
