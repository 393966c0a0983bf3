package inspect

import (
	"os"
	"path"
	"path/filepath"
	"strings"
)

// object is a loaded ELF file, with what the search for its libraries needs.
type object struct {
	name   string // as it was asked for
	path   string // on the machine, "" if it lies elsewhere
	dyn    dynamic
	loader *object // whose need brought it in
}

// search finds a program's libraries as the dynamic loader would: ld.so(8), and musl's dynlink.c.
type search struct {
	tree    tree
	program *elfFile
	arch    string
	musl    bool
	system  []string           // the folders that are searched for every file
	loaded  map[string]*object // by the names they were asked for, and by sonames
	folder  map[string]bool    // whether a folder is there, so that a long run path costs little
}

// triplets are Debian's names for architectures in folders, the commoner first.
var triplets = map[string][]string{
	"amd64": {"x86_64-linux-gnu"}, "386": {"i386-linux-gnu"}, "arm64": {"aarch64-linux-gnu"},
	"arm": {"arm-linux-gnueabihf", "arm-linux-gnueabi"}, "riscv64": {"riscv64-linux-gnu"}, "s390x": {"s390x-linux-gnu"},
	"ppc64le": {"powerpc64le-linux-gnu"}, "ppc64": {"powerpc64-linux-gnu"}, "loong64": {"loongarch64-linux-gnu"},
	"mips64le": {"mips64el-linux-gnuabi64"}, "mipsle": {"mipsel-linux-gnu"}, "amd64p32": {"x86_64-linux-gnux32"},
}

// platformNames are what $PLATFORM stands for: the kernel's AT_PLATFORM.
var platformNames = map[string]string{
	"amd64": "x86_64", "386": "i686", "arm64": "aarch64", "arm": "v7l", "riscv64": "riscv64", "s390x": "z900", "ppc64le": "power8",
}

// resolve looks up the program's loader and all libraries that it and they need, breadth first as the loader does.
func (r *Report) resolve(e *elfFile, t tree) {
	s := &search{tree: t, program: e, arch: r.Arch, loaded: map[string]*object{}, folder: map[string]bool{}}
	program := &object{name: filepath.Base(r.Name), dyn: e.dyn}
	if p, ok := t.inside(r.Name); ok {
		program.path = p
	}
	s.musl = strings.HasPrefix(path.Base(r.Interpreter), "ld-musl-")
	s.system = s.systemFolders(r.Interpreter)
	if r.Interpreter != "" {
		if loader, ok := s.load(r.Interpreter, r.Interpreter, program); ok {
			s.loaded[path.Base(r.Interpreter)] = loader
		} else {
			r.Missing = append(r.Missing, Missing{r.Interpreter, program.name, PackageOf(path.Base(r.Interpreter), e.wide)})
		}
	}
	queue := []*object{program}
	for i := 0; i < len(queue) && i < maxEntries; i++ {
		for _, name := range queue[i].dyn.needed {
			if s.loaded[name] != nil || s.musl && ofMusl(name) {
				continue
			}
			o, ok := s.find(name, queue[i])
			if !ok {
				r.Missing = append(r.Missing, Missing{name, queue[i].name, PackageOf(name, e.wide)})
				s.loaded[name] = &object{} // named once is enough
				continue
			}
			r.Found = append(r.Found, Found{Name: name, Path: o.path, NeededBy: queue[i].name})
			queue = append(queue, o)
		}
	}
	if !s.musl { // which has no symbol versions
		r.versions(queue, s.loaded)
	}
}

// ofMusl reports whether musl's loader is the library itself.
func ofMusl(name string) bool {
	rest, ok := strings.CutPrefix(name, "lib")
	stem, _, _ := strings.Cut(rest, ".")
	return ok && set("c pthread rt m dl util xnet")[stem]
}

// find searches for a library that an object needs.
func (s *search) find(name string, by *object) (*object, bool) {
	if strings.Contains(name, "/") {
		return s.load(name, s.expand(name, by)[0], by)
	}
	for _, dir := range s.folders(by) {
		if o, ok := s.load(name, path.Join(dir, name), by); ok {
			return o, true
		}
	}
	return nil, false
}

// folders are those to search for what an object needs, in order. DT_RPATH counts for all that an object brings in, but
// not beside a DT_RUNPATH, which counts for the object's own needs only. musl makes no difference between the two.
func (s *search) folders(by *object) (dirs []string) {
	for o := by; o != nil && (s.musl || by.dyn.runpath == ""); o = o.loader {
		if o.dyn.runpath == "" {
			dirs = append(dirs, s.expandAll(o.dyn.rpath, o)...)
		} else if s.musl {
			dirs = append(dirs, s.expandAll(o.dyn.runpath, o)...)
		}
	}
	if !s.musl {
		dirs = append(dirs, s.expandAll(by.dyn.runpath, by)...)
	}
	return append(dirs, s.system...)
}

