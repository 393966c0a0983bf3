package inspect

import "strings"

// Formats of executables.
const (
	ELF   = "elf"
	MachO = "macho"
	PE    = "pe"
)

// Report is what a file is and needs, and how that fits a machine. Sizes are in bytes.
type Report struct {
	Name     string   `json:"name"`         // as it was given
	Size     int64    `json:"size"`         // of the whole file
	Format   string   `json:"format"`       // elf, macho or pe
	Kind     Kind     `json:"kind"`         // what the system does with it
	OS       string   `json:"os"`           // what it is for, as GOOS
	Arch     string   `json:"arch"`         // what it is for, as GOARCH; where Go has no word, the format's own in small letters
	MinOS    string   `json:"min_os"`       // oldest version of the OS it runs on, as its headers say it: "linux 3.2.0"; may be empty
	PIE      bool     `json:"pie"`          // can be loaded at any address
	Packed   string   `json:"packed"`       // "upx", or empty: what lies inside cannot be seen
	Arches   []Arch   `json:"arches"`       // of a universal Mach-O file; the rest of the report is about one of them
	Go       *Go      `json:"go"`           // nil for a program that is not Go's, or does not show it
	Runtime  string   `json:"runtime"`      // what it needs beside the system: ".NET", or empty
	Signed   bool     `json:"signed"`       // a Mach-O file with a code signature, without which macOS on arm64 starts nothing
	CPULevel string   `json:"cpu_level"`    // the processors it was built for: "GOAMD64=v3", "GOARM64=v8.0", or, from a C linker's note, "x86-64-v3"; empty where it does not say
	GNUID    string   `json:"gnu_build_id"` // GNU build ID or Mach-O UUID, hexadecimal
	Damage   []string `json:"damage"`       // what of the file could not be read, though it may run

	Interpreter string    `json:"interpreter"` // the dynamic loader it asks for; empty for a static program and for PE
	Libraries   []string  `json:"libraries"`   // shared libraries it names itself, in its order
	RunPath     []string  `json:"run_path"`    // folders it adds to the search for them, as written ($ORIGIN, @rpath)
	SOName      string    `json:"soname"`      // of a library
	Found       []Found   `json:"found"`       // the libraries that it and they need and the machine has
	Missing     []Missing `json:"missing"`     // loader and libraries that the machine lacks
	TooOld      []TooOld  `json:"too_old"`     // libraries that the machine has, but not new enough
	CPULacks    []string  `json:"cpu_lacks"`   // features of the processor that it was built to use and the machine's has not

	Sections       []Section `json:"sections"`
	Symbols        int       `json:"symbols"`         // entries of the symbol table, which a stripped file lacks
	DynamicSymbols int       `json:"dynamic_symbols"` // entries of the table for the loader
	SymbolTable    bool      `json:"symbol_table"`    // it has one: not stripped
	DWARF          bool      `json:"dwarf"`           // it has what debuggers read

	Machine Machine `json:"machine"` // the one asked about
	Verdict Verdict `json:"verdict"` // will it run there
}

// Kind is what the system does with a file.
type Kind string

// The kinds of file.
const (
	Executable Kind = "executable" // is started
	Library    Kind = "library"    // is loaded by programs
)

// Arch is one program of a universal file.
type Arch struct {
	Arch   string `json:"arch"`   // GOARCH
	Offset uint64 `json:"offset"` // in bytes
	Size   uint64 `json:"size"`   // in bytes
}

// Section is a named part of a file.
type Section struct {
	Name string `json:"name"` // with its segment for Mach-O: "__TEXT,__text"
	Size uint64 `json:"size"` // in bytes, as the header says it: compressed debug sections are compressed, .bss takes memory only
}

// Found is a library and where it is.
type Found struct {
	Name     string `json:"name"`              // as it was asked for
	Path     string `json:"path"`              // on the machine, below its root
	NeededBy string `json:"needed_by"`         // the file that asked first: the program's name or a library's
	Package  string `json:"package,omitempty"` // the Debian package that owns it, if asked for and known
}

// Missing is a loader or library the machine lacks.
type Missing struct {
	Name     string `json:"name"`      // as it was asked for
	NeededBy string `json:"needed_by"` // the file that asked first: the program's name or a library's
	Package
}

// TooOld is a library the machine has in a version that lacks what a file was linked against.
type TooOld struct {
	Library  string `json:"library"`   // such as libc.so.6
	NeededBy string `json:"needed_by"` // the file that asked: the program's name or a library's
	Needs    string `json:"needs"`     // the newest version it asks for and the library lacks, such as GLIBC_2.34
	Has      string `json:"has"`       // the newest of that name the library has, such as GLIBC_2.31; may be empty
}

// Machine is the machine that was asked about.
type Machine struct {
	OS   string `json:"os"`   // GOOS
	Arch string `json:"arch"` // GOARCH
	Root string `json:"root"` // the folder taken for its /; empty for this machine
	// Known says that its files can be looked at: this machine, or one given by its root folder.
	Known bool `json:"known"`

	asked bool // its processor could be asked for features
}

// Verdict answers "will it run there as it is, without installing Go?".
type Verdict struct {
	OK   bool   `json:"ok"`
	Text string `json:"text"` // one line: "yes: ..." or "no: ..."
}

// Static reports whether the program needs nothing but the kernel: no loader and no libraries. Programs for macOS and
// Windows always need the system's own libraries, which are those systems' interface to the kernel: those do not count.
func (r *Report) Static() bool {
	if r.Format == ELF {
		return r.Interpreter == "" && len(r.Libraries) == 0
	}
	return len(r.foreign()) == 0
}

// foreign are the libraries that do not come with macOS or Windows.
func (r *Report) foreign() []string {
	var out []string
	for _, l := range r.Libraries {
		if !ofSystem(r.Format, l) {
			out = append(out, l)
		}
	}
	return out
}

// ofSystem reports whether a library comes with macOS or Windows.
func ofSystem(format, lib string) bool {
	if format == MachO {
		// Since macOS 11 these are not even files, but live in a cache of the loader.
		return strings.HasPrefix(lib, "/usr/lib/") || strings.HasPrefix(lib, "/System/")
	}
	lib = strings.TrimSuffix(strings.ToLower(lib), ".dll")
	return windowsLibraries[lib] || strings.HasPrefix(lib, "api-ms-win-") || strings.HasPrefix(lib, "ext-ms-")
}

// Stripped reports whether the file has neither a symbol table nor DWARF.
func (r *Report) Stripped() bool { return !r.SymbolTable && !r.DWARF }

// Answer says whether the machine that was asked about can run the file, and why, in one line that begins with "yes" or
// "no". With [Options.FileOnly] the text is empty.
func (r *Report) Answer() (ok bool, text string) { return r.Verdict.OK, r.Verdict.Text }
