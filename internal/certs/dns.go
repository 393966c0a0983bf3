package certs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// dnsHook solves DNS-01 challenges (RFC 8555, section 8.4) by a command of the machine's owner, which is called as lego's is:
// present NAME VALUE, and cleanup NAME VALUE when the authority has looked.
type dnsHook struct{ path string }

// dnsHookTime is how long the command may take. It returns when the record is in force, and name servers take their time.
const dnsHookTime = 5 * time.Minute

// Present implements acmez.Solver.
func (h dnsHook) Present(ctx context.Context, c acme.Challenge) error {
	return h.run(ctx, "present", c)
}

// CleanUp implements acmez.Solver.
func (h dnsHook) CleanUp(ctx context.Context, c acme.Challenge) error {
	return h.run(ctx, "cleanup", c)
}

func (h dnsHook) run(ctx context.Context, what string, c acme.Challenge) error {
	if err := trustworthy(h.path); err != nil {
		return fmt.Errorf("route.acme.dns: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dnsHookTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.path, what, c.DNS01TXTRecordName()+".", c.DNS01KeyAuthorization())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir = &out, &out, "/"
	cmd.WaitDelay = time.Second // what it started may hold its output
	err := cmd.Run()
	if ctx.Err() != nil {
		err = errors.New("it was ended after " + dnsHookTime.String())
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		return fmt.Errorf("route.acme.dns: %s %s: %w: %.300s", h.path, what, err, lines[len(lines)-1])
	}
	return nil
}

// trustworthy refuses a command that others could change: it runs with the edge's rights.
func trustworthy(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s may be written by others than its owner: run `chmod go-w %s`", path, path)
	}
	return nil
}
