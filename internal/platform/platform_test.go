package platform

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]struct {
		p       Platform
		env     string
		variant string
	}{
		"linux/amd64":          {Platform{"linux", "amd64", ""}, "GOOS=linux GOARCH=amd64", ""},
		"linux/amd64/v3":       {Platform{"linux", "amd64", "v3"}, "GOOS=linux GOARCH=amd64 GOAMD64=v3", "v3"},
		"linux/amd64/v1":       {Platform{"linux", "amd64", "v1"}, "GOOS=linux GOARCH=amd64 GOAMD64=v1", ""},
		"linux/arm/v6":         {Platform{"linux", "arm", "6"}, "GOOS=linux GOARCH=arm GOARM=6", "v6"},
		"linux/arm":            {Platform{"linux", "arm", ""}, "GOOS=linux GOARCH=arm", "v7"},
		"linux/arm64/v8.2":     {Platform{"linux", "arm64", "v8.2"}, "GOOS=linux GOARCH=arm64 GOARM64=v8.2", "v8"},
		"darwin/arm64":         {Platform{"darwin", "arm64", ""}, "GOOS=darwin GOARCH=arm64", ""},
		"linux/mips/softfloat": {Platform{"linux", "mips", "softfloat"}, "GOOS=linux GOARCH=mips GOMIPS=softfloat", ""},
	} {
		p, err := Parse(in)
		if err != nil || p != want.p || strings.Join(p.Env(), " ") != want.env || p.Variant() != want.variant {
			t.Errorf("%s: %+v %q %q (%v)", in, p, p.Env(), p.Variant(), err)
		}
		if again, err := Parse(p.String()); err != nil || again != p {
			t.Errorf("%s is not read again: %+v %v", p, again, err)
		}
	}
	for in, want := range map[string]string{"linux": "GOOS/GOARCH", "": "GOOS/GOARCH", "linux/": "GOOS/GOARCH", "linux/x86": "dist list",
		"linux/amd64/v9": "v1, v2, v3, v4", "linux/s390x/z15": "no levels", "linux/amd64/v3/x": "v3/x"} {
		if _, err := Parse(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

// TestPorts holds the list beside the go command's own.
func TestPorts(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "tool", "dist", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if !slices.Contains(ports, p) {
			t.Errorf("%s is missing", p)
		}
	}
}
