package inspect

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tiny describes an ELF file of a few hundred bytes: for amd64, with everything the loader reads and no code.
type tiny struct {
	interp, soname, rpath, runpath string
	needed                         []string
	asks                           map[string][]string // versions by library; one library is enough for a test
	defines                        []string
	settings                       string // lines of Go build information
	machine                        uint16 // 62, amd64, if 0
	exec                           bool   // ET_EXEC in place of ET_DYN
}

// dynamic section entries of a tiny file, in the numbers of elf(5).
const (
	dtNeeded, dtStrtab, dtStrsz, dtSoname, dtRpath, dtRunpath, dtFlags1        = 1, 5, 10, 14, 15, 29, 0x6ffffffb
	dtVerdef, dtVerdefnum, dtVerneed, dtVerneednum                             = 0x6ffffffc, 0x6ffffffd, 0x6ffffffe, 0x6fffffff
	ptLoad, ptDynamic, ptInterp, ptNote                                 uint32 = 1, 2, 3, 4
)

// bytes lays the file out; addresses are offsets.
func (f tiny) bytes() []byte {
	le := binary.LittleEndian
	const progs = 4
	b := zeros(64 + 56*progs)
	str := []byte{0}
	name := func(s string) uint64 { at := len(str); str = append(append(str, s...), 0); return uint64(at) }
	var dyn []byte
	add := func(tag, val uint64) { dyn = le.AppendUint64(le.AppendUint64(dyn, tag), val) }
	opt := func(tag uint64, s string) {
		if s != "" {
			add(tag, name(s))
		}
	}
	place := func(data []byte) (off, n uint64) {
		for len(b)%16 != 0 {
			b = append(b, 0)
		}
		off = uint64(len(b))
		b = append(b, data...)
		return off, uint64(len(data))
	}
	for _, n := range f.needed {
		add(dtNeeded, name(n))
	}
	opt(dtSoname, f.soname)
	opt(dtRpath, f.rpath)
	opt(dtRunpath, f.runpath)
	if len(f.asks) > 0 {
		at, _ := place(f.verneed(name))
		add(dtVerneed, at)
		add(dtVerneednum, uint64(len(f.asks)))
	}
	if len(f.defines) > 0 {
		at, _ := place(f.verdef(name))
		add(dtVerdef, at)
		add(dtVerdefnum, uint64(len(f.defines)))
	}
	strAt, strLen := place(str)
	add(dtStrtab, strAt)
	add(dtStrsz, strLen)
	add(0, 0)
	dynAt, dynLen := place(dyn)
	interpAt, interpLen := place([]byte(f.interp + "\x00"))
	noteAt, noteLen := place(note("Go", 4, "action/main"))
	if f.settings != "" {
		place(goInfo(f.settings))
	}
	copy(b, "\x7fELF\x02\x01\x01")
	typ, machine := uint16(3), f.machine
	if f.exec {
		typ = 2
	}
	if machine == 0 {
		machine = 62
	}
	le.PutUint16(b[16:], typ)
	le.PutUint16(b[18:], machine)
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[24:], 1)  // entry
	le.PutUint64(b[32:], 64) // program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], progs)
	prog := func(i int, t uint32, off, n uint64) {
		p := b[64+56*i:]
		le.PutUint32(p, t)
		le.PutUint32(p[4:], 6)
		for _, at := range []int{8, 16, 24} {
			le.PutUint64(p[at:], off)
		}
		le.PutUint64(p[32:], n)
		le.PutUint64(p[40:], n)
		le.PutUint64(p[48:], 4)
	}
	prog(0, ptLoad, 0, uint64(len(b)))
	if f.interp != "" || len(f.needed) > 0 || f.soname != "" || len(f.defines) > 0 {
		prog(1, ptDynamic, dynAt, dynLen)
	}
	if f.interp != "" {
		prog(2, ptInterp, interpAt, interpLen)
	}
	prog(3, ptNote, noteAt, noteLen)
	return b
}

func (f tiny) verneed(name func(string) uint64) (out []byte) {
	le := binary.LittleEndian
	left := len(f.asks)
	for lib, versions := range f.asks {
		rec := zeros(16)
		le.PutUint16(rec, 1)
		le.PutUint16(rec[2:], uint16(len(versions)))
		le.PutUint32(rec[4:], uint32(name(lib)))
		le.PutUint32(rec[8:], 16)
		for i, v := range versions {
			aux := make([]byte, 16)
			le.PutUint32(aux[8:], uint32(name(v)))
			if i < len(versions)-1 {
				le.PutUint32(aux[12:], 16)
			}
			rec = append(rec, aux...)
		}
		if left--; left > 0 {
			le.PutUint32(rec[12:], uint32(len(rec)))
		}
		out = append(out, rec...)
	}
	return out
}

func (f tiny) verdef(name func(string) uint64) (out []byte) {
	le := binary.LittleEndian
	for i, v := range f.defines {
		rec := make([]byte, 28)
		le.PutUint16(rec, 1)
		le.PutUint16(rec[6:], 1)
		le.PutUint32(rec[12:], 20)
		if i < len(f.defines)-1 {
			le.PutUint32(rec[16:], 28)
		}
		le.PutUint32(rec[20:], uint32(name(v)))
		out = append(out, rec...)
	}
	return out
}

