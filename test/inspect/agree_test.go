//go:build linux

package inspect_test

import (
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/inspect"
)

// all returns the first group of every match.
func all(expr, text string) (out []string) {
	for _, m := range regexp.MustCompile(expr).FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

func one(expr, text string) string {
	return strings.TrimSpace(strings.Join(all(expr, text), " "))
}

// same reports a field that differs.
func same[T comparable](t *testing.T, field string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: inspect says %v, the tool %v", field, got, want)
	}
}

// machines are readelf's words for the architectures of the set.
var machines = map[string]string{
	"Advanced Micro Devices X86-64": "amd64", "AArch64": "arm64", "Intel 80386": "386", "ARM": "arm", "RISC-V": "riscv64",
	"IBM S/390": "s390x", "PowerPC64": "ppc64le",
}

func withReadelf(t *testing.T, r *inspect.Report, path string) {
	t.Helper()
	out := output(t, "readelf", "-W", "-h", "-l", "-d", "-S", "-n", path)
	same(t, "machine", r.Arch, machines[one(`(?m)^  Machine:\s+(.*)$`, out)])
	same(t, "interpreter", r.Interpreter, one(`\[Requesting program interpreter: (.*?)\]`, out))
	same(t, "needed", strings.Join(r.Libraries, " "), strings.Join(all(`\(NEEDED\)\s+Shared library: \[(.*?)\]`, out), " "))
	same(t, "soname", r.SOName, one(`\(SONAME\)\s+Library soname: \[(.*?)\]`, out))
	same(t, "run path", strings.Join(r.RunPath, ":"), one(`\((?:RUNPATH|RPATH)\)\s+Library (?:runpath|rpath): \[(.*?)\]`, out))
	typ := one(`(?m)^  Type:\s+(\S+)`, out)
	same(t, "PIE", r.PIE, typ == "DYN")
	if strings.Contains(out, "Flags: PIE") || typ == "EXEC" {
		same(t, "kind", r.Kind, inspect.Executable)
	}
	same(t, "GNU build ID", r.GNUID, one(`Build ID: ([0-9a-f]+)`, out))
	same(t, "oldest kernel", strings.TrimPrefix(r.MinOS, "linux "), one(`OS: Linux, ABI: ([0-9.]+)`, out))
	if isa := all(`x86 ISA needed: .*(x86-64-v[234])`, out); r.Go == nil && len(isa) > 0 {
		same(t, "processor", r.CPULevel, isa[0])
	}
	var want []inspect.Section
	symtab, dwarf := false, false
	line := regexp.MustCompile(`(?m)^  \[ *[0-9]+\] (\S*) +(\S+) +[0-9a-f]{8,16} [0-9a-f]+ ([0-9a-f]+) `)
	for _, m := range line.FindAllStringSubmatch(out, -1) {
		if m[2] == "NULL" {
			continue
		}
		size, err := strconv.ParseUint(m[3], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, inspect.Section{Name: m[1], Size: size})
		symtab = symtab || m[2] == "SYMTAB"
		dwarf = dwarf || m[1] == ".debug_info" || m[1] == ".zdebug_info"
	}
	if !slices.Equal(r.Sections, want) {
		t.Errorf("sections: inspect says\n%v\nreadelf\n%v", r.Sections, want)
	}
	same(t, "symbol table", r.SymbolTable, symtab)
	same(t, "DWARF", r.DWARF, dwarf)
	symbols := output(t, "readelf", "-W", "--syms", path)
	same(t, "symbols", r.Symbols, number(t, one(`Symbol table '\.symtab' contains (\d+) entr`, symbols)))
	same(t, "dynamic symbols", r.DynamicSymbols, number(t, one(`Symbol table '\.dynsym' contains (\d+) entr`, symbols)))
}

