// Package export writes what other tools understand, for those who want only the files.
package export

import (
	"fmt"
	"path"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Dockerfile is what a multi-stage Dockerfile needs to know.
type Dockerfile struct {
	Service  string
	Go       string   // version, as 1.26.8
	Args     []string // of go build for the service's own program, from fairlead's build; the last is the package
	Env      []string // as NAME=value
	Programs map[string]string
	Build    spec.Build
	Module   string // folder of the module below the build context, "." when it is the context itself
}

// String writes the Dockerfile. It builds the program that fairlead builds, for the platform that docker asks for; the
// image around it has the same user and files, though not the same digest, since docker writes the date into it.
func (d Dockerfile) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# syntax=docker/dockerfile:1")
	line("FROM --platform=$BUILDPLATFORM golang:%s AS build", d.Go)
	line("ARG TARGETOS TARGETARCH")
	for _, e := range d.Env {
		name, value, _ := strings.Cut(e, "=")
		if name != "GOOS" && name != "GOARCH" {
			line("ENV %s=%s", name, quote(value))
		}
	}
	line("WORKDIR /src")
	line("COPY . .")
	if d.Module != "." {
		line("WORKDIR /src/%s", d.Module)
	}
	pkg := d.Args[len(d.Args)-1]
	flags := d.Args[:len(d.Args)-1]
	line("RUN GOOS=$TARGETOS GOARCH=$TARGETARCH go build %s -o /out/%s %s", words(flags), d.Service, quote(pkg))
	for name, main := range d.Programs {
		line("RUN GOOS=$TARGETOS GOARCH=$TARGETARCH go build %s -o /out/%s %s", words(flags), name, quote(main))
	}
	line(`RUN mkdir -p /root-fs/etc/ssl/certs /root-fs/usr/share /root-fs/tmp /root-fs/home/nonroot \`)
	line(` && cp /etc/ssl/certs/ca-certificates.crt /root-fs/etc/ssl/certs/ \`)
	line(` && cp -r /usr/local/go/lib/time/zoneinfo.zip /root-fs/usr/share/ \`)
	line(` && echo 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' > /root-fs/etc/passwd \`)
	line(` && echo 'nonroot:x:65532:' > /root-fs/etc/group && chmod 1777 /root-fs/tmp && chown 65532:65532 /root-fs/home/nonroot`)
	line("")
	from := "scratch"
	if d.Build.Image.Base != "" && !strings.HasPrefix(d.Build.Image.Base, "oci:") {
		from = d.Build.Image.Base
	}
	line("FROM %s", from)
	if from == "scratch" {
		line("COPY --from=build /root-fs /")
		line("ENV PATH=/app SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt ZONEINFO=/usr/share/zoneinfo.zip")
	}
	line("COPY --from=build /out /app")
	line("USER 65532:65532")
	line("WORKDIR /home/nonroot")
	line("ENTRYPOINT [%q]", path.Join("/app", d.Service))
	return b.String()
}

// words quotes each word for the shell that RUN starts.
func words(args []string) string {
	var out []string
	for _, a := range args {
		out = append(out, quote(a))
	}
	return strings.Join(out, " ")
}

func quote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n'\"$\\`|&;<>()*?[]#~!{}") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
