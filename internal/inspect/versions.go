package inspect

import (
	"slices"
	"strconv"
	"strings"
)

// versions compares the versions of symbols that objects ask for with those that the libraries define. The loader refuses
// to start a program when one is not there: "version `GLIBC_2.34' not found".
func (r *Report) versions(objects []*object, loaded map[string]*object) {
	for _, o := range objects {
		worst := map[string]*TooOld{}
		var order []string
		for _, v := range o.dyn.asks {
			lib := loaded[v.library]
			// A library without any versions is taken as it is.
			if lib == nil || len(lib.dyn.defines) == 0 || slices.Contains(lib.dyn.defines, v.name) {
				continue
			}
			if w := worst[v.library]; w == nil {
				worst[v.library] = &TooOld{v.library, o.name, v.name, newest(lib.dyn.defines, v.name)}
				order = append(order, v.library)
			} else if compareVersions(v.name, w.Needs) > 0 {
				w.Needs, w.Has = v.name, newest(lib.dyn.defines, v.name)
			}
		}
		for _, lib := range order {
			r.TooOld = append(r.TooOld, *worst[lib])
		}
	}
}

// newest returns the newest version of a library that has the same name before the number: GLIBC_2.36 for GLIBC_2.38.
func newest(defined []string, like string) (best string) {
	stem, _ := splitVersion(like)
	for _, d := range defined {
		if s, n := splitVersion(d); s == stem && len(n) > 0 && (best == "" || compareVersions(d, best) > 0) {
			best = d
		}
	}
	return best
}

// splitVersion takes the numbers behind the last underscore apart; there are none in GLIBC_PRIVATE.
func splitVersion(v string) (stem string, numbers []int) {
	i := strings.LastIndexByte(v, '_')
	if i < 0 {
		return v, nil
	}
	for part := range strings.SplitSeq(v[i+1:], ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return v, nil
		}
		numbers = append(numbers, n)
	}
	return v[:i], numbers
}

func compareVersions(a, b string) int {
	_, x := splitVersion(a)
	_, y := splitVersion(b)
	return slices.Compare(x, y)
}
