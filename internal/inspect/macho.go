package inspect

import (
	"debug/macho"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Load commands (mach-o/loader.h) that debug/macho has no name for.
const (
	loadLinker   = 0xe
	loadWeak     = 0x80000018
	reexport     = 0x8000001f
	loadUpward   = 0x80000023
	uuidCommand  = 0x1b
	signature    = 0x1d
	minMacOS     = 0x24
	minIOS       = 0x25
	buildVersion = 0x32
)

// platforms are the words for LC_BUILD_VERSION's first field; macOS and the simulators of others matter little here.
var platforms = map[uint32]string{1: "macos", 2: "ios", 3: "tvos", 4: "watchos", 6: "maccatalyst", 7: "ios simulator", 11: "visionos"}

func isMacho(head []byte) bool {
	if len(head) < 28 {
		return false
	}
	be, le := binary.BigEndian.Uint32(head), binary.LittleEndian.Uint32(head)
	return be == macho.Magic32 || be == macho.Magic64 || le == macho.Magic32 || le == macho.Magic64
}

// isFat tells a universal file from a Java class, which begins with the same four bytes; there the next ones are a version,
// 45 or more.
func isFat(head []byte) bool {
	if len(head) < 28 {
		return false
	}
	m, n := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
	return (m == macho.MagicFat || m == macho.MagicFat+1) && n > 0 && n < 45
}

// readFat reads a universal file: the program for the architecture that is asked about, else the first.
func (r *Report) readFat(in input, o Options) error {
	head := words{in.read(0, 4096), binary.BigEndian}
	wide := head.u32(0) == macho.MagicFat+1
	size := uint64(20)
	if wide {
		size = 32
	}
	for i := range uint64(head.u32(4)) {
		w := head.from(8 + i*size)
		a := Arch{machoArch(macho.Cpu(w.u32(0))), uint64(w.u32(8)), uint64(w.u32(12))}
		if wide {
			a.Offset, a.Size = w.u64(8), w.u64(16)
		}
		if !in.holds(a.Offset, a.Size) {
			return short("its program for " + a.Arch + " lies behind its end")
		}
		r.Arches = append(r.Arches, a)
	}
	want, chosen := o.machine().Arch, r.Arches[0]
	for _, a := range r.Arches {
		if a.Arch == want {
			chosen = a
		}
	}
	part := in.part(chosen.Offset, chosen.Size)
	if !isMacho(part.read(0, 64)) {
		return fail.New(fail.Usage, "", "its program for %s is no Mach-O file", chosen.Arch).Hinted("download or build it again")
	}
	return r.readMacho(part)
}

func machoArch(c macho.Cpu) string {
	switch c {
	case macho.CpuAmd64:
		return "amd64"
	case macho.CpuArm64:
		return "arm64"
	case macho.Cpu386:
		return "386"
	case macho.CpuArm:
		return "arm"
	case macho.CpuPpc:
		return "ppc"
	case macho.CpuPpc64:
		return "ppc64"
	}
	return fmt.Sprintf("cpu %#x", uint32(c))
}

// machoFile is a Mach-O file while its load commands are read.
type machoFile struct {
	r    *Report
	in   input
	w    words // the header and the commands
	wide bool
	img  image
	text span // where the program's text lies in the file
}

// readMacho fills the report. The layouts are those of mach-o/loader.h.
func (r *Report) readMacho(in input) error {
	m := &machoFile{r: r, in: in, w: words{in.read(0, 32), binary.LittleEndian}}
	if be := m.w.u32(0); be != macho.Magic32 && be != macho.Magic64 {
		m.w.order = binary.BigEndian
	}
	m.wide = m.w.u32(0) == macho.Magic64
	r.Format, r.OS, r.Arch, r.Kind = MachO, "darwin", machoArch(macho.Cpu(m.w.u32(4))), Executable
	switch t := macho.Type(m.w.u32(12)); t {
	case macho.TypeExec:
	case macho.TypeDylib, macho.TypeBundle:
		r.Kind = Library
	case macho.TypeObj:
		return notProgram("an object file (.o)", "give the program it was linked into")
	default:
		return notProgram(fmt.Sprintf("a Mach-O file of type %d", uint32(t)), "give a program; debug information and core dumps cannot be started")
	}
	r.PIE = r.Kind == Library || m.w.u32(24)&macho.FlagPIE != 0
	n, size, start := m.w.u32(16), uint64(m.w.u32(20)), uint64(28)
	if m.wide {
		start = 32
	}
	if !in.holds(start, size) {
		return short("its load commands lie behind its end")
	}
	m.w.b = in.read(0, start+size)
	m.img = image{in: in, order: m.w.order}
	for at := m.w.from(start); n > 0 && at.has(0, 8); n-- {
		length := uint64(at.u32(4))
		if length < 8 || !at.has(0, length) {
			r.damaged("a load command is longer than the rest of them")
			break
		}
		if err := m.command(words{at.b[:length], at.order}); err != nil {
			return err
		}
		at = at.from(length)
	}
	r.readGo(m.img, goMark(in.read(m.text.addr, min(m.text.size, buildIDReach))))
	return nil
}

func (m *machoFile) command(c words) error {
	switch cmd := c.u32(0); cmd {
	case uint32(macho.LoadCmdSegment), uint32(macho.LoadCmdSegment64):
		return m.segment(c, cmd == uint32(macho.LoadCmdSegment64))
	case uint32(macho.LoadCmdSymtab):
		n := uint64(c.u32(12))
		m.r.Symbols, m.r.SymbolTable = int(min(n, m.in.size/12)), n > 0
	case uint32(macho.LoadCmdDysymtab):
		m.r.DynamicSymbols = int(min(uint64(c.u32(20))+uint64(c.u32(28)), m.in.size/12))
	case uint32(macho.LoadCmdDylib), loadWeak, reexport, loadUpward:
		if name := m.name(c, 8); len(m.r.Libraries) < maxEntries {
			m.r.Libraries = append(m.r.Libraries, name)
		}
	case uint32(macho.LoadCmdRpath):
		if name := m.name(c, 8); len(m.r.RunPath) < maxEntries {
			m.r.RunPath = append(m.r.RunPath, name)
		}
	case loadLinker:
		m.r.Interpreter = m.name(c, 8)
	case uuidCommand:
		if c.has(8, 16) {
			m.r.GNUID = hex.EncodeToString(c.b[8:24])
		}
	case signature:
		m.r.Signed = true
	case minMacOS, minIOS:
		m.r.MinOS = map[uint32]string{minMacOS: "macos ", minIOS: "ios "}[cmd] + machoVersion(c.u32(8))
	case buildVersion:
		name := platforms[c.u32(8)]
		if name == "" {
			name = "darwin"
		}
		m.r.MinOS = name + " " + machoVersion(c.u32(12))
	}
	if m.r.MinOS != "" && m.r.MinOS[0] == 'i' {
		m.r.OS = "ios"
	}
	return nil
}

// name is the string of a command, whose offset within the command stands at off.
func (m *machoFile) name(c words, off uint64) string {
	return text(string(c.from(uint64(c.u32(off))).b), 0, maxPath)
}

// machoVersion formats the nibbles of X.Y.Z.
func machoVersion(v uint32) string {
	s := fmt.Sprintf("%d.%d", v>>16, v>>8&0xff)
	if z := v & 0xff; z > 0 {
		s += fmt.Sprintf(".%d", z)
	}
	return s
}

func (m *machoFile) segment(c words, wide bool) error {
	head, size := uint64(56), uint64(68)
	if wide {
		head, size = 72, 80
	}
	word := func(w words, narrow, wideOff uint64) uint64 {
		if wide {
			return w.u64(wideOff)
		}
		return uint64(w.u32(narrow))
	}
	name := trimmed(c.b[8:min(24, len(c.b))])
	addr, off, length := word(c, 24, 24), word(c, 32, 40), word(c, 36, 48)
	if length > 0 && !m.in.holds(off, length) {
		return short(fmt.Sprintf("its headers announce %d bytes, it has %d", off+length, m.in.size))
	}
	if length > 0 {
		m.img.segs = append(m.img.segs, seg{addr, off, length})
	}
	const readWrite = 3
	if prot := c.u32(head - 12); prot == readWrite && length > 0 && m.img.data.size == 0 {
		m.img.data = span{addr, length}
	}
	for s := c.from(head); s.has(0, size); s = s.from(size) {
		sect := trimmed(s.b[:16])
		addr, length, off := word(s, 32, 32), word(s, 36, 40), uint64(s.u32(40))
		if wide {
			off = uint64(s.u32(48))
		}
		m.r.Sections = append(m.r.Sections, Section{name + "," + sect, length})
		switch {
		case sect == "__debug_info" || sect == "__zdebug_info":
			m.r.DWARF = true
		case sect == "__go_buildinfo":
			m.img.info = span{addr, length}
		case sect == "__text" && name == "__TEXT":
			m.text = span{off, length}
		case sect == "upxTEXT":
			m.r.Packed = "upx"
		}
	}
	if strings.HasPrefix(name, "UPX") || name == "__XHDR" {
		m.r.Packed = "upx"
	}
	return nil
}
