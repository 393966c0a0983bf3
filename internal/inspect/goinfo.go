package inspect

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Go is what a Go program tells of its build. Where all that is left of it is the build ID, the rest is empty.
type Go struct {
	Version  string            `json:"version"`   // of Go: "go1.26.8"
	Path     string            `json:"path"`      // import path of its package main
	Main     Module            `json:"main"`      // the module that package is in
	Deps     []Module          `json:"deps"`      // the modules it was linked from
	VCS      VCS               `json:"vcs"`       // the source's revision, if it was stamped
	Settings map[string]string `json:"settings"`  // flags and environment of the build: "-race", "GOAMD64", "vcs.time"
	BuildID  string            `json:"build_id"`  // changes with anything that went into it
	Race     bool              `json:"race"`      // built with the race detector
	Cgo      bool              `json:"cgo"`       // built with cgo enabled, which does not imply that it is used
	CPULevel string            `json:"cpu_level"` // GOAMD64 or its like, as "GOAMD64=v3"; empty where none was recorded
}

// Module is a module a program was linked from.
type Module struct {
	Path    string  `json:"path"`
	Version string  `json:"version"`
	Sum     string  `json:"sum,omitempty"`     // as in go.sum
	Replace *Module `json:"replace,omitempty"` // what stood in for it
}

// VCS is the state of the source the program was built from.
type VCS struct {
	System   string `json:"system"`   // git
	Revision string `json:"revision"` // the commit
	Time     string `json:"time"`     // of the commit, RFC 3339
	Modified bool   `json:"modified"` // the tree had changes that were not committed
}

// image is where a program's bytes lie in memory.
type image struct {
	in    input
	order binary.ByteOrder
	segs  []seg
	info  span // the section for the build information, if there is one
	data  span // else the first data that may be written, near whose beginning the linker puts it
}

// seg is a part of the file and the address it is loaded to.
type seg struct{ addr, off, size uint64 }

// span is a range of addresses.
type span struct{ addr, size uint64 }

// at reads up to n bytes at an address.
func (m *image) at(addr, n uint64) []byte {
	for _, s := range m.segs {
		if addr >= s.addr && addr-s.addr < s.size {
			return m.in.read(s.off+(addr-s.addr), min(n, s.size-(addr-s.addr)))
		}
	}
	return nil
}

// infoMagic begins the linker's record of the build: cmd/link's buildinfo, debug/buildinfo reads it.
var infoMagic = []byte("\xff Go buildinf:")

const (
	infoHeader = 32
	infoAlign  = 16
	infoChunk  = 64 << 10
	infoReach  = 64 << 20 // in a program with no section for it, how far to look
)

// readGo fills the report with the build information, if there is any.
func (r *Report) readGo(m image, buildID string) {
	version, mod := m.buildInfo()
	if version == "" {
		if buildID != "" {
			r.Go = &Go{BuildID: buildID, Settings: map[string]string{}}
		}
		return
	}
	g := &Go{Version: version, BuildID: buildID, Settings: map[string]string{}}
	r.Go = g
	bi, err := debug.ParseBuildInfo(mod)
	if err != nil {
		r.damaged("its Go build information: %v", err)
		return
	}
	g.Path, g.Main = bi.Path, moduleOf(&bi.Main)
	for _, d := range bi.Deps {
		g.Deps = append(g.Deps, moduleOf(d))
	}
	for _, s := range bi.Settings {
		g.Settings[s.Key] = s.Value
	}
	s := g.Settings
	g.VCS = VCS{s["vcs"], s["vcs.revision"], s["vcs.time"], s["vcs.modified"] == "true"}
	g.Race, g.Cgo = s["-race"] == "true", s["CGO_ENABLED"] == "1"
	if os := s["GOOS"]; os != "" && r.OS == "linux" {
		r.OS = os // ELF does not always tell
	}
	if arch := s["GOARCH"]; arch != "" {
		if arch != r.Arch {
			r.damaged("its build information says %s, its header %s", arch, r.Arch)
		}
		if level := s[levelSetting(arch)]; level != "" {
			g.CPULevel = levelSetting(arch) + "=" + level
			r.CPULevel = g.CPULevel
		}
	}
}

func moduleOf(m *debug.Module) Module {
	out := Module{Path: m.Path, Version: m.Version, Sum: m.Sum}
	if m.Replace != nil {
		by := moduleOf(m.Replace)
		out.Replace = &by
	}
	return out
}

