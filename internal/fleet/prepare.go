package fleet

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/keeper"
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
	zipped, err := p.zipped()
	if err != nil {
		return err
	}
	if err := h.upload(ctx, zipped, tmp); err != nil {
		return err
	}
	f.told(h, event.Info, "sent fairlead, %.1f MB", float64(len(zipped))/1e6)
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

// upload writes a program to the host. It is there whole or not at all.
func (h *Host) upload(ctx context.Context, zipped []byte, to string) error {
	_, err := h.run(ctx, remote.Command{Args: []string{"sh", "-c", `umask 077; gzip -dc > "$1.part" && chmod 755 "$1.part" && mv "$1.part" "$1"`, "sh", to}, Root: true, Stdin: bytes.NewReader(zipped)})
	return err
}

// file is a fairlead for a platform.
type file struct {
	name   string
	zipped func() ([]byte, error) // with gzip, which every host has
}

// programs finds one for each platform.
type programs struct {
	exe string
	mu  sync.Mutex
	at  map[platform.Platform]func() (file, error)
}

func (p *programs) of(on platform.Platform) (file, error) {
	p.mu.Lock()
	find := p.at[on]
	if find == nil {
		find = sync.OnceValues(func() (file, error) { return p.find(on) })
		p.at[on] = find
	}
	p.mu.Unlock()
	return find()
}

// find takes the file beside this program that is named for the platform, or this program itself where it fits and needs no libraries.
func (p *programs) find(on platform.Platform) (file, error) {
	beside := filepath.Join(filepath.Dir(p.exe), "fairlead-"+on.OS+"-"+on.Arch)
	path := p.exe
	if _, err := os.Stat(beside); err == nil {
		path = beside
	}
	if err := static(path, on); err != nil {
		return file{}, fail.New(fail.Preflight, "", "there is no fairlead for %s here: %w", on, err).
			Hinted("put one beside this one, as %s: GOOS=%s GOARCH=%s CGO_ENABLED=0 go build -o %s ./cmd/fairlead", filepath.Base(beside), on.OS, on.Arch, beside)
	}
	name, err := keeper.Name(path)
	return file{name, sync.OnceValues(func() ([]byte, error) { return zip(path) })}, err
}

func zip(path string) ([]byte, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err == nil {
		_, err = io.Copy(z, in)
	}
	if err == nil {
		err = z.Close()
	}
	return out.Bytes(), err
}

// static reports why a program does not run on any host of a platform.
func static(path string, on platform.Platform) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s is no program for Linux", path)
	}
	defer f.Close()
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "riscv64": elf.EM_RISCV, "ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390}
	if f.Machine != machine[on.Arch] {
		return fmt.Errorf("%s is for another processor", path)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s needs libraries of the host", path)
		}
	}
	return nil
}