func (s *search) expandAll(list string, o *object) (dirs []string) {
	for _, p := range splitPath(list) {
		dirs = append(dirs, s.expand(p, o)...)
	}
	return dirs
}

// expand replaces $ORIGIN, $LIB and $PLATFORM. What $LIB is depends on how the machine's loader was built, so there may be
// several answers. A file outside the tree has no origin in it.
func (s *search) expand(p string, o *object) []string {
	if !strings.Contains(p, "$") {
		return []string{p}
	}
	p = strings.NewReplacer("${", "$", "}", "").Replace(p)
	if strings.Contains(p, "$ORIGIN") && o.path == "" {
		return []string{""}
	}
	p = strings.ReplaceAll(p, "$ORIGIN", path.Dir(o.path))
	p = strings.ReplaceAll(p, "$PLATFORM", platformNames[s.arch])
	if !strings.Contains(p, "$LIB") {
		return []string{p}
	}
	var out []string
	for _, lib := range s.libNames() {
		out = append(out, strings.ReplaceAll(p, "$LIB", lib))
	}
	return out
}

// libNames are the folders that libraries of the architecture live in, below / and below /usr.
func (s *search) libNames() (out []string) {
	for _, t := range triplets[s.arch] {
		out = append(out, "lib/"+t)
	}
	if s.program.wide {
		out = append(out, "lib64")
	}
	return append(out, "lib")
}

// load reads the library at a path of the machine, if it is one that fits the program.
func (s *search) load(name, at string, by *object) (*object, bool) {
	if !path.IsAbs(at) || !s.isFolder(path.Dir(at)) {
		return nil, false
	}
	in, closer, ok := s.tree.open(at)
	if !ok {
		return nil, false
	}
	defer closer.Close()
	e, err := parseELF(in)
	if err != nil || !s.program.fits(e) {
		return nil, false
	}
	o := &object{name: name, path: at, dyn: e.dyn, loader: by}
	s.loaded[name] = o
	if e.dyn.soname != "" && s.loaded[e.dyn.soname] == nil {
		s.loaded[e.dyn.soname] = o
	}
	return o, true
}

// isFolder reports whether the machine has a folder.
func (s *search) isFolder(dir string) bool {
	is, known := s.folder[dir]
	if !known {
		ours, ok := s.tree.real(dir)
		if ok {
			st, err := os.Stat(ours)
			is = err == nil && st.IsDir()
		}
		s.folder[dir] = is
	}
	return is
}

// systemFolders are those of the machine's configuration, then the loader's own.
func (s *search) systemFolders(interpreter string) (dirs []string) {
	if s.musl {
		arch := strings.TrimSuffix(strings.TrimPrefix(path.Base(interpreter), "ld-musl-"), ".so.1")
		conf := strings.FieldsFunc(s.tree.read("/etc/ld-musl-"+arch+".path"), func(r rune) bool { return r == ':' || r == '\n' })
		if len(conf) > 0 {
			return conf
		}
		return []string{"/lib", "/usr/local/lib", "/usr/lib"}
	}
	c := conf{tree: s.tree, seen: map[string]bool{}}
	c.read("/etc/ld.so.conf")
	dirs = c.dirs
	for _, lib := range s.libNames() {
		dirs = append(dirs, "/"+lib, "/usr/"+lib)
	}
	return dirs
}

// conf collects the folders of ld.so.conf.
type conf struct {
	tree tree
	dirs []string
	seen map[string]bool // files that were read, for those that include each other
}

func (c *conf) read(name string) {
	if c.seen[name] || len(c.seen) > maxEntries {
		return
	}
	c.seen[name] = true
	for line := range strings.Lines(c.tree.read(name)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\r\n:,", r) })
		if len(fields) == 0 || fields[0] == "hwcap" {
			continue
		}
		if fields[0] == "include" {
			for _, pattern := range fields[1:] {
				c.include(path.Dir(name), pattern)
			}
			continue
		}
		for _, dir := range fields {
			dir, _, _ = strings.Cut(dir, "=") // a type of library, which nobody needs any more
			if path.IsAbs(dir) && len(c.dirs) < maxEntries {
				c.dirs = append(c.dirs, path.Clean(dir))
			}
		}
	}
}

// include reads the files a pattern names, in the order of their names. Only the last part may be a pattern.
func (c *conf) include(dir, pattern string) {
	if !path.IsAbs(pattern) {
		pattern = path.Join(dir, pattern)
	}
	dir, pattern = path.Split(pattern)
	for _, name := range c.tree.list(dir) {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			c.read(path.Join(dir, name))
		}
	}
}
