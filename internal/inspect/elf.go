package inspect

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strings"
)

// elfFile is what the loader reads of an ELF file: the header and the program headers, never the section headers, which
// may be missing. The layouts are those of elf(5).
type elfFile struct {
	in      input
	wide    bool // 64-bit
	order   binary.ByteOrder
	osabi   elf.OSABI
	typ     elf.Type
	machine elf.Machine
	entry   uint64
	flags   uint32
	header  words // the first 64 bytes
	progs   []elf.ProgHeader
	headEnd uint64 // offset behind the program headers
	dyn     dynamic
}

func isELF(head []byte) bool { return len(head) >= 52 && bytes.HasPrefix(head, []byte(elf.ELFMAG)) }

// fits reports whether a loader of e would take o for its own kind: same word size, byte order and processor.
func (e *elfFile) fits(o *elfFile) bool {
	return e.wide == o.wide && e.order == o.order && e.machine == o.machine
}

// parseHeader reads the ELF header.
func parseHeader(in input) (*elfFile, error) {
	head := in.read(0, 64)
	if !isELF(head) {
		return nil, short("its header is not complete")
	}
	e := &elfFile{in: in, osabi: elf.OSABI(head[elf.EI_OSABI])}
	switch elf.Class(head[elf.EI_CLASS]) {
	case elf.ELFCLASS64:
		e.wide = true
	case elf.ELFCLASS32:
	default:
		return nil, notProgram(fmt.Sprintf("a damaged ELF file: word size %d", head[elf.EI_CLASS]), "download or build it again")
	}
	switch elf.Data(head[elf.EI_DATA]) {
	case elf.ELFDATA2LSB:
		e.order = binary.LittleEndian
	case elf.ELFDATA2MSB:
		e.order = binary.BigEndian
	default:
		return nil, notProgram(fmt.Sprintf("a damaged ELF file: byte order %d", head[elf.EI_DATA]), "download or build it again")
	}
	if e.wide && len(head) < 64 {
		return nil, short("its header is not complete")
	}
	w := words{head, e.order}
	e.header = w
	e.typ, e.machine = elf.Type(w.u16(16)), elf.Machine(w.u16(18))
	e.entry = w.word(24, e.wide)
	e.flags = w.u32(e.at(36, 48))
	return e, nil
}

// at picks the offset for the file's word size.
func (e *elfFile) at(narrow, wide uint64) uint64 {
	if e.wide {
		return wide
	}
	return narrow
}

// parseELF reads the headers and what the dynamic loader is told.
func parseELF(in input) (*elfFile, error) {
	e, err := parseHeaders(in)
	if err == nil {
		e.dyn = e.readDynamic()
	}
	return e, err
}

// parseHeaders reads the header and the program headers.
func parseHeaders(in input) (*elfFile, error) {
	e, err := parseHeader(in)
	if err != nil {
		return nil, err
	}
	w := e.header
	off, size, n := w.word(e.at(28, 32), e.wide), uint64(w.u16(e.at(42, 54))), uint64(w.u16(e.at(44, 56)))
	e.headEnd = off + size*n
	if n > 0 && size != e.at(32, 56) {
		return nil, notProgram(fmt.Sprintf("a damaged ELF file: program headers of %d bytes", size), "download or build it again")
	}
	if n > 0 && !in.holds(off, size*n) {
		return nil, short("its program headers lie behind its end")
	}
	table := words{in.read(off, size*n), e.order}
	for i := range n {
		e.progs = append(e.progs, e.prog(table.from(i*size)))
	}
	return e, nil
}

func (e *elfFile) prog(w words) elf.ProgHeader {
	if e.wide {
		return elf.ProgHeader{Type: elf.ProgType(w.u32(0)), Flags: elf.ProgFlag(w.u32(4)), Off: w.u64(8), Vaddr: w.u64(16),
			Filesz: w.u64(32), Memsz: w.u64(40), Align: w.u64(48)}
	}
	return elf.ProgHeader{Type: elf.ProgType(w.u32(0)), Off: uint64(w.u32(4)), Vaddr: uint64(w.u32(8)), Filesz: uint64(w.u32(16)),
		Memsz: uint64(w.u32(20)), Flags: elf.ProgFlag(w.u32(24)), Align: uint64(w.u32(28))}
}

// first returns the first program header of a type.
func (e *elfFile) first(t elf.ProgType) (elf.ProgHeader, bool) {
	for _, p := range e.progs {
		if p.Type == t {
			return p, true
		}
	}
	return elf.ProgHeader{}, false
}

// interpreter is the loader that the kernel starts for the program.
func (e *elfFile) interpreter() string {
	p, ok := e.first(elf.PT_INTERP)
	if !ok {
		return ""
	}
	return trimmed(e.in.read(p.Off, min(p.Filesz, maxPath)))
}

// loadable checks what the kernel would: that the file is a program or library, and that all it maps is there.
func (e *elfFile) loadable() error {
	switch e.typ {
	case elf.ET_EXEC, elf.ET_DYN:
	case elf.ET_REL:
		return notProgram("an object file (.o) or a kernel module", "give the program it was linked into")
	case elf.ET_CORE:
		return notProgram("a core dump", "give the program that crashed")
	default:
		return notProgram(fmt.Sprintf("a damaged ELF file: type %d", e.typ), "download or build it again")
	}
	loads := false
	for _, p := range e.progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		loads = true
		if p.Filesz > 0 && !e.in.holds(p.Off, p.Filesz) {
			return short(fmt.Sprintf("its headers announce %d bytes, it has %d", p.Off+p.Filesz, e.in.size))
		}
	}
	if !loads {
		return notProgram("an ELF file without anything to load", "debug information and object files cannot be started; give the program itself")
	}
	return nil
}