func number(t *testing.T, s string) int {
	t.Helper()
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fileWords are what file(1) says of each architecture.
var fileWords = map[string][]string{
	"amd64": {"x86-64", "x86_64"}, "arm64": {"ARM aarch64", "arm64"}, "386": {"Intel 80386"}, "arm": {"ARM, EABI5"}, "riscv64": {"RISC-V"},
	"s390x": {"IBM S/390"}, "ppc64le": {"64-bit PowerPC"},
}

func withFile(t *testing.T, r *inspect.Report, said string) {
	t.Helper()
	same(t, "format "+said, r.Format, map[string]string{"ELF": inspect.ELF, "Mach": inspect.MachO, "PE32": inspect.PE}[one(`^(?:set[ug]id )*(ELF|Mach|PE32)`, said)])
	if !slices.ContainsFunc(fileWords[r.Arch], func(w string) bool { return strings.Contains(said, w) }) {
		t.Errorf("arch: inspect says %s, file: %s", r.Arch, said)
	}
	switch r.Format {
	case inspect.MachO:
		same(t, "PIE", r.PIE, strings.Contains(said, "PIE"))
	case inspect.PE:
		same(t, "sections", len(r.Sections), number(t, one(`(\d+) sections`, said)))
	case inspect.ELF:
		if r.Kind == inspect.Executable {
			same(t, "static", r.Static(), strings.Contains(said, "static"))
			same(t, "library", strings.Contains(said, "shared object"), false)
		}
		if r.OS == "freebsd" {
			same(t, "OS", true, strings.Contains(said, "FreeBSD"))
		}
		if strings.Contains(said, "no section header") {
			same(t, "sections", len(r.Sections), 0)
			return
		}
		same(t, "stripped", !r.SymbolTable, !strings.Contains(said, "not stripped"))
		same(t, "DWARF", r.DWARF, strings.Contains(said, "with debug_info"))
	}
}

// withLdd compares where the libraries are. The loader itself is not among them, and the vdso is no file.
func withLdd(t *testing.T, r *inspect.Report, said string) {
	t.Helper()
	if !strings.Contains(said, "=>") {
		same(t, "libraries", len(r.Found)+len(r.Missing), 0)
		return
	}
	want, got := map[string]string{}, map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\s+(\S+) => (not found|\S+)`).FindAllStringSubmatch(said, -1) {
		want[m[1]] = m[2]
	}
	for _, f := range r.Found {
		got[f.Name] = f.Path
	}
	for _, m := range r.Missing {
		got[m.Name] = "not found"
	}
	for _, m := range []map[string]string{want, got} {
		maps.DeleteFunc(m, func(name, _ string) bool {
			return strings.HasPrefix(name, "ld-linux") || strings.HasPrefix(name, "linux-vdso")
		})
	}
	if !maps.Equal(got, want) {
		t.Errorf("libraries: inspect says %v, ldd %v", got, want)
	}
}

// withGo compares the build information, line by line, and the build ID.
func withGo(t *testing.T, r *inspect.Report, p program) {
	t.Helper()
	id, err := inspect.BuildID(p.path)
	if err != nil {
		t.Error(err)
	}
	if p.ours {
		same(t, "build ID", id, strings.TrimSpace(output(t, "go", "tool", "buildid", p.path)))
	}
	out, err := exec.CommandContext(t.Context(), "go", "version", "-m", p.path).Output()
	if err != nil {
		if r.Go != nil {
			t.Errorf("inspect sees %+v, go version: %v", r.Go, err)
		}
		return
	}
	if r.Go == nil {
		t.Fatalf("inspect sees no Go in it, go version:\n%s", out)
	}
	same(t, "build ID", r.Go.BuildID, id)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	same(t, "version", r.Go.Version, strings.TrimPrefix(lines[0], p.path+": "))
	settings, deps := map[string]string{}, 0
	for _, l := range lines[1:] {
		f := append(strings.Split(strings.TrimPrefix(l, "\t"), "\t"), "", "")
		switch f[0] {
		case "path":
			same(t, "path", r.Go.Path, f[1])
		case "mod":
			same(t, "main module", r.Go.Main.Path+" "+r.Go.Main.Version, f[1]+" "+f[2])
		case "dep":
			same(t, "dependency", r.Go.Deps[deps].Path+" "+r.Go.Deps[deps].Version, f[1]+" "+f[2])
			deps++
		case "=>":
			by := r.Go.Deps[deps-1].Replace
			same(t, "replacement", by.Path+" "+by.Version, f[1]+" "+f[2])
		case "build":
			key, value, _ := strings.Cut(f[1], "=")
			if s, err := strconv.Unquote(value); err == nil {
				value = s
			}
			settings[key] = value
		}
	}
	same(t, "dependencies", len(r.Go.Deps), deps)
	if !maps.Equal(r.Go.Settings, settings) {
		t.Errorf("settings: inspect says %v, go version %v", r.Go.Settings, settings)
	}
	same(t, "race", r.Go.Race, p.name == "race")
	same(t, "revision", r.Go.VCS.Revision, settings["vcs.revision"])
	if p.name == "committed" || p.name == "dirty" {
		same(t, "modified", r.Go.VCS.Modified, p.name == "dirty")
	}
	if filepath.Base(p.path) == "v3" {
		same(t, "level", r.CPULevel, "GOAMD64=v3")
	}
}
