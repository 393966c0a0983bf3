package inspect

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	mathbits "math/bits"
	"strings"
)

// arch is GOARCH for the header, or the format's own word where Go has none.
func (e *elfFile) arch() string {
	little := e.order == binary.LittleEndian
	pick := func(le, be string) string {
		if little {
			return le
		}
		return be
	}
	switch e.machine {
	case elf.EM_X86_64:
		if !e.wide {
			return "amd64p32"
		}
		return "amd64"
	case elf.EM_386:
		return "386"
	case elf.EM_AARCH64:
		return pick("arm64", "arm64be")
	case elf.EM_ARM:
		return pick("arm", "armbe")
	case elf.EM_PPC64:
		return pick("ppc64le", "ppc64")
	case elf.EM_MIPS:
		// The n32 calling convention (flag 0x20) has 64-bit registers in a 32-bit file; Go knows only the two others.
		if e.wide {
			return pick("mips64le", "mips64")
		}
		return pick("mipsle", "mips")
	}
	if e.wide {
		switch e.machine {
		case elf.EM_RISCV:
			return "riscv64"
		case elf.EM_S390:
			return "s390x"
		case elf.EM_LOONGARCH:
			return "loong64"
		}
	}
	return strings.ToLower(strings.TrimPrefix(e.machine.String(), "EM_"))
}

// systems are the operating systems that mark their programs in the header or by a note's name.
var systems = map[elf.OSABI]string{
	elf.ELFOSABI_FREEBSD: "freebsd", elf.ELFOSABI_NETBSD: "netbsd", elf.ELFOSABI_OPENBSD: "openbsd", elf.ELFOSABI_SOLARIS: "solaris",
}

// system is GOOS. Linux does not mark its programs, so it is what is left.
func (e *elfFile) system(n notes) string {
	switch {
	case n.os != "":
		return n.os
	case systems[e.osabi] != "":
		return systems[e.osabi]
	}
	switch interp := e.interpreter(); {
	case strings.HasPrefix(interp, "/system/bin/linker"):
		return "android"
	case strings.HasPrefix(interp, "/libexec/ld-elf"):
		return "freebsd"
	case interp == "/usr/libexec/ld.so":
		return "openbsd"
	case interp == "/libexec/ld.elf_so" || interp == "/usr/libexec/ld.elf_so":
		return "netbsd"
	case interp == "/usr/lib/ld.so.1" || interp == "/lib/amd64/ld.so.1" || interp == "/usr/lib/amd64/ld.so.1":
		return "solaris"
	}
	return "linux"
}

// notes are the records of the PT_NOTE segments.
type notes struct {
	os    string // GOOS
	abi   string // the oldest kernel, as "linux 3.2.0"
	gnuID string
	goID  string
	isa   string // level of the x86 processors it needs, as "x86-64-v3"
}

// Types of notes: /usr/include/elf.h, and cmd/internal/buildid for Go's.
const (
	noteABI   = 1
	noteGNUID = 3
	noteGoID  = 4

	noteProperties = 5          // NT_GNU_PROPERTY_TYPE_0: type, size and value of each, padded to 8 bytes
	propertyISA    = 0xc0008002 // GNU_PROPERTY_X86_ISA_1_NEEDED, a bit for each level (x86-64 psABI)
)

// notes reads the first notes of each PT_NOTE segment.
func (e *elfFile) notes() (n notes) {
	for i, p := range e.progs {
		if p.Type == elf.PT_NOTE && i < maxEntries {
			n.add(words{e.in.read(p.Off, min(p.Filesz, 64<<10)), e.order}, p.Align)
		}
	}
	return n
}

// add reads one segment: a name's size, a description's size, a type, then both, each padded to the alignment.
func (n *notes) add(w words, align uint64) {
	if align != 8 {
		align = 4
	}
	pad := func(x uint64) uint64 { return (x + align - 1) &^ (align - 1) }
	for range maxEntries {
		if !w.has(0, 12) {
			return
		}
		nameSize, descSize, typ := uint64(w.u32(0)), uint64(w.u32(4)), w.u32(8)
		desc := w.from(pad(12 + nameSize))
		if !w.has(12, nameSize) || !desc.has(0, descSize) {
			return
		}
		n.note(trimmed(w.b[12:12+nameSize]), typ, words{desc.b[:descSize], w.order})
		w = w.from(pad(12+nameSize) + pad(descSize))
	}
}

func (n *notes) note(name string, typ uint32, desc words) {
	switch {
	case name == "GNU" && typ == noteABI && len(desc.b) >= 16:
		if os := desc.u32(0); os < 4 {
			n.os = [...]string{"linux", "hurd", "solaris", "freebsd"}[os]
			n.abi = fmt.Sprintf("%s %d.%d.%d", n.os, desc.u32(4), desc.u32(8), desc.u32(12))
		}
	case name == "GNU" && typ == noteGNUID && len(desc.b) <= 64:
		n.gnuID = hex.EncodeToString(desc.b)
	case name == "GNU" && typ == noteProperties:
		for range maxEntries {
			size := uint64(desc.u32(4))
			if bits := desc.u32(8); desc.u32(0) == propertyISA && size == 4 && bits&0xe != 0 && bits < 16 {
				n.isa = fmt.Sprintf("x86-64-v%d", mathbits.Len32(bits))
			}
			desc = desc.from(8 + (size+7)&^7)
		}
	case name == "Go" && typ == noteGoID:
		n.goID = text(string(desc.b), 0, maxPath)
	case name == "Android" && typ == 1:
		n.os, n.abi = "android", fmt.Sprintf("android API %d", desc.u32(0))
	case typ == 1 && (name == "FreeBSD" || name == "NetBSD" || name == "OpenBSD"):
		n.os = strings.ToLower(name)
	}
}

// packed looks for the mark that UPX leaves in its l_info record behind the program headers. Older ones put a few bytes of
// notes between.
func (e *elfFile) packed() string {
	if bytes.Contains(e.in.read(e.headEnd, 256), []byte("UPX!")) && len(e.progs) > 0 {
		return "upx"
	}
	return ""
}
