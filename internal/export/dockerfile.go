// Package export writes what other tools understand, for those who want only the files.
package export

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Dockerfile is what a multi-stage Dockerfile needs to know.
type Dockerfile struct {
	Service  string
	Go       string    // version of Go, as 1.26.8
	Commands []Command // one a program, the service's own first
	Env      []string  // of all of them, as NAME=value
	Image    spec.Image
	Folder   string // the service's folder below the build context, slash-separated; "." for the context itself
	VCS      bool   // the context is a git repository
	Unknown  Unknown
}

// Command is a go command that makes one program.
type Command struct {
	Name string   // the program's file name
	Args []string // behind `go build -o FILE`; the last is the package
}

// Unknown is what stands in commands for what version control says: it is asked when the programs are built.
type Unknown struct{ Version, Commit, Date string }

// String writes the Dockerfile. It builds the programs that fairlead builds, byte for byte, for the platform that docker asks
// for, and from every commit: what version control says is asked when it is built. The image around them has the same files,
// user and start, though not the same digest, since docker writes the date into it.
func (d Dockerfile) String() string {
	w := new(writer)
	d.head(w)
	d.compile(w)
	if d.Image.Base == "" {
		root(w)
	}
	d.image(w)
	return w.String()
}

// writer collects lines.
type writer struct{ strings.Builder }

func (w *writer) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

func (d Dockerfile) head(w *writer) {
	file := path.Join(d.Folder, "Dockerfile")
	w.line("# Made by `fairlead export dockerfile`: the programs of %s, the same to the byte as `fairlead build` makes them.", d.Service)
	w.line("#")
	w.line("#     docker build -f %s -t %s .", file, d.Service)
	w.line("#")
	if d.VCS {
		w.line("# in the repository's top folder. The version comes from git: .git must be in the context (.dockerignore), and the tree must")
		w.line("# be clean, this file committed and nothing of what git knows left out, or the programs say that they are modified.")
	} else {
		w.line("# in the folder that has all of the source.")
	}
	if strings.HasPrefix(d.Image.Base, "oci:") {
		w.line("# The base image is %s, a folder: push it, and name it with --build-arg BASE=HOST/PATH@DIGEST.", d.Image.Base)
		w.line("ARG BASE")
	}
}

// compile writes the stage with Go. The caches make the second build quick; nothing of them gets into the image.
func (d Dockerfile) compile(w *writer) {
	w.line("")
	w.line("FROM --platform=$BUILDPLATFORM golang:%s AS build", d.Go)
	w.line("ARG TARGETOS")
	w.line("ARG TARGETARCH")
	own := map[string]bool{"GOOS": true, "GOARCH": true}
	for _, e := range d.Env {
		name, value, _ := strings.Cut(e, "=")
		switch {
		case own[name]:
		case strings.HasPrefix(name, "GO"), strings.HasPrefix(name, "CGO_"):
			w.line("ENV %s=%s", name, quote(value))
		default: // it may be a secret, and is not for a file that is committed
			w.line("ARG %s", name)
		}
		own[name] = true
	}
	w.line("WORKDIR /src")
	w.line("COPY . .")
	if d.Folder != "." {
		w.line("WORKDIR %s", quote(path.Join("/src", d.Folder)))
	}
	w.line("RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \\")
	var steps []string
	for _, s := range []struct{ placeholder, step string }{
		{d.Unknown.Version, `version=$(git describe --tags --always)$(test -z "$(git status --porcelain)" || echo -dirty)`},
		{d.Unknown.Commit, `commit=$(git rev-parse HEAD)`},
		{d.Unknown.Date, `date=$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ)`},
	} {
		if slices.ContainsFunc(d.Commands, func(c Command) bool { return strings.Contains(strings.Join(c.Args, " "), s.placeholder) }) {
			steps = append(steps, s.step)
		}
	}
	for _, c := range d.Commands {
		var words []string
		for _, a := range c.Args {
			words = append(words, d.filled(a))
		}
		steps = append(steps, "GOOS=$TARGETOS GOARCH=$TARGETARCH go build -o "+quote("/out/"+c.Name)+" "+strings.Join(words, " "))
	}
	w.line("    %s", strings.Join(steps, " && \\\n    "))
}

// filled quotes a word for the shell that RUN starts, with variables for what is unknown.
func (d Dockerfile) filled(word string) string {
	u := d.Unknown
	out := strings.NewReplacer(u.Version, "$version", u.Commit, "$commit", u.Date, "$date").Replace(word)
	if out == word {
		return quote(word)
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", "$", `\$`, u.Version, "$version", u.Commit, "$commit", u.Date, "$date").Replace(word) + `"`
}

// root writes the files that fairlead puts below the programs, from what the image with Go has of them.
func root(w *writer) {
	w.line(`RUN mkdir -p /rootfs/etc/ssl/certs /rootfs/usr/share /rootfs/home/nonroot /rootfs/tmp && \`)
	w.line(`    cp /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/certs/ && \`)
	w.line(`    cp /usr/local/go/lib/time/zoneinfo.zip /rootfs/usr/share/ && \`)
	w.line(`    echo 'root:x:0:0:root:/root:/sbin/nologin' > /rootfs/etc/passwd && \`)
	w.line(`    echo 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' >> /rootfs/etc/passwd && \`)
	w.line(`    echo 'root:x:0:' > /rootfs/etc/group && echo 'nonroot:x:65532:' >> /rootfs/etc/group && \`)
	w.line(`    echo 'hosts: files dns' > /rootfs/etc/nsswitch.conf && \`)
	w.line(`    chmod 0700 /rootfs/home/nonroot && chown 65532:65532 /rootfs/home/nonroot && chmod 1777 /rootfs/tmp`)
}

// image writes the stage that is left.
func (d Dockerfile) image(w *writer) {
	w.line("")
	switch base := d.Image.Base; {
	case base == "":
		w.line("FROM scratch")
		w.line("COPY --from=build /rootfs /")
		w.line("ENV PATH=/app SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt ZONEINFO=/usr/share/zoneinfo.zip")
		w.line("WORKDIR /home/nonroot")
	case strings.HasPrefix(base, "oci:"):
		w.line("FROM $BASE")
	default:
		w.line("FROM %s", base)
	}
	w.line("COPY --from=build /out /app")
	for _, k := range slices.Sorted(maps.Keys(d.Image.Labels)) {
		w.line("LABEL %s=%s", double(k), double(d.Image.Labels[k]))
	}
	w.line("USER 65532:65532")
	w.line("ENTRYPOINT [%q]", path.Join("/app", d.Commands[0].Name))
}

// quote protects a word, from the shell that RUN starts as from docker.
func quote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n'\"$\\`|&;<>()*?[]#~!{}") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// double quotes a word for docker itself, which fills in variables where there is a dollar sign.
func double(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "\n", " ").Replace(s) + `"`
}
