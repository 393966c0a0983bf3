package build

import (
	"strings"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/inspect"
	"github.com/fairlead-dev/fairlead/internal/platform"
)

// verify refuses a result that is not what was asked for.
func (j *job) verify(i *inspect.Report, pl platform.Platform) error {
	if i.Go == nil {
		return fail.New(fail.Build, "", "the result does not show that it is a Go program").Hinted("remove -buildmode and what strips build information from build.flags and build.ldflags")
	}
	if i.OS != pl.OS || i.Arch != pl.Arch {
		return fail.New(fail.Build, "", "the result is for %s/%s, not %s/%s", i.OS, i.Arch, pl.OS, pl.Arch).
			Hinted("a GOOS or GOARCH in build.env or build.flags overrides the platform; remove it")
	}
	if i.Static() || j.Build.Race {
		return nil
	}
	hint := "remove what makes it dynamic from build.flags, build.ldflags and GOFLAGS"
	switch {
	case i.Go.Settings["-buildmode"] == "pie":
		hint = "remove -buildmode=pie from build.flags or GOFLAGS: a PIE asks for a loader even without cgo"
	case i.Go.Settings["CGO_ENABLED"] == "1":
		hint = "build without cgo (remove `build: {cgo: true}`), or link statically: `build: {ldflags: [\"-linkmode=external\", \"-extldflags=-static\"]}`"
	}
	return fail.New(fail.Build, "", "the result is not static: %s", needs(i)).Hinted("%s", hint)
}

func needs(i *inspect.Report) string {
	if len(i.Libraries) > 0 {
		return "it needs " + strings.Join(i.Libraries, ", ")
	}
	return "it asks for the loader " + i.Interpreter
}
