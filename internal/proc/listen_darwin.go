package proc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// program is one line of ps(1).
type program struct {
	parent  int
	user    string
	since   time.Time
	command string
}

// What lsof(8) is asked for.
var (
	overTCP = []string{"-iTCP", "-sTCP:LISTEN"}
	overUDP = []string{"-iUDP"} // one with a peer has an arrow in its name, and is passed over
)

func listeners(ctx context.Context) ([]Listener, error) { return ofAll(ctx, overTCP) }

func listenersOf(ctx context.Context, pid int) ([]Listener, error) { return ofOne(ctx, overTCP, pid) }

func receivers(ctx context.Context) ([]Listener, error) { return ofAll(ctx, overUDP) }

func receiversOf(ctx context.Context, pid int) ([]Listener, error) { return ofOne(ctx, overUDP, pid) }

// receiving lists the addresses alone.
func receiving(ctx context.Context) (out []netip.AddrPort, err error) {
	all, err := lsof(ctx, overUDP, nil)
	for _, l := range all {
		if at, err := netip.ParseAddrPort(l.Addr); err == nil {
			out = append(out, at)
		}
	}
	return out, err
}

func ofAll(ctx context.Context, over []string) ([]Listener, error) {
	programs, err := ps(ctx)
	if err != nil {
		return nil, err
	}
	return lsof(ctx, over, programs)
}

func ofOne(ctx context.Context, over []string, pid int) ([]Listener, error) {
	programs, err := ps(ctx)
	if err != nil {
		return nil, err
	}
	parent := make(map[int]int, len(programs))
	for pid, p := range programs {
		parent[pid] = p.parent
	}
	in := family(parent, pid)
	all, err := lsof(ctx, over, programs)
	var out []Listener
	for _, l := range all {
		if in[l.PID] {
			out = append(out, l)
		}
	}
	return out, err
}

// lsof asks lsof(8): the kernel's own calls need cgo. It ends with 1 when nothing listens.
func lsof(ctx context.Context, over []string, programs map[int]program) ([]Listener, error) {
	out, err := output(ctx, "lsof", append([]string{"-nP", "-F", "pLtn"}, over...)...)
	if e, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || e.ExitCode() != 1) {
		return nil, fmt.Errorf("lsof: %w", err)
	}
	ls := parseLsof(out)
	for i, l := range ls {
		if p, ok := programs[l.PID]; ok {
			ls[i].Command, ls[i].Since, ls[i].User = p.command, p.since, p.user
		}
	}
	return ls, nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	b, err := cmd.Output()
	return string(b), err
}

// parseLsof reads one field a line: p and L begin a process, t and n tell of one of its files.
func parseLsof(text string) []Listener {
	var out []Listener
	var now Listener
	kind := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			continue
		}
		value := line[1:]
		switch line[0] {
		case 'p':
			pid, _ := strconv.Atoi(value)
			now = Listener{PID: pid}
		case 'L':
			now.User = value
		case 't':
			kind = value
		case 'n':
			if rest, ok := strings.CutPrefix(value, "*:"); ok && kind == "IPv6" {
				value = "[::]:" + rest
			} else if ok {
				value = "0.0.0.0:" + rest
			}
			at, err := netip.ParseAddrPort(value)
			if err != nil || now.PID == 0 {
				continue
			}
			now.Addr, now.Port = at.String(), int(at.Port())
			out = append(out, now)
		}
	}
	return out
}

func ps(ctx context.Context) (map[int]program, error) {
	out, err := output(ctx, "ps", "-axo", "pid=,ppid=,user=,lstart=,command=")
	if err != nil {
		return nil, fmt.Errorf("ps: %w", err)
	}
	return parsePS(out), nil
}

// parsePS reads "PID PPID USER Sat Nov 21 09:07:43 2026 COMMAND..."; lines of another form are passed over.
func parsePS(text string) map[int]program {
	out := map[int]program{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 9 {
			continue
		}
		pid, err := strconv.Atoi(f[0])
		if err != nil {
			continue
		}
		parent, err := strconv.Atoi(f[1])
		if err != nil {
			continue
		}
		since, err := time.ParseInLocation("Jan 2 15:04:05 2006", strings.Join(f[4:8], " "), time.Local)
		if err != nil {
			continue
		}
		out[pid] = program{parent, f[2], since, strings.Join(f[8:], " ")}
	}
	return out
}
