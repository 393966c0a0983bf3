package inspect

import "debug/elf"

// dynamic is what the dynamic section tells the loader.
type dynamic struct {
	needed         []string
	soname         string
	rpath, runpath string
	flags1         uint64
	asks           []version // versions of libraries' symbols it was linked against
	defines        []string  // versions its own symbols have
	damage         string
}

// version is one version of a library's symbols.
type version struct{ library, name string }

// readDynamic reads the dynamic section the way the loader does, by way of the program headers.
func (e *elfFile) readDynamic() (d dynamic) {
	p, ok := e.first(elf.PT_DYNAMIC)
	if !ok {
		return d
	}
	entry := e.at(8, 16)
	table := words{e.in.read(p.Off, p.Filesz), e.order}
	one := map[elf.DynTag]uint64{}
	var needed []uint64
	for off := uint64(0); table.has(off, entry); off += entry {
		tag, val := elf.DynTag(table.word(off, e.wide)), table.word(off+entry/2, e.wide)
		if tag == elf.DT_NULL {
			break
		}
		if tag == elf.DT_NEEDED {
			needed = append(needed, val)
		} else {
			one[tag] = val
		}
	}
	strings := string(e.mapped(one[elf.DT_STRTAB], one[elf.DT_STRSZ]))
	str := func(tag elf.DynTag) string {
		if off, ok := one[tag]; ok {
			return text(strings, off, maxRunPath)
		}
		return ""
	}
	d.soname, d.rpath, d.runpath = str(elf.DT_SONAME), str(elf.DT_RPATH), str(elf.DT_RUNPATH)
	d.flags1 = one[elf.DT_FLAGS_1]
	if len(needed) > maxEntries {
		needed, d.damage = needed[:maxEntries], "it names more libraries than can be true"
	}
	for _, off := range needed {
		if name := text(strings, off, maxPath); name != "" {
			d.needed = append(d.needed, name)
		} else {
			d.damage = "the name of a library it needs cannot be read"
		}
	}
	if addr, ok := one[elf.DT_VERNEED]; ok {
		d.asks = e.verneed(addr, one[elf.DT_VERNEEDNUM], strings)
	}
	if addr, ok := one[elf.DT_VERDEF]; ok {
		d.defines = e.verdef(addr, one[elf.DT_VERDEFNUM], strings)
	}
	return d
}

// maxVersions bounds the versions read of one file; glibc defines some 50.
const maxVersions = 4 * maxEntries

// versionSize is the most bytes that a record and its first name or version take.
const versionSize = 32

// versionWeak marks a version whose absence the loader only warns of (VER_FLG_WEAK).
const versionWeak = 2

// verneed reads the versions asked for. The records are those of the "Symbol Versioning" chapter of the Linux Standard
// Base: one for each library, with a chain of versions.
func (e *elfFile) verneed(addr, n uint64, strings string) (out []version) {
	w := words{e.mapped(addr, maxVersions*versionSize), e.order}
	for range min(n, maxEntries) {
		lib := text(strings, uint64(w.u32(4)), maxPath)
		aux := w.from(uint64(w.u32(8)))
		for range w.u16(2) {
			if aux.u16(4)&versionWeak == 0 {
				out = append(out, version{lib, text(strings, uint64(aux.u32(8)), maxName)})
			}
			next := uint64(aux.u32(12))
			if next == 0 || len(out) >= maxVersions {
				break
			}
			aux = aux.from(next)
		}
		next := uint64(w.u32(12))
		if next == 0 {
			break
		}
		w = w.from(next)
	}
	return out
}

// verdef reads the versions defined. The first name of each record is the version's own.
func (e *elfFile) verdef(addr, n uint64, strings string) (out []string) {
	w := words{e.mapped(addr, maxVersions*versionSize), e.order}
	for range min(n, maxVersions) {
		aux := w.from(uint64(w.u32(12)))
		out = append(out, text(strings, uint64(aux.u32(0)), maxName))
		next := uint64(w.u32(16))
		if next == 0 {
			break
		}
		w = w.from(next)
	}
	return out
}
