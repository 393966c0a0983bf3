// Package platform names what a program is built for, in the words of Go and of OCI.
package platform

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// Platform is what a program is built for, in Go's words.
type Platform struct {
	OS    string // GOOS
	Arch  string // GOARCH
	Level string // of the architecture, as GOAMD64=v3 or GOARM=7; "" for Go's default
}

// levels names the variable that chooses an architecture's level, and the levels the go command takes
// (`go help environment`, "Architecture-specific environment variables").
var levels = map[string]struct {
	variable string
	values   []string
}{
	"386":      {"GO386", []string{"sse2", "softfloat"}},
	"amd64":    {"GOAMD64", []string{"v1", "v2", "v3", "v4"}},
	"arm":      {"GOARM", []string{"5", "6", "7"}},
	"arm64":    {"GOARM64", []string{"v8.0", "v8.1", "v8.2", "v8.3", "v8.4", "v8.5", "v8.6", "v8.7", "v8.8", "v8.9", "v9.0", "v9.1", "v9.2", "v9.3", "v9.4", "v9.5"}},
	"mips":     {"GOMIPS", []string{"hardfloat", "softfloat"}},
	"mipsle":   {"GOMIPS", []string{"hardfloat", "softfloat"}},
	"mips64":   {"GOMIPS64", []string{"hardfloat", "softfloat"}},
	"mips64le": {"GOMIPS64", []string{"hardfloat", "softfloat"}},
	"ppc64":    {"GOPPC64", []string{"power8", "power9", "power10"}},
	"ppc64le":  {"GOPPC64", []string{"power8", "power9", "power10"}},
	"riscv64":  {"GORISCV64", []string{"rva20u64", "rva22u64", "rva23u64"}},
}

// IsLevel reports whether an environment variable chooses an architecture's level.
func IsLevel(variable string) bool {
	for _, l := range levels {
		if l.variable == variable {
			return true
		}
	}
	return false
}

// ports are the pairs that a Go of today builds for (`go tool dist list`). It keeps typing errors out; whether the Go at
// hand can build for one of them, it says itself.
var ports = strings.Fields(`aix/ppc64 android/386 android/amd64 android/arm android/arm64 darwin/amd64 darwin/arm64 dragonfly/amd64
	freebsd/386 freebsd/amd64 freebsd/arm freebsd/arm64 freebsd/riscv64 illumos/amd64 ios/amd64 ios/arm64 js/wasm linux/386 linux/amd64
	linux/arm linux/arm64 linux/loong64 linux/mips linux/mips64 linux/mips64le linux/mipsle linux/ppc64 linux/ppc64le
	linux/riscv64 linux/s390x netbsd/386 netbsd/amd64 netbsd/arm netbsd/arm64 openbsd/386 openbsd/amd64 openbsd/arm
	openbsd/arm64 openbsd/ppc64 openbsd/riscv64 plan9/386 plan9/amd64 plan9/arm solaris/amd64 wasip1/wasm windows/386
	windows/amd64 windows/arm64`)

// Parse reads GOOS/GOARCH, or GOOS/GOARCH/LEVEL as linux/amd64/v3 and linux/arm/7. The error says what was expected.
func Parse(s string) (Platform, error) {
	os, rest, ok := strings.Cut(s, "/")
	arch, level, _ := strings.Cut(rest, "/")
	if !ok || os == "" || arch == "" {
		return Platform{}, fmt.Errorf("%q is not GOOS/GOARCH, as linux/amd64, or GOOS/GOARCH/LEVEL, as linux/amd64/v3", s)
	}
	if !slices.Contains(ports, os+"/"+arch) {
		return Platform{}, fmt.Errorf("%q is no platform Go builds for (`go tool dist list` prints them)", os+"/"+arch)
	}
	if level == "" {
		return Platform{OS: os, Arch: arch}, nil
	}
	known := levels[arch]
	if arch == "arm" {
		level = strings.TrimPrefix(level, "v") // as OCI writes it
	}
	if !slices.Contains(known.values, level) {
		if known.values == nil {
			return Platform{}, fmt.Errorf("%q: Go has no levels of %s", s, arch)
		}
		return Platform{}, fmt.Errorf("%q: %q is no level of %s; Go knows %s", s, level, arch, strings.Join(known.values, ", "))
	}
	return Platform{OS: os, Arch: arch, Level: level}, nil
}

// String writes what [Parse] reads.
func (p Platform) String() string {
	if p.Level == "" {
		return p.OS + "/" + p.Arch
	}
	return p.OS + "/" + p.Arch + "/" + p.Level
}

// Env lists the variables that make the go command build for p, as NAME=value.
func (p Platform) Env() []string {
	env := []string{"GOOS=" + p.OS, "GOARCH=" + p.Arch}
	if p.Level != "" {
		env = append(env, levels[p.Arch].variable+"="+p.Level)
	}
	return env
}

// Variant is the level in the words of an OCI platform; "" where it has none
// (https://github.com/opencontainers/image-spec/blob/main/image-index.md).
func (p Platform) Variant() string {
	switch p.Arch {
	case "arm":
		if p.Level == "" {
			return "v7" // what Go builds for when it is not told
		}
		return "v" + p.Level
	case "arm64":
		major, _, _ := strings.Cut(p.Level, ".")
		if major == "" {
			return ""
		}
		return major
	case "amd64":
		if p.Level == "v1" {
			return ""
		}
		return p.Level
	}
	return ""
}

// Host returns the platform that this process runs on, whatever its level.
func Host() Platform { return Platform{OS: runtime.GOOS, Arch: runtime.GOARCH} }
