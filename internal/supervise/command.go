package supervise

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Command prepares a command that belongs to a release: it runs as the service's user, in its folder and with its environment,
// secrets included. The first word names one of the artifact's programs, or is looked up on PATH; the {{.Names}} of run.args are
// filled in, with the number and the port of an instance that it is about (0 for none). hide is what must not be shown of
// what it prints.
func Command(ctx context.Context, p Program, number, port int, argv []string) (cmd *exec.Cmd, hide []string, err error) {
	in := newInstance(nil, p, number)
	env, err := in.environment(port)
	if err != nil {
		return nil, nil, err
	}
	args := make([]string, len(argv))
	for i, a := range argv {
		args[i] = in.expand(a, port)
	}
	if own := filepath.Join(filepath.Dir(p.Path), args[0]); !strings.Contains(args[0], "/") && executable(own) {
		args[0] = own
	}
	secrets, err := in.secrets()
	if err != nil {
		return nil, nil, err
	}
	for _, v := range secrets {
		if v != "" {
			hide = append(hide, v)
		}
	}
	uid, gid, err := in.user()
	if err != nil {
		return nil, nil, err
	}
	cmd = exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = p.Dir, env
	cmd.WaitDelay = 100 * time.Millisecond
	asUser(cmd, uid, gid)
	cmd.Cancel = func() error {
		killGroup(cmd.Process.Pid)
		return nil
	}
	return cmd, hide, nil
}

func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

// Ask runs such a command for an instance. The error is how it ended, with the last line that it printed.
func Ask(ctx context.Context, p Program, number, port int, argv []string) error {
	cmd, hide, err := Command(ctx, p, number, port, argv)
	if err != nil {
		return err
	}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	text := string(out)
	for _, v := range hide {
		text = strings.ReplaceAll(text, v, "[secret]")
	}
	return &commandError{argv[0], lastLine(text), err}
}

type commandError struct {
	name, said string
	err        error
}

func (e *commandError) Error() string {
	return strings.TrimSpace(e.name + ": " + e.err.Error() + " " + e.said)
}
func (e *commandError) Unwrap() error { return e.err }
