package export

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

func example() Dockerfile {
	return Dockerfile{Service: "shop", Go: "1.26.8", Folder: "services/shop", VCS: true, Unknown: Unknown{"@V@", "@C@", "@D@"},
		Env: []string{"GOOS=linux", "GOARCH=amd64", "GOAMD64=v3", "CGO_ENABLED=0", "TOKEN=hush", "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0", "TOKEN=hush"},
		Commands: []Command{
			{"shop", []string{"-trimpath", "-ldflags=-s -w -X main.version=@V@ -X 'main.note=$5 \"off\" `now`'", "-buildvcs=true", "example.com/shop"}},
			{"tool", []string{"-trimpath", "-ldflags=-s -w -X main.date=@D@", "-tags=a b", "example.com/shop/cmd/tool"}},
		}}
}

func holds(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("it does not say %q:\n%s", w, text)
		}
	}
}

func lacks(t *testing.T, text string, not ...string) {
	t.Helper()
	for _, n := range not {
		if strings.Contains(text, n) {
			t.Errorf("it says %q:\n%s", n, text)
		}
	}
}

func TestDockerfile(t *testing.T) {
	text := example().String()
	holds(t, text, "docker build -f services/shop/Dockerfile", "FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build\n", "ENV GOAMD64=v3\n", "ENV CGO_ENABLED=0\n",
		"WORKDIR /src/services/shop\n", "FROM scratch\n", "COPY --from=build /rootfs /\n", "USER 65532:65532\n", "ENTRYPOINT [\"/app/shop\"]\n", "ARG TOKEN\n")
	lacks(t, text, "hush", "GOOS=linux", "GOARCH=a", "@V@", "@D@", "commit=$(")
	for _, once := range []string{"ENV CGO_ENABLED", "ARG TOKEN", "go build -o /out/shop", "go build -o /out/tool"} {
		if n := strings.Count(text, once); n != 1 {
			t.Errorf("%q stands there %d times", once, n)
		}
	}
	if again := example().String(); again != text {
		t.Error("it is not the same twice")
	}
}

// TestShellReadsTheCommands lets a shell run what RUN has, with commands in place of go and git that tell what they are given.
func TestShellReadsTheCommands(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no shell: ", err)
	}
	_, run, _ := strings.Cut(example().String(), "RUN --mount")
	run, _, _ = strings.Cut(run, "\nRUN ")
	run = regexp.MustCompile(`=type=cache,target=\S+( --mount=type=cache,target=\S+)* \\\n`).ReplaceAllString(run, "")
	out, err := exec.CommandContext(t.Context(), sh, "-c", `git() { case $1 in describe) echo v1.2.3;; log) echo 2026-01-31T12:00:00Z;; status) echo "?? new";; esac; }
go() { printf '%s %s' "$GOOS" "$GOARCH"; printf '[%s]' "$@"; echo; }
TARGETOS=linux TARGETARCH=arm64
`+run).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\nof\n%s", err, out, run)
	}
	want := "linux arm64[build][-o][/out/shop][-trimpath][-ldflags=-s -w -X main.version=v1.2.3-dirty -X 'main.note=$5 \"off\" `now`'][-buildvcs=true][example.com/shop]\n" +
		"linux arm64[build][-o][/out/tool][-trimpath][-ldflags=-s -w -X main.date=2026-01-31T12:00:00Z][-tags=a b][example.com/shop/cmd/tool]\n"
	if string(out) != want {
		t.Errorf("got  %s\nwant %s", out, want)
	}
}

func TestDockerfileBases(t *testing.T) {
	d := example()
	d.Image = spec.Image{Base: "gcr.example.com/base@sha256:abc", Labels: map[string]string{"b": `say "$x" \`, "a": "1"}}
	text := d.String()
	holds(t, text, "FROM gcr.example.com/base@sha256:abc\n", "LABEL \"a\"=\"1\"\nLABEL \"b\"=\"say \\\"\\$x\\\" \\\\\"\n")
	lacks(t, text, "scratch", "rootfs", "ARG BASE", "WORKDIR /home")

	d.Image.Base, d.VCS, d.Folder = "oci:../base", false, "."
	text = d.String()
	holds(t, text, "ARG BASE\n", "FROM $BASE\n", "docker build -f Dockerfile", "COPY . .\nRUN")
	lacks(t, text, "FROM oci:", ".git must", "rootfs")
	if before, _, _ := strings.Cut(text, "FROM"); !strings.Contains(before, "ARG BASE") {
		t.Error("an argument of FROM stands before the first FROM")
	}
}
