package inspect

import (
	"runtime"
	"strings"
)

// Runs reports whether this machine runs programs that were built for goos and goarch at a level of the architecture, in
// Go's words or in OCI's ("v3", "7" or "v7", "" for the lowest).
func Runs(goos, goarch, level string) bool {
	if goos != runtime.GOOS || goarch != runtime.GOARCH {
		return false
	}
	switch goarch {
	case "arm":
		level = strings.TrimPrefix(level, "v")
	case "arm64":
		if !strings.Contains(level, ".") && level != "" {
			level += ".0"
		}
	}
	return level == "" || len(lacking(levelSetting(goarch)+"="+level, thisCPU)) == 0
}
