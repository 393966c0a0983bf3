package build

import (
	"debug/buildinfo"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Info is what a Go program says of itself, read from its file.
type Info struct {
	OS, Arch    string
	GoVersion   string
	Interpreter string   // dynamic loader; empty for a static program
	Libraries   []string // shared libraries it needs
	Settings    map[string]string
}

// Static reports whether the program needs nothing but the kernel. A program for macOS or Windows always needs the
// system's own libraries, which are part of their kernel's interface.
func (i Info) Static() bool {
	return i.OS == "darwin" || i.OS == "windows" || i.Interpreter == "" && len(i.Libraries) == 0
}

// Inspect reads a Go program's headers and build information.
func Inspect(path string) (Info, error) {
	bi, err := buildinfo.ReadFile(path)
	if err != nil {
		return Info{}, fail.New(fail.Build, "inspect "+path, "it is not a Go program: %w", err)
	}
	i := Info{GoVersion: bi.GoVersion, Settings: map[string]string{}}
	for _, s := range bi.Settings {
		i.Settings[s.Key] = s.Value
	}
	i.OS, i.Arch = i.Settings["GOOS"], i.Settings["GOARCH"]
	f, err := os.Open(path)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	if e, err := elf.NewFile(f); err == nil {
		return i, i.readELF(e)
	}
	if m, err := macho.NewFile(f); err == nil {
		i.Libraries, err = m.ImportedLibraries()
		return i, err
	}
	if p, err := pe.NewFile(f); err == nil {
		i.Libraries, err = p.ImportedLibraries()
		return i, err
	}
	return i, fail.New(fail.Build, "inspect "+path, "it is neither ELF, Mach-O nor PE")
}

// machines maps what an ELF header says to GOARCH. Where several share a number the build information decides.
var machines = map[elf.Machine][]string{
	elf.EM_X86_64: {"amd64"}, elf.EM_AARCH64: {"arm64"}, elf.EM_386: {"386"}, elf.EM_ARM: {"arm"}, elf.EM_RISCV: {"riscv64"},
	elf.EM_PPC64: {"ppc64", "ppc64le"}, elf.EM_S390: {"s390x"}, elf.EM_LOONGARCH: {"loong64"}, elf.EM_MIPS: {"mips", "mipsle", "mips64", "mips64le"},
}

func (i *Info) readELF(e *elf.File) error {
	ok := false
	for _, a := range machines[e.Machine] {
		ok = ok || a == i.Arch
	}
	if !ok {
		return fail.New(fail.Build, "", "its build information says %s, its header %s", i.Arch, e.Machine)
	}
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
		if err != nil {
			return err
		}
		i.Interpreter = strings.TrimRight(string(b), "\x00")
	}
	libs, err := e.ImportedLibraries()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return err
	}
	i.Libraries = libs
	return nil
}

// verify refuses a result that is not what was asked for.
func (i Info) verify(goos, goarch string) error {
	if i.OS != goos || i.Arch != goarch {
		return fail.New(fail.Build, "", "the result is for %s/%s, not %s/%s", i.OS, i.Arch, goos, goarch).
			Hinted("a GOOS or GOARCH in build.env or build.flags overrides the platform; remove it")
	}
	if i.Static() {
		return nil
	}
	why := fmt.Sprintf("it asks for the loader %s", i.Interpreter)
	if len(i.Libraries) > 0 {
		why = "it needs " + strings.Join(i.Libraries, ", ")
	}
	hint := "remove what makes it dynamic from build.flags, build.ldflags and GOFLAGS"
	switch {
	case i.Settings["-buildmode"] == "pie":
		hint = "remove -buildmode=pie from build.flags or GOFLAGS: a PIE asks for a loader even without cgo"
	case i.Settings["CGO_ENABLED"] == "1":
		hint = "build without cgo (remove `build: {cgo: true}`), or link statically: `build: {ldflags: [\"-linkmode=external\", \"-extldflags=-static\"]}`"
	}
	return fail.New(fail.Build, "", "the result is not static: %s", why).Hinted("%s", hint)
}
