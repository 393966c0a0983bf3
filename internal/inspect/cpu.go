package inspect

import (
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/cpu"
)

// levelSetting is the build setting that says for which processors of an architecture a Go program was compiled.
func levelSetting(arch string) string {
	switch arch {
	case "ppc64le":
		return "GOPPC64"
	case "mipsle":
		return "GOMIPS"
	case "mips64le":
		return "GOMIPS64"
	}
	return "GO" + strings.ToUpper(arch)
}

// The levels of amd64 (the psABI's x86-64-v2 to v4; https://go.dev/wiki/MinimumRequirements), by Linux's names.
const (
	amd64v2 = "cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2"
	amd64v3 = amd64v2 + " avx avx2 bmi1 bmi2 f16c fma abm movbe"
	amd64v4 = amd64v3 + " avx512f avx512bw avx512cd avx512dq avx512vl"
)

// levels are the features that each level takes for granted. What is not here runs on every processor, or cannot be told
// from its features.
var levels = map[string]string{
	"GOAMD64=v2": amd64v2, "GOAMD64=v3": amd64v3, "GOAMD64=v4": amd64v4,
	"x86-64-v2": amd64v2, "x86-64-v3": amd64v3, "x86-64-v4": amd64v4,
	"GO386=sse2": "sse2",
	"GOARM=6":    "vfp", "GOARM=7": "vfp vfpv3",
}

// levelFeatures are the features that a setting such as GOARM64=v8.1,crypto takes for granted.
func levelFeatures(level string) []string {
	base, options, _ := strings.Cut(level, ",")
	f := strings.Fields(levels[base])
	if base == "GOARM=6" || base == "GOARM=7" {
		if options == "softfloat" {
			return nil
		}
		return f
	}
	if v, ok := strings.CutPrefix(base, "GOARM64="); ok {
		if v != "v8.0" || strings.Contains(options, "lse") {
			f = append(f, "atomics") // the Large System Extensions
		}
		if strings.Contains(options, "crypto") {
			f = append(f, "aes", "pmull", "sha1", "sha2")
		}
	}
	return f
}

// lacking are the features a level needs and the processor lacks.
func lacking(level string, has func(string) bool) (out []string) {
	for _, f := range levelFeatures(level) {
		if !has(f) {
			out = append(out, f)
		}
	}
	return out
}

// cpuinfo are this machine's features as Linux names them; nil where it does not say.
var cpuinfo = sync.OnceValue(func() map[string]bool {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		if key = strings.TrimSpace(key); key == "flags" || key == "Features" {
			return set(value)
		}
	}
	return nil
})

// thisCPU reports whether this machine's processor has a feature.
func thisCPU(name string) bool {
	if m := cpuinfo(); m != nil {
		return m[name] || runtime.GOARCH == "arm64" && (name == "vfp" || name == "vfpv3")
	}
	switch runtime.GOARCH {
	case "amd64", "386":
		return x86Has(name)
	case "arm64":
		if name == "atomics" {
			return cpu.ARM64.HasATOMICS || runtime.GOOS == "darwin"
		}
	}
	return true
}

// x86Has asks the processor itself. Go's package does not know all features: those stand and fall with one it knows.
func x86Has(name string) bool {
	x := &cpu.X86
	switch name {
	case "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl":
		return x.HasAVX512F && x.HasAVX512BW && x.HasAVX512CD && x.HasAVX512DQ && x.HasAVX512VL
	case "avx":
		return x.HasAVX
	case "avx2", "f16c", "abm", "movbe":
		return x.HasAVX2
	case "bmi1":
		return x.HasBMI1
	case "bmi2":
		return x.HasBMI2
	case "fma":
		return x.HasFMA
	case "cx16":
		return x.HasCX16
	case "popcnt":
		return x.HasPOPCNT
	case "pni":
		return x.HasSSE3
	case "ssse3":
		return x.HasSSSE3
	case "sse4_1":
		return x.HasSSE41
	case "sse4_2", "lahf_lm":
		return x.HasSSE42
	}
	return true
}

// runsOn reports whether a machine runs programs for another architecture than its own, and by what.
func runsOn(goos, machine, program string) (by string, ok bool) {
	switch {
	case machine == program:
		return "", true
	case machine == "amd64" && program == "386":
		return "whose processors have the 32-bit mode too", true
	case goos == "linux" && machine == "arm64" && program == "arm":
		return "where the processor still has the 32-bit mode, as the small boards do", true
	case goos == "darwin" && machine == "arm64" && program == "amd64":
		return "which needs Rosetta 2 for it (`softwareupdate --install-rosetta`)", true
	case goos == "windows" && machine == "arm64" && (program == "amd64" || program == "386"):
		return "which emulates it", true
	}
	return "", false
}
