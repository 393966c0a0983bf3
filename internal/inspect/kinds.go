package inspect

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// signs are how well-known files begin, which people give by mistake for a program.
var signs = []struct{ prefix, is, hint string }{
	{"!<arch>\ndebian-binary", "a Debian package", "unpack it with `dpkg-deb -x` and give a program in it"},
	{"!<arch>\n", "an archive of object files (a static library)", "give the program it was linked into"},
	{"!<thin>\n", "an archive of object files (a static library)", "give the program it was linked into"},
	{"go object ", "a Go object file", "give the program it was linked into"},
	{"\x1f\x8b", "compressed with gzip", "unpack it first"},
	{"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first"},
	{"\xfd7zXZ", "compressed with xz", "unpack it first"},
	{"BZh", "compressed with bzip2", "unpack it first"},
	{"PK\x03\x04", "a zip archive", "unpack it and give a program in it"},
	{"\xed\xab\xee\xdb", "an RPM package", "unpack it with `rpm2cpio` and give a program in it"},
	{"\x00asm", "a WebAssembly module", "a WebAssembly runtime runs it, not the kernel; build with GOOS=linux for a program"},
	{"\xca\xfe\xba\xbe", "a Java class", "a Java runtime runs it, not the kernel"},
	{"BC\xc0\xde", "LLVM bitcode", "compile and link it first"},
	{"\x01\xdf", "an AIX program", "only ELF, Mach-O and PE can be read"},
	{"\x01\xf7", "an AIX program", "only ELF, Mach-O and PE can be read"},
	{"MZ", "a DOS program, or a Windows program cut short", "download or build it again"},
	{"\x7fELF", "an ELF file cut short", "download or build it again"},
}

// notExecutable says what a file is that is no executable.
func notExecutable(in input) error {
	head := in.read(0, 512)
	if rest, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ := strings.Cut(string(rest), "\n")
		return fail.New(fail.Usage, "", "it is a script, which %q runs", strings.ToValidUTF8(strings.TrimSpace(line), "?")).
			Hinted("inspect the program that runs it")
	}
	for _, s := range signs {
		if bytes.HasPrefix(head, []byte(s.prefix)) {
			return fail.New(fail.Usage, "", "it is no program but %s", s.is).Hinted("%s", s.hint)
		}
	}
	what := "data"
	if isText(head) {
		what = "text"
	}
	return fail.New(fail.Usage, "", "it is no program but %s", what).Hinted("give an ELF, Mach-O or PE file")
}

// isText reports whether b looks like the beginning of a text in UTF-8.
func isText(b []byte) bool {
	if len(b) == 512 {
		// A character may be cut in two at the end.
		b = b[:512-utf8.UTFMax]
		for len(b) > 0 && b[len(b)-1] >= utf8.RuneSelf {
			b = b[:len(b)-1]
		}
	}
	return utf8.Valid(b) && !bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' && !strings.ContainsRune("\t\n\r\f\x1b", r) })
}

// short is the error for a file that ends before what its headers announce.
func short(what string) error {
	return fail.New(fail.Usage, "", "it is cut short: %s", what).Hinted("download or build it again")
}

// notProgram is the error for a file of an executable's format that nobody can start or load.
func notProgram(is, hint string) error {
	return fail.New(fail.Usage, "", "it is no program but %s", is).Hinted("%s", hint)
}
