package inspect

import (
	"cmp"
	"fmt"
	"runtime"
	"strings"
	"unicode"
)

// machine is the one the options ask about. With a root its architecture may be unknown: then it is empty.
func (o Options) machine() Machine {
	m := Machine{OS: o.OS, Arch: o.Arch, Root: o.Root, Known: true}
	if o.Root != "" {
		m.OS = cmp.Or(m.OS, "linux")
		m.Arch = cmp.Or(m.Arch, tree(o.Root).arch())
		return m
	}
	m.OS, m.Arch = cmp.Or(m.OS, runtime.GOOS), cmp.Or(m.Arch, runtime.GOARCH)
	_, same := runsOn(m.OS, runtime.GOARCH, m.Arch)
	m.Known = m.OS == runtime.GOOS && same
	return m
}

// judge looks the file's needs up on the machine and gives the verdict.
func (r *Report) judge(e *elfFile, o Options) {
	m := o.machine()
	if m.Arch == "" {
		m.Arch = r.Arch // an empty folder, such as an image made from scratch, has no say in it
	}
	r.Machine = m
	_, runs := runsOn(m.OS, m.Arch, r.Arch)
	if runs = runs && r.OS == m.OS; runs && m.Known {
		if e != nil && m.OS == "linux" {
			r.resolve(e, tree(o.Root))
			if o.Packages {
				r.owners(tree(o.Root))
			}
		}
		if e == nil && (r.OS == runtime.GOOS || o.Root != "") {
			r.resolveForeign(tree(o.Root))
		}
	}
	has := o.Features
	if has == nil && m.Arch == runtime.GOARCH {
		has = thisCPU
	}
	r.Machine.asked = has != nil
	if runs && has != nil {
		r.CPULacks = lacking(r.CPULevel, has)
	}
	no := r.obstacles(runs)
	if len(no) > 0 {
		r.Verdict = Verdict{false, printable("no: " + strings.Join(no, "; also "))}
		return
	}
	r.Verdict = Verdict{true, printable("yes: " + r.praise())}
}

// printable keeps a foreign file's names from moving the cursor.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return '?'
	}, s)
}

// where is the machine as the text calls it.
func (m Machine) where() string {
	switch {
	case m.Root != "":
		return m.Root
	case m.Known:
		return "this machine"
	}
	return fmt.Sprintf("a machine of %s/%s", m.OS, m.Arch)
}

// obstacles are the reasons why the file does not run, the ones that nothing can be done about alone.
func (r *Report) obstacles(runs bool) (no []string) {
	m := r.Machine
	switch {
	case r.Kind == Library:
		return []string{"it is a shared library, which programs load; it is not started itself"}
	case !runs && !m.Known:
		return []string{fmt.Sprintf("it is for %s/%s and not for %s/%s", r.OS, r.Arch, m.OS, m.Arch)}
	case !runs:
		return []string{fmt.Sprintf("it is for %s/%s; %s is %s/%s", r.OS, r.Arch, m.where(), m.OS, m.Arch)}
	case r.Format == MachO && r.Arch == "arm64" && r.OS == "darwin" && !r.Signed:
		no = append(no, "it has no code signature, and macOS on arm64 starts nothing without one; `codesign -s -` adds one")
	}
	if !m.Known && r.Format == ELF && !r.Static() {
		return append(no, fmt.Sprintf("it needs %s, and whether a machine of %s/%s has that cannot be seen from here; unpack one into a folder and give that as its root",
			list(append(nonEmpty(r.Interpreter), r.Libraries...)), m.OS, m.Arch))
	}
	if len(r.Missing) > 0 {
		var names []string
		for _, lib := range r.Missing {
			names = append(names, lib.Name)
		}
		s := fmt.Sprintf("it needs %s, which %s lacks", list(names), m.where())
		if how := install(r.Missing); how != "" {
			s += "; " + how
		}
		no = append(no, s)
	}
	for _, v := range r.TooOld {
		s := fmt.Sprintf("it needs %s of %s", v.Needs, v.Library)
		if v.Has != "" {
			s += fmt.Sprintf(", and %s has only %s", m.where(), v.Has)
		} else {
			s += fmt.Sprintf(", which the one of %s lacks", m.where())
		}
		no = append(no, s+"; build it statically, or on a system as old as that one")
	}
	if len(r.CPULacks) > 0 {
		no = append(no, fmt.Sprintf("it was built for %s and %s lacks %s", r.CPULevel, m.cpu(), strings.Join(r.CPULacks, ", ")))
	}
	return no
}

func (m Machine) cpu() string {
	if m.Root == "" && m.Known {
		return "this CPU"
	}
	return "that CPU"
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// list joins names, and ends where a line would get too long.
func list(names []string) string {
	const most = 8
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// praise says what kind of program it is and what it needs that is there.
func (r *Report) praise() string {
	m := r.Machine
	link := "dynamic"
	if r.Static() {
		link = "static"
	}
	if r.Format != ELF {
		link = "native"
	}
	s := fmt.Sprintf("a %s program for %s/%s", link, r.OS, r.Arch)
	if by, ok := runsOn(m.OS, m.Arch, r.Arch); ok && by != "" {
		s += fmt.Sprintf(" on %s/%s, %s", m.OS, m.Arch, by)
	}
	switch {
	case r.Packed != "":
		s += ", packed with UPX: what it needs once unpacked, and Go's build information, cannot be read; `upx -d` unpacks it"
	case r.Runtime != "":
		s += "; it needs a " + r.Runtime + " runtime"
	case r.Format == ELF && r.Static():
		s += "; it needs nothing but the kernel"
	case r.Format == ELF && len(r.Found) == 0:
		s += fmt.Sprintf("; %s has the loader it asks for, and it needs no libraries", m.where())
	case r.Format == ELF:
		s += fmt.Sprintf("; %s has its loader and the %s it needs", m.where(), count(len(r.Found), "library", "libraries"))
	case r.Static():
		s += "; it needs nothing but " + cmp.Or(r.newer(), r.OS)
	default:
		s += fmt.Sprintf("; it needs %s, besides %s", list(r.foreign()), cmp.Or(r.newer(), r.OS))
	}
	if !r.checkedCPU() {
		s += fmt.Sprintf("; its processor must be of level %s", r.CPULevel)
	}
	if len(r.Damage) > 0 {
		s += "; but the file is damaged: " + r.Damage[0]
	}
	return s
}

// newer is the oldest system, in words.
func (r *Report) newer() string {
	name, version, ok := strings.Cut(r.MinOS, " ")
	if !ok {
		return ""
	}
	if word := map[string]string{"macos": "macOS", "windows": "Windows"}[name]; word != "" {
		name = word
	}
	return name + " " + version + " or later"
}

// checkedCPU reports whether there was nothing to ask of the processor, or it could be asked.
func (r *Report) checkedCPU() bool {
	return len(levelFeatures(r.CPULevel)) == 0 || r.Machine.asked
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
