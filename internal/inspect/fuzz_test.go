package inspect

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// seeds are one small file of each kind, and what files go wrong by.
func seeds(f *testing.F) [][]byte {
	full := tiny{interp: "/lib64/ld-linux-x86-64.so.2", runpath: "$ORIGIN/../lib:/opt/$LIB/$PLATFORM", needed: []string{"libc.so.6", "libfoo.so.1"},
		asks: map[string][]string{"libc.so.6": {"GLIBC_2.2.5", "GLIBC_2.34"}}, defines: []string{"X_1", "X_2"},
		settings: "build\tGOOS=linux\nbuild\tGOARCH=amd64\nbuild\tGOAMD64=v4\nbuild\tvcs.modified=true\n"}.bytes()
	wide := bytes.Clone(full)
	wide[4] = 1 // the same bytes taken for 32 bits
	big := bytes.Clone(full)
	big[5] = 2 // and for the other byte order
	out := [][]byte{full, full[:100], wide, big, tiny{exec: true, settings: "build\tGOARCH=arm64\n"}.bytes(), tinyMacho(), tinyFat(), tinyPE(),
		[]byte("#!/bin/sh\n"), []byte("!<arch>\n"), []byte("\xca\xfe\xba\xbe\x00\x00\x00\x34")}
	names, err := filepath.Glob("testdata/*.elf")
	if err != nil || len(names) == 0 {
		f.Fatal("no seeds in testdata", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// FuzzRead holds that any bytes give a report or a usage error with a hint, and a report no larger than the file allows.
func FuzzRead(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	root := f.TempDir()
	put(f, root, "lib64/ld-linux-x86-64.so.2", tiny{soname: "ld-linux-x86-64.so.2"}.bytes())
	put(f, root, "lib/libc.so.6", tiny{soname: "libc.so.6", defines: []string{"GLIBC_2.2.5", "GLIBC_2.31"}}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Read(bytes.NewReader(b), int64(len(b)), "x", Options{Root: root, Features: func(string) bool { return false }})
		if err != nil {
			if e := fail.As(err); e.Kind != fail.Usage || e.Hint == "" || r != nil {
				t.Fatalf("%#v", e)
			}
			return
		}
		ok, text := r.Answer()
		if word, _, _ := strings.Cut(text, ":"); word != map[bool]string{true: "yes", false: "no"}[ok] || strings.Contains(text, "\n") {
			t.Fatalf("%v, %q", ok, text)
		}
		// A section takes 40 bytes of the file at least, and its name is bounded.
		if len(r.Sections) > len(b)/40+1 || len(r.Libraries) > maxEntries {
			t.Fatalf("%d sections and %d libraries of %d bytes", len(r.Sections), len(r.Libraries), len(b))
		}
		if _, err := json.Marshal(r); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzBuildID holds that any bytes give an ID or a usage error, and the same ID as the whole report's.
func FuzzBuildID(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := readBuildID(input{bytes.NewReader(b), uint64(len(b))})
		if err != nil && (fail.As(err).Hint == "" || id != "") {
			t.Fatalf("%q, %v", id, err)
		}
		r, err := Read(bytes.NewReader(b), int64(len(b)), "x", Options{FileOnly: true})
		if err == nil && r.Format == ELF && r.Go != nil && r.Go.BuildID != id {
			t.Fatalf("%q alone, %q in the report", id, r.Go.BuildID)
		}
	})
}
