package inspect

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// isPE reports whether the DOS header leads to a PE header.
func isPE(in input, head []byte) bool {
	if len(head) < 64 || !bytes.HasPrefix(head, []byte("MZ")) {
		return false
	}
	return string(in.read(uint64(binary.LittleEndian.Uint32(head[60:])), 4)) == "PE\x00\x00"
}

var peArches = map[uint16]string{
	pe.IMAGE_FILE_MACHINE_AMD64: "amd64", pe.IMAGE_FILE_MACHINE_I386: "386", pe.IMAGE_FILE_MACHINE_ARM64: "arm64",
	pe.IMAGE_FILE_MACHINE_ARMNT: "arm", pe.IMAGE_FILE_MACHINE_ARM: "arm", pe.IMAGE_FILE_MACHINE_RISCV64: "riscv64",
}

// windowsLibraries are the DLLs that every Windows since 7 has and that programs commonly name.
var windowsLibraries = set(`advapi32 bcrypt bcryptprimitives cfgmgr32 comctl32 comdlg32 crypt32 cryptbase d3d11 dbghelp dnsapi
	dwmapi dxgi fwpuclnt gdi32 hid imm32 iphlpapi kernel32 kernelbase mpr mscoree msi msvcrt mswsock ncrypt netapi32 ntdll ole32
	oleaut32 opengl32 pdh powrprof propsys psapi rpcrt4 secur32 setupapi shell32 shlwapi sspicli synchronization ucrtbase
	user32 userenv uxtheme version wevtapi winhttp wininet winmm winspool.drv wintrust wldap32 ws2_32 wsock32 wtsapi32`)

func set(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// peFile is a PE file while it is read.
type peFile struct {
	r       *Report
	in      input
	opt     words // the optional header
	wide    bool
	img     image
	base    uint64
	imports span // address and size of the table of imports
}

// readPE fills the report. The layouts are those of Microsoft's "PE Format".
func (r *Report) readPE(in input) error {
	le := binary.LittleEndian
	start := uint64(words{in.read(0, 64), le}.u32(60)) + 4
	coff := words{in.read(start, 20), le}
	optSize := uint64(coff.u16(16))
	if len(coff.b) < 20 || !in.holds(start+20, optSize) {
		return short("its headers lie behind its end")
	}
	const dll, image64 = 0x2000, 0x20b
	p := &peFile{r: r, in: in, opt: words{in.read(start+20, optSize), le}, img: image{in: in, order: le}}
	p.wide = p.opt.u16(0) == image64
	r.Format, r.OS, r.Kind = PE, "windows", Executable
	if coff.u16(18)&dll != 0 {
		r.Kind = Library
	}
	machine := coff.u16(0)
	if r.Arch = peArches[machine]; r.Arch == "" {
		r.Arch = fmt.Sprintf("machine %#x", machine)
	}
	p.optional()
	if err := p.sections(start+20+optSize, coff); err != nil {
		return err
	}
	p.importedLibraries()
	var mark string
	if len(p.img.segs) > 0 {
		mark = goMark(in.read(p.img.segs[0].off, min(p.img.segs[0].size, buildIDReach)))
	}
	r.readGo(p.img, mark)
	return nil
}

// optional reads the header that is optional for object files only.
func (p *peFile) optional() {
	const native, console, efi = 1, 3, 10
	p.base = uint64(p.opt.u32(28))
	dirs := uint64(96)
	if p.wide {
		p.base, dirs = p.opt.u64(24), 112
	}
	p.imports = span{uint64(p.opt.u32(dirs + 8)), uint64(p.opt.u32(dirs + 12))}
	p.r.PIE = p.opt.u16(70)&0x40 != 0 // IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE
	subsystem := p.opt.u16(68)
	if v := p.opt.u16(48); v > 0 && subsystem > native && subsystem <= console {
		p.r.MinOS = fmt.Sprintf("windows %d.%d", v, p.opt.u16(50))
	}
	if subsystem >= efi && subsystem < efi+4 {
		p.r.OS = "uefi"
	}
	if p.opt.u32(dirs+14*8) != 0 {
		p.r.Runtime = ".NET"
	}
}

func (p *peFile) sections(off uint64, coff words) error {
	const size = 40
	n := uint64(coff.u16(2))
	if !p.in.holds(off, n*size) {
		return short("its section headers lie behind its end")
	}
	table := words{p.in.read(off, n*size), binary.LittleEndian}
	symbols := uint64(coff.u32(12))
	p.r.Symbols = int(min(symbols, p.in.size/18))
	p.r.SymbolTable = symbols > 0
	names := p.longNames(uint64(coff.u32(8)), symbols)
	for i := range n {
		s := table.from(i * size)
		name := trimmed(s.b[:8])
		if rest, ok := strings.CutPrefix(name, "/"); ok { // too long for the field: an offset into the string table
			if at, err := strconv.ParseUint(rest, 10, 32); err == nil && text(names, at, maxName) != "" {
				name = text(names, at, maxName)
			}
		}
		memory, addr, length, at, flags := uint64(s.u32(8)), uint64(s.u32(12)), uint64(s.u32(16)), uint64(s.u32(20)), s.u32(36)
		const uninitialized = 0x80
		if length > 0 && flags&uninitialized == 0 && !p.in.holds(at, length) {
			return short(fmt.Sprintf("its headers announce %d bytes, it has %d", at+length, p.in.size))
		}
		p.r.Sections = append(p.r.Sections, Section{name, length})
		if length > 0 {
			p.img.segs = append(p.img.segs, seg{p.base + addr, at, length})
		}
		// Initialized data that may be read and written: where the linker puts the build information, near the beginning.
		const writable, alignment = 0xc0000040, 0x600000
		if flags&^alignment == writable && p.img.data.size == 0 {
			p.img.data = span{p.base + addr, min(memory, length)}
		}
		switch {
		case strings.HasPrefix(name, "UPX"):
			p.r.Packed = "upx"
		case name == ".debug_info" || name == ".zdebug_info":
			p.r.DWARF = true
		}
	}
	return nil
}

// longNames is the string table, which stands behind the symbols and begins with its own length.
func (p *peFile) longNames(table, symbols uint64) string {
	if table == 0 {
		return ""
	}
	off := table + 18*symbols
	n := words{p.in.read(off, 4), binary.LittleEndian}.u32(0)
	return string(p.in.read(off, uint64(n)))
}

// importedLibraries reads the names out of the import directory: records of 20 bytes, ended by one of zeros.
func (p *peFile) importedLibraries() {
	if p.imports.addr == 0 {
		return
	}
	table := words{p.img.at(p.base+p.imports.addr, 20*(maxEntries+1)), binary.LittleEndian}
	for ; table.has(0, 20) && len(p.r.Libraries) < maxEntries; table = table.from(20) {
		at := table.u32(12)
		if at == 0 {
			break
		}
		if name := trimmed(p.img.at(p.base+uint64(at), maxName)); name != "" {
			p.r.Libraries = append(p.r.Libraries, name)
		}
	}
}
