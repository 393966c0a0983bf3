package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
	"github.com/fairlead-dev/fairlead/internal/logs"
	"github.com/fairlead-dev/fairlead/internal/proc"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// A hook runs in a process of its own, because the agent may die meanwhile and a migration must neither be cut off nor run
// again by that: the process writes down how it ended, and whoever asks next reads it.

// HookRole is the daemon that runs one hook and ends.
const HookRole = "hook"

const hooksFile = "hooks.json"

// hookRecord is how far a hook is. The file is made by the process that runs it, which nobody can do twice.
type hookRecord struct {
	Process proc.ID   `json:"process"` // that runs the hook
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Error   string    `json:"error,omitempty"` // "" when it went well
	Lines   []string  `json:"lines,omitempty"` // the last ones
}

func (t *Target) hookFile(id release.ID, name string) string {
	return filepath.Join(t.m.dirs.Release(t.service, t.env, int(id)), "hook-"+name+".json")
}

// hookStart is how long the process may take until it has written its record.
const hookStart = 10 * time.Second

// Hook implements [rollout.Target].
func (t *Target) Hook(ctx context.Context, id release.ID, name string) error {
	file := t.hookFile(id, name)
	var r hookRecord
	err := home.ReadJSON(file, &r)
	if errors.Is(err, os.ErrNotExist) {
		if err := keeper.Spawn(t.m.dirs, HookRole, file); err != nil {
			return err
		}
		within, cancel := context.WithTimeout(ctx, hookStart)
		defer cancel()
		err = wait.Until(within, 20*time.Millisecond, func() bool { return home.ReadJSON(file, &r) == nil })
	}
	if err != nil {
		return fmt.Errorf("hooks.%s of release %d was not started: %w", name, id, err)
	}
	for r.Ended.IsZero() {
		if !r.Process.Alive() {
			if home.ReadJSON(file, &r) == nil && !r.Ended.IsZero() {
				break
			}
			return fail.New(fail.Unhealthy, "", "hooks.%s of release %d was cut off %s after it began, and is not run again by itself", name, id, time.Since(r.Started).Round(time.Second)).
				Hinted("look at what it left behind; `fairlead up` makes a new release, whose hook runs anew")
		}
		if err := wait.For(ctx, 50*time.Millisecond); err != nil {
			cause := context.Cause(ctx)
			endHook(ctx, file)
			return cause
		}
		if err := home.ReadJSON(file, &r); err != nil {
			return err
		}
	}
	if r.Error == "" {
		return nil
	}
	return fail.New(fail.Unhealthy, "", "hooks.%s of release %d failed after %s: %s", name, id, r.Ended.Sub(r.Started).Round(time.Millisecond), r.Error).WithLines(r.Lines).
		Hinted("run `fairlead logs %s --release %d%s`", t.service, id, spec.EnvFlag(t.env))
}

// endHook ends a hook that nobody waits for any more, in order; one that ended, or never ran, is left alone.
func endHook(ctx context.Context, file string) {
	var r hookRecord
	if home.ReadJSON(file, &r) != nil || !r.Ended.IsZero() || !r.Process.Alive() {
		return
	}
	p, err := os.FindProcess(r.Process.PID)
	if err != nil || p.Signal(os.Interrupt) != nil {
		return
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), hookStart)
	defer cancel()
	wait.Until(within, 20*time.Millisecond, func() bool { return home.ReadJSON(file, &r) == nil && !r.Ended.IsZero() }) // its record says how it went
}

// RunHook is the life of the process that runs the hook whose record is file. A hook that was begun before is not run.
func RunHook(ctx context.Context, d home.Dirs, file string) error {
	dir := filepath.Dir(file)
	name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "hook-"), ".json")
	var p supervise.Program
	var hooks spec.Hooks
	if err := errors.Join(home.ReadJSON(filepath.Join(dir, programFile), &p), home.ReadJSON(filepath.Join(dir, hooksFile), &hooks)); err != nil {
		return err
	}
	argv := hooks.Before
	if name == rollout.HookAfter {
		argv = hooks.After
	}
	if len(argv) == 0 {
		return fail.New(fail.Usage, "", "release %d has no hooks.%s", p.Release, name)
	}
	self, err := proc.Identify(os.Getpid())
	if err != nil {
		return err
	}
	r := hookRecord{Process: self, Started: time.Now()}
	claim := file + ".claim" // whoever makes it is the one; the record is written whole beside it
	f, err := os.OpenFile(claim, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if err := home.WriteJSON(file, r, 0o600); err != nil {
		return err
	}
	within, cancel := context.WithTimeoutCause(ctx, hooks.Timeout.D(), fmt.Errorf("it took longer than %s (release.hooks.timeout)", hooks.Timeout))
	defer cancel()
	err = r.run(within, d.Logs(), p, append([]string{name}, argv...))
	r.Ended = time.Now()
	if err != nil {
		r.Error = err.Error()
	}
	return home.WriteJSON(file, r, 0o600)
}

// maxHookLines are kept for the error.
const maxHookLines = 20

// run runs what stands behind the hook's name, and notes its last lines when it fails.
func (r *hookRecord) run(ctx context.Context, root string, p supervise.Program, words []string) error {
	cmd, hide, err := supervise.Command(ctx, p, 0, 0, words[1:])
	if err != nil {
		return err
	}
	w, err := logs.NewWriter(root, logs.Meta{Service: p.Service, Env: p.Environment, Release: p.Release, Size: int64(p.Logs.Size), Age: p.Logs.Age.D(), Hide: hide})
	if err != nil {
		return err
	}
	defer w.Close()
	w.Note("info", "hooks."+words[0]+": "+strings.Join(words[1:], " "))
	var tail tailer
	cmd.Stdout, cmd.Stderr = hookOutput{w, "stdout", &tail}, hookOutput{w, "stderr", &tail}
	err = cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("it was ended: %w", context.Cause(ctx))
	}
	text := "ended well"
	if err != nil {
		text = err.Error()
		r.Lines = tail.lines(hide)
	}
	w.Note("info", "hooks."+words[0]+": "+text)
	return err
}

// hookOutput is one of its streams.
type hookOutput struct {
	w      *logs.Writer
	stream string
	tail   *tailer
}

func (o hookOutput) Write(p []byte) (int, error) {
	o.w.Write(o.stream, p)
	return o.tail.Write(p)
}

// tailer keeps the end of what is written.
type tailer struct {
	mu sync.Mutex
	b  []byte
}

func (t *tailer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - 16<<10; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tailer) lines(hide []string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := string(bytes.TrimSpace(t.b))
	for _, v := range hide {
		text = strings.ReplaceAll(text, v, "[secret]")
	}
	if text == "" {
		return nil
	}
	all := strings.Split(text, "\n")
	return all[max(0, len(all)-maxHookLines):]
}