// kind tells a program from a library, and whether it can lie anywhere in memory. Both are ET_DYN: since binutils 2.26
// linkers mark the programs. Some libraries, such as libc.so.6, have an interpreter, but only those have a soname.
func (e *elfFile) kind() (k Kind, pie bool) {
	switch {
	case e.typ == elf.ET_EXEC:
		return Executable, false
	case e.dyn.flags1&uint64(elf.DF_1_PIE) != 0:
		return Executable, true
	case e.dyn.soname != "":
		return Library, true
	case e.interpreter() != "":
		return Executable, true
	}
	if _, ok := e.first(elf.PT_DYNAMIC); !ok && e.entry != 0 {
		return Executable, true // what UPX makes of a PIE
	}
	return Library, true
}

// offset turns an address in memory into the file's offset and says how many bytes follow it there.
func (e *elfFile) offset(addr uint64) (off, left uint64, ok bool) {
	for _, p := range e.progs {
		if p.Type == elf.PT_LOAD && addr >= p.Vaddr && addr-p.Vaddr < p.Filesz {
			d := addr - p.Vaddr
			return p.Off + d, p.Filesz - d, true
		}
	}
	return 0, 0, false
}

// mapped reads up to n bytes at an address.
func (e *elfFile) mapped(addr, n uint64) []byte {
	off, left, ok := e.offset(addr)
	if !ok {
		return nil
	}
	return e.in.read(off, min(n, left))
}

// readELF fills the report.
func (r *Report) readELF(in input) (*elfFile, error) {
	e, err := parseELF(in)
	if err != nil {
		return nil, err
	}
	if err := e.loadable(); err != nil {
		return nil, err
	}
	r.Format, r.Arch = ELF, e.arch()
	r.Kind, r.PIE = e.kind()
	r.Interpreter = e.interpreter()
	r.Libraries, r.SOName = e.dyn.needed, e.dyn.soname
	r.RunPath = append(splitPath(e.dyn.rpath), splitPath(e.dyn.runpath)...)
	if e.dyn.damage != "" {
		r.damaged("%s", e.dyn.damage)
	}
	n := e.notes()
	info := r.elfSections(e, &n)
	r.OS, r.MinOS, r.GNUID, r.CPULevel = e.system(n), n.abi, n.gnuID, n.isa
	r.Packed = e.packed()
	r.readGo(e.image(info), n.goID)
	return e, nil
}

func splitPath(p string) []string {
	return strings.FieldsFunc(p, func(r rune) bool { return r == ':' })
}

func (r *Report) damaged(format string, args ...any) {
	r.Damage = append(r.Damage, fmt.Sprintf(format, args...))
}

// elfSections lists the sections and returns where the Go build information lies, if a section says so. Go's linker has no
// segment for the GNU build ID, so its section is where it is found.
func (r *Report) elfSections(e *elfFile, known *notes) (info span) {
	table, size, n, names := e.sectionTable()
	if n == 0 {
		return span{}
	}
	if uint64(len(table.b)) < size*n {
		r.damaged("%d section headers lie behind its end: it was cut short", n)
		n = uint64(len(table.b)) / size
	}
	nothing := true
	for i := uint64(1); i < n; i++ {
		s := table.from(i * size)
		typ := elf.SectionType(s.u32(4))
		length := s.word(e.at(20, 32), e.wide)
		name := text(names, uint64(s.u32(0)), maxName)
		nothing = nothing && typ == elf.SHT_NULL
		r.Sections = append(r.Sections, Section{name, length})
		entries := int(min(length, e.in.size) / e.at(16, 24))
		switch {
		case typ == elf.SHT_SYMTAB:
			r.SymbolTable, r.Symbols = true, entries
		case typ == elf.SHT_DYNSYM:
			r.DynamicSymbols = entries
		case name == ".debug_info" || name == ".zdebug_info":
			r.DWARF = typ != elf.SHT_NOBITS
		case typ == elf.SHT_NOTE && name == ".note.gnu.build-id" && known.gnuID == "":
			known.add(words{e.in.read(s.word(e.at(16, 24), e.wide), min(length, maxPath)), e.order}, 4)
		case name == ".go.buildinfo":
			info = span{s.word(e.at(12, 16), e.wide), length}
		}
	}
	if nothing && n > 1 {
		r.damaged("its section headers were wiped out")
		r.Sections = nil
	}
	return info
}

// sectionTable reads the section headers and their names. The table may be shorter than size times n.
func (e *elfFile) sectionTable() (table words, size, n uint64, names string) {
	w := e.header
	off := w.word(e.at(32, 40), e.wide)
	size, n = uint64(w.u16(e.at(46, 58))), uint64(w.u16(e.at(48, 60)))
	strings := uint64(w.u16(e.at(50, 62)))
	if off == 0 || size != e.at(40, 64) {
		return words{}, 0, 0, ""
	}
	first := words{e.in.read(off, size), e.order}
	if n == 0 { // more than fit 16 bits: then the first header has their number
		n = first.word(e.at(20, 32), e.wide)
	}
	if strings == uint64(elf.SHN_XINDEX) {
		strings = uint64(first.u32(e.at(24, 40)))
	}
	n = min(n, maxTable/size)
	table = words{e.in.read(off, size*n), e.order}
	s := table.from(strings * size)
	names = string(e.in.read(s.word(e.at(16, 24), e.wide), s.word(e.at(20, 32), e.wide)))
	return table, size, n, names
}
