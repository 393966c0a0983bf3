package inspect

import (
	"path"
	"path/filepath"
	"strings"
)

// resolveForeign looks for the libraries of a Mach-O or PE file that do not come with its system.
func (r *Report) resolveForeign(t tree) {
	self, ok := t.inside(r.Name)
	here := path.Dir(self)
	if !ok {
		here = ""
	}
	program := filepath.Base(r.Name)
	for _, lib := range r.foreign() {
		found := ""
		for _, at := range r.places(lib, here) {
			if in, closer, ok := t.open(at); ok {
				closer.Close()
				if in.size > 0 {
					found = at
					break
				}
			}
		}
		if found == "" {
			r.Missing = append(r.Missing, Missing{Name: lib, NeededBy: program})
		} else {
			r.Found = append(r.Found, Found{Name: lib, Path: found, NeededBy: program})
		}
	}
}

// places are the paths where the loader looks for a library: dyld(1), or the search order of LoadLibrary.
func (r *Report) places(lib, here string) (out []string) {
	if r.Format == PE {
		return []string{path.Join(here, lib), "C:/Windows/System32/" + lib, "/Windows/System32/" + lib}
	}
	expand := func(p string) string {
		for _, v := range []string{"@executable_path", "@loader_path"} {
			if rest, ok := strings.CutPrefix(p, v); ok && here != "" {
				return path.Join(here, rest)
			}
		}
		return p
	}
	rest, ok := strings.CutPrefix(lib, "@rpath/")
	if !ok {
		return []string{expand(lib)}
	}
	for _, dir := range r.RunPath {
		out = append(out, path.Join(expand(dir), rest))
	}
	return out
}
