package fleet

import (
	"bytes"
	"context"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/remote"
)

// state is where a host keeps fairlead, and program the version that runs there: those of a machine whose user is root.
const (
	state   = "/var/lib/fairlead"
	program = state + "/bin/fairlead"
)

// look prints what Facts are made of, a line each. It needs nothing but a POSIX shell.
const look = `uname -s; uname -m; readlink ` + program + ` || echo -; test -S /run/fairlead/agent.sock && echo up || echo down; test -d /run/systemd/system && echo systemd || echo -`

// facts looks at a host.
func (h *Host) facts(ctx context.Context) (Facts, error) {
	out, err := h.run(ctx, remote.Command{Args: []string{"sh", "-c", look}, Root: true})
	if err != nil {
		return Facts{}, err
	}
	line := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(line) != 5 {
		return Facts{}, fail.New(fail.Preflight, "look at the host", "it says %q", out)
	}
	arch, ok := map[string]string{"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x"}[line[1]]
	if line[0] != "Linux" || !ok {
		return Facts{}, fail.New(fail.Preflight, "", "it is %s on %s, and machines that are reached over SSH are Linux on amd64, arm64, riscv64, ppc64le or s390x", line[0], line[1])
	}
	return Facts{Platform: platform.Platform{OS: "linux", Arch: arch}, Program: strings.TrimPrefix(line[2], "-"), Runs: line[3] == "up", Systemd: line[4] == "systemd"}, nil
}

// Look finds out what the hosts are. A host that is of no use is refused, one that does not answer has its error from then on.
func (f *Fleet) Look(ctx context.Context) error {
	for i, err := range f.each(f.Hosts, func(h *Host) (err error) { h.Facts, err = h.facts(ctx); return err }) {
		h := f.Hosts[i]
		if err != nil && !lost(err) {
			return on(h, err)
		}
		h.Err = err
	}
	return nil
}

// Prepare makes the hosts run this version of fairlead: it puts the program on those that lack it, has it started by their systemd, and
// replaces another version without touching what runs. exe is the program that runs now. Hosts that do not answer are left out.
func (f *Fleet) Prepare(ctx context.Context, exe string) error {
	files := programs{exe: exe, at: map[platform.Platform]func() (file, error){}}
	for i, err := range f.each(f.Hosts, func(h *Host) error { return f.prepare(ctx, h, &files) }) {
		if err != nil && !lost(err) {
			return on(f.Hosts[i], err)
		}
	}
	return nil
}

func (f *Fleet) prepare(ctx context.Context, h *Host, files *programs) error {
	p, err := files.of(h.Facts.Platform)
	if err != nil {
		return err
	}
	if h.Facts.Program == p.name && h.Facts.Runs {
		return nil
	}
	tmp := "/var/tmp/" + p.name + ".new"
	n, err := h.send(ctx, p, tmp)
	if err != nil {
		return err
	}
	f.told(h, event.Info, "sent fairlead, %.1f MB", float64(n)/1e6)
	if err := p.keep(); err != nil {
		f.told(h, event.Warn, "the next version will be sent whole: %v", err)
	}
	defer h.run(context.WithoutCancel(ctx), remote.Command{Args: []string{"rm", "-f", tmp}, Root: true}) //nolint:errcheck // what is left there is found by its name
	for _, args := range starts(h.Facts, tmp) {
		if _, err := h.run(ctx, remote.Command{Args: args, Root: true}); err != nil {
			return err
		}
	}
	f.told(h, event.Info, "fairlead runs")
	return nil
}

// starts are the commands that make a host run the program at tmp. Where there is systemd it starts it, so that it belongs to its
// service and not to our session.
func starts(h Facts, tmp string) [][]string {
	switch {
	case h.Runs:
		return [][]string{{tmp, "agent", "upgrade"}}
	case h.Systemd:
		return [][]string{{tmp, "agent", "install"}, {"systemctl", "start", "fairlead.service"}}
	}
	return [][]string{{tmp, "agent", "start"}}
}

// send brings the program to a file of the host, and returns how many bytes went there. Where an older one is there that we sent ourselves,
// only what differs is sent.
func (h *Host) send(ctx context.Context, p file, to string) (int, error) {
	if patch, err := p.patch(ctx, h.Facts.Program); err == nil {
		if err = h.write(ctx, `"`+program+`" agent patch `+p.name, patch, to); err == nil || lost(err) {
			return len(patch), err
		}
	}
	zipped, err := p.zipped()
	if err != nil {
		return 0, err
	}
	return len(zipped), h.write(ctx, "gzip -dc", zipped, to)
}

// write makes a program on the host of what a command there makes of in. It is there whole or not at all.
func (h *Host) write(ctx context.Context, by string, in []byte, to string) error {
	script := "umask 077; " + by + ` > "$1.part" && chmod 755 "$1.part" && mv "$1.part" "$1" || { rm -f "$1.part"; exit 1; }`
	_, err := h.run(ctx, remote.Command{Args: []string{"sh", "-c", script, "sh", to}, Root: true, Stdin: bytes.NewReader(in)})
	return err
}