func note(name string, typ uint32, desc string) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(name)+1))
	b = le.AppendUint32(b, uint32(len(desc)))
	b = le.AppendUint32(b, typ)
	pad := func(s string) {
		b = append(b, s...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	pad(name + "\x00")
	pad(desc)
	return b
}

// goInfo is what cmd/link leaves of the build, since Go 1.18.
func goInfo(settings string) []byte {
	b := append([]byte("\xff Go buildinf:\x08\x02"), make([]byte, 16)...)
	mod := strings.Repeat("<", 16) + "path\texample.com/x\nmod\texample.com/x\tv1.2.3\th1:sum=\n" +
		"dep\texample.com/y\tv0.1.0\n=>\t../y\t(devel)\t\n" + settings + strings.Repeat(">", 16)
	for _, s := range []string{"go1.26.8", mod} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

// tinyMacho is a program for darwin/arm64 of a few hundred bytes.
func tinyMacho() []byte {
	le := binary.LittleEndian
	var cmds []byte
	n := 0
	command := func(id uint32, fields []uint32, tail string) {
		c := le.AppendUint32(nil, id)
		size := (8 + 4*len(fields) + len(tail) + 8) &^ 7
		c = le.AppendUint32(c, uint32(size))
		for _, f := range fields {
			c = le.AppendUint32(c, f)
		}
		c = append(c, tail...)
		cmds = append(cmds, append(c, make([]byte, size-len(c))...)...)
		n++
	}
	command(loadLinker, []uint32{12}, "/usr/lib/dyld\x00")
	command(buildVersion, []uint32{1, 12 << 16, 0, 0}, "")
	command(0xc, []uint32{24, 0, 0, 0}, "/usr/lib/libSystem.B.dylib\x00")
	command(0xc, []uint32{24, 0, 0, 0}, "@rpath/libfoo.dylib\x00")
	command(0x8000001c, []uint32{12}, "@executable_path/lib\x00")
	command(signature, []uint32{0, 0}, "")
	info := goInfo("build\tGOOS=darwin\nbuild\tGOARCH=arm64\n")
	const segment = 72 + 80
	at := uint64(32+len(cmds)+segment+15) &^ 15
	seg := le.AppendUint32(nil, 0x19)
	seg = le.AppendUint32(seg, segment)
	seg = append(seg, "__DATA\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)
	for _, v := range []uint64{0x1000, uint64(len(info)), at, uint64(len(info))} {
		seg = le.AppendUint64(seg, v)
	}
	seg = le.AppendUint32(le.AppendUint32(seg, 3), 3)
	seg = le.AppendUint32(le.AppendUint32(seg, 1), 0)
	seg = append(seg, "__go_buildinfo\x00\x00__DATA\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)
	seg = le.AppendUint64(le.AppendUint64(seg, 0x1000), uint64(len(info)))
	seg = append(le.AppendUint32(seg, uint32(at)), make([]byte, 28)...)
	cmds = append(cmds, seg...)
	var b []byte
	for _, v := range []uint32{0xfeedfacf, 0x100000c, 0, 2, uint32(n + 1), uint32(len(cmds)), 0x200000, 0} {
		b = le.AppendUint32(b, v)
	}
	b = append(b, cmds...)
	b = append(b, make([]byte, at-uint64(len(b)))...)
	return append(b, info...)
}

// tinyFat is a universal file with that program in it.
func tinyFat() []byte {
	m := tinyMacho()
	b := []byte{0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 1}
	for _, v := range []uint32{0x100000c, 0, 64, uint32(len(m)), 3} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return append(append(b, make([]byte, 64-len(b))...), m...)
}

// tinyPE is a program for windows/amd64 of a few hundred bytes.
func tinyPE() []byte {
	le := binary.LittleEndian
	b := zeros(0x200)
	copy(b, "MZ")
	le.PutUint32(b[60:], 64)
	copy(b[64:], "PE\x00\x00\x64\x86\x01\x00")
	le.PutUint16(b[84:], 240)
	le.PutUint16(b[86:], 2)
	opt := b[88:]
	le.PutUint16(opt, 0x20b)
	le.PutUint64(opt[24:], 0x140000000)
	le.PutUint16(opt[48:], 6)
	le.PutUint16(opt[50:], 1)
	le.PutUint16(opt[68:], 3)
	le.PutUint16(opt[70:], 0x40)
	le.PutUint32(opt[112+8:], 0x1000) // imports
	data := zeros(64)
	le.PutUint32(data[12:], 0x1000+40)
	copy(data[40:], "kernel32.dll")
	data = append(data, goInfo("build\tGOOS=windows\nbuild\tGOARCH=amd64\n")...)
	data = append(data, "\xff Go build ID: \"a/b\"\n \xff"...)
	s := b[88+240:]
	copy(s, ".data")
	le.PutUint32(s[8:], uint32(len(data)))
	le.PutUint32(s[12:], 0x1000)
	le.PutUint32(s[16:], uint32(len(data)))
	le.PutUint32(s[20:], 0x200)
	le.PutUint32(s[36:], 0xc0000040)
	return append(b, data...)
}

// put writes a file below root, with its folders.
func put(t testing.TB, root, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(root, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func readTiny(t *testing.T, b []byte, o Options) *Report {
	t.Helper()
	r, err := Read(bytes.NewReader(b), int64(len(b)), "x", o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// zeros are n bytes that more are appended to.
func zeros(n int) []byte { return append([]byte(nil), make([]byte, n)...) }