// buildInfo returns the version of Go and the text of the module information.
func (m *image) buildInfo() (version, mod string) {
	addr, ok := m.findInfo()
	if !ok {
		return "", ""
	}
	header := m.at(addr, infoHeader)
	if len(header) < infoHeader {
		return "", ""
	}
	const inline = 2
	if flags := header[15]; flags&inline != 0 { // since Go 1.18
		version, addr = m.varString(addr + infoHeader)
		mod, _ = m.varString(addr)
	} else {
		version, mod = m.pointers(words{header, m.order}, header[14] == 8)
	}
	// The text stands between two marks of 16 bytes.
	if len(mod) >= 33 && mod[len(mod)-17] == '\n' {
		mod = mod[16 : len(mod)-16]
	} else {
		mod = ""
	}
	return version, mod
}

// findInfo looks for the magic, which is aligned to 16 bytes.
func (m *image) findInfo() (addr uint64, ok bool) {
	where := m.info
	if where.size == 0 {
		where = m.data
	}
	start := (where.addr + infoAlign - 1) &^ (infoAlign - 1)
	end := where.addr + min(where.size, infoReach)
	for ; start < end; start += infoChunk {
		chunk := m.at(start, min(infoChunk, end-start))
		if len(chunk) == 0 {
			return 0, false
		}
		for at := 0; at < len(chunk); {
			i := bytes.Index(chunk[at:], infoMagic)
			if i < 0 {
				break
			}
			if at += i; at%infoAlign == 0 {
				return start + uint64(at), true
			}
			at++
		}
	}
	return 0, false
}

// varString reads a string behind its length and returns the address that follows.
func (m *image) varString(addr uint64) (string, uint64) {
	n, size := binary.Uvarint(m.at(addr, binary.MaxVarintLen64))
	if size <= 0 {
		return "", 0
	}
	addr += uint64(size)
	b := m.at(addr, n)
	if uint64(len(b)) < n {
		return "", 0
	}
	return string(b), addr + n
}

// pointers follows the two pointers to Go strings that stood in the header before Go 1.18.
func (m *image) pointers(header words, wide bool) (version, mod string) {
	size := uint64(4)
	if wide {
		size = 8
	}
	str := func(addr uint64) string {
		w := words{m.at(addr, 2*size), m.order}
		return string(m.at(w.word(0, wide), w.word(size, wide)))
	}
	return str(header.word(16, wide)), str(header.word(16+size, wide))
}

// image is the ELF file's memory, where info is the address of the build information if a section gives it.
func (e *elfFile) image(info span) image {
	m := image{in: e.in, order: e.order, info: info}
	for _, p := range e.progs {
		if p.Type != elf.PT_LOAD || p.Filesz == 0 {
			continue
		}
		m.segs = append(m.segs, seg{p.Vaddr, p.Off, p.Filesz})
		if p.Flags&(elf.PF_X|elf.PF_W) == elf.PF_W && m.data.size == 0 {
			m.data = span{p.Vaddr, p.Filesz}
		}
	}
	return m
}

// The mark around the build ID in the text of programs that are not ELF: cmd/internal/buildid.
var (
	markStart = []byte("\xff Go build ID: \"")
	markEnd   = []byte("\"\n \xff")
)

// buildIDReach is how many bytes from the beginning of the text may lie before the mark.
const buildIDReach = 64 << 10

// goMark finds the build ID between its marks.
func goMark(b []byte) string {
	_, rest, ok := bytes.Cut(b, markStart)
	if !ok {
		return ""
	}
	quoted, _, ok := bytes.Cut(rest, markEnd)
	if !ok || len(quoted) > maxPath {
		return ""
	}
	id, err := strconv.Unquote(`"` + string(quoted) + `"`)
	if err != nil || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "" // a packed program may have shreds of one
	}
	return id
}

// BuildID returns the Go build ID of the executable at path, "" where it has none. It reads a few kilobytes and nothing
// else, so that it can be asked at every turn. The errors are those of [File].
func BuildID(path string) (string, error) {
	in, closer, err := open(path)
	if err != nil {
		return "", err
	}
	defer closer.Close()
	id, err := readBuildID(in)
	if err != nil {
		e := fail.As(err)
		e.Kind, e.Op = fail.Usage, "inspect "+path
		return "", e
	}
	return id, nil
}

func readBuildID(in input) (string, error) {
	head := in.read(0, 64)
	switch {
	case isELF(head):
		e, err := parseHeaders(in)
		if err != nil {
			return "", err
		}
		return e.notes().goID, nil
	case isMacho(head), isPE(in, head):
		if id := goMark(in.read(0, buildIDReach)); id != "" {
			return id, nil
		}
		fallthrough // a large header: then the headers say where the text begins
	case isFat(head):
		r, err := Read(in.r, int64(in.size), "", Options{FileOnly: true})
		if err != nil || r.Go == nil {
			return "", err
		}
		return r.Go.BuildID, nil
	}
	return "", notExecutable(in)
}
