// Package preflight finds out, before anything changes, what would make a deploy fail: the Go toolchain, the module, the
// machine, the port, the agent, and what fairlead.yaml asks for that this version cannot do.
//
// Every check measures first and judges second: what was measured stands in a small value, and the judging functions are
// pure. A check that cannot measure says nothing or says so; it never fails the run.
package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Severity says what a finding means for the deploy.
type Severity string

// The severities of a finding.
const (
	OK      Severity = "ok"      // looked at, and as it should be
	Info    Severity = "info"    // good to know
	Warning Severity = "warning" // the deploy works, but less well than the user may think
	Error   Severity = "error"   // the deploy would fail, and is refused
)

// The IDs of the findings. An ID is stable: scripts that read the command line's JSON select by it.
const (
	IDUnsupported = "spec-unsupported"
	IDToolchain   = "go-toolchain"
	IDModule      = "go-module"
	IDSum         = "go-sum"
	IDReplace     = "mod-replace"
	IDDirty       = "vcs-dirty"
	IDVulns       = "vulns"
	IDMemory      = "memory"
	IDCPU         = "cpu"
	IDFiles       = "files"
	IDDisk        = "disk"
	IDTemp        = "temp"
	IDState       = "state"
	IDClock       = "clock"
	IDLimits      = "limits"
	IDPort        = "port"
	IDAgent       = "agent"
)

// Finding is one thing that was looked at: what is there, what is needed, and what to type.
type Finding struct {
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	Found    string   `json:"found"`
	Need     string   `json:"need,omitempty"`
	Fix      string   `json:"fix,omitempty"`
	Fixable  bool     `json:"fixable,omitempty"` // [Fix] can do it
}

// Agent is how the checks reach the machine's agent. A nil function leaves its part out.
type Agent struct {
	// Version asks which version runs. Not running is not an error.
	Version func(context.Context) (version string, running bool, err error)
	// Ensure starts the agent, or brings a running one to our version.
	Ensure func(context.Context) error
}

// Params is what the checks look at.
type Params struct {
	Dir     string         // the service's folder
	Spec    *spec.Spec     // complete, as spec.Load returns it
	Dirs    home.Dirs      // where this machine's state lies
	Listen  string         // the address the edge will take; "" when none is known yet
	UDP     bool           // it takes datagrams there, and no connections
	Ours    func(int) bool // reports whether a process is an edge of ours; nil when none runs
	Agent   Agent
	Version string // of this program; "" leaves the comparison with the agent's out
	Go      string // the go command, a path or a name on our own PATH; "" means go
	// Mains lists the main packages, for the scan for vulnerabilities; nil means every package.
	Mains func(context.Context) ([]string, error)
	Vulns bool // scan for known vulnerabilities also where build.vulns.refuse does not ask for it
	// VerifyEvery is how long a successful `go mod verify` of the same go.sum counts, and whether an earlier
	// scan for vulnerabilities does; 0 makes both anew.
	VerifyEvery time.Duration
	Elsewhere   bool     // the service runs on other machines: only its source and what builds it are looked at
	Environ     []string // the environment of the go command; nil means our own. build.env is added to it
}

// run is one run of the checks: the parameters and what several checks share.
type run struct {
	Params
	goEnv   func() (goEnv, error)
	started time.Time
}

// A check measures one theme and judges it.
type check func(context.Context, *run) []Finding

// The checks, in the order in which a person wants to read their findings.
var checks = []check{checkSupport, checkGo, checkVulns, checkVCS, checkMachine, checkFolders, checkPort, checkAgent}

// ofSource are those that are about this machine only as the one that builds.
var ofSource = []check{checkSupport, checkGo, checkVulns, checkVCS}

// Run makes all checks, several at a time, and returns every finding in a fixed order. Each finding is sent to sink as
// soon as those before it are known. It fails only when ctx is done or p lacks what every check needs.
func Run(ctx context.Context, p Params, sink event.Sink) ([]Finding, error) {
	r, err := newRun(ctx, p)
	if err != nil {
		return nil, err
	}
	checks := checks
	if p.Elsewhere {
		checks = ofSource
	}
	results := make([]chan []Finding, len(checks))
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, c := range checks {
		results[i] = make(chan []Finding, 1)
		wg.Go(func() { results[i] <- c(ctx, r) })
	}
	var all []Finding
	report := func(fs []Finding) {
		for _, f := range fs {
			all = append(all, f)
			sink.Send(event.Event{Type: "preflight", Level: f.level(), Service: p.Spec.Service, Text: f.text(), Data: f})
		}
	}
	for _, c := range results {
		found := <-c
		if err := ctx.Err(); err != nil {
			return nil, err // what a cancelled check found means nothing
		}
		report(found)
	}
	report([]Finding{judgeClock(readClock(r.started))}) // last, so that a jump during the other checks is seen
	return all, nil
}

func newRun(ctx context.Context, p Params) (*run, error) {
	if p.Spec == nil || p.Dir == "" {
		return nil, errors.New("preflight: Params needs Dir and Spec")
	}
	if p.Go == "" {
		p.Go = "go"
	}
	if p.Environ == nil {
		p.Environ = os.Environ()
	}
	r := &run{Params: p, started: time.Now()}
	r.goEnv = sync.OnceValues(func() (goEnv, error) { return readGoEnv(ctx, r) })
	return r, nil
}

// environ is what the go command of the build sees.
func (r *run) environ(more ...string) []string {
	env := slices.Clone(r.Environ)
	for k, v := range r.Spec.Build.Env {
		env = append(env, k+"="+v)
	}
	return append(env, more...)
}

// getenv looks a variable up in the caller's environment.
func (r *run) getenv(name string) string {
	for _, kv := range slices.Backward(r.Environ) {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v
		}
	}
	return ""
}

// command runs a program to its end. When ctx is done it does not wait for what the program started itself.
func command(ctx context.Context, dir string, env []string, argv ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, env, time.Second
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

// level maps a severity to how loud its event is.
func (f Finding) level() event.Level {
	switch f.Severity {
	case Error:
		return event.Error
	case Warning:
		return event.Warn
	}
	return event.Info
}

// text puts the finding on one line.
func (f Finding) text() string {
	s := f.ID + ": " + f.Found
	if f.Need != "" {
		s += "; needs " + f.Need
	}
	return s
}

// Refuses returns an error of kind [fail.Preflight] that names the findings of severity error, with what to type for the
// first of them as its hint; nil when there is none.
func Refuses(findings []Finding) error {
	var bad []Finding
	for _, f := range findings {
		if f.Severity == Error {
			bad = append(bad, f)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	const most = 3
	var texts []string
	for _, f := range bad[:min(len(bad), most)] {
		texts = append(texts, f.text())
	}
	if n := len(bad) - most; n > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", n))
	}
	e := fail.New(fail.Preflight, "preflight", "%s", strings.Join(texts, "; "))
	e.Hint = bad[0].Fix
	return e
}

// fixes are safe to make unasked: none changes a file of the user's source or ends a process.
var fixes = map[string]func(context.Context, *run) error{
	IDSum:   downloadModules,
	IDFiles: func(context.Context, *run) error { return raiseFiles() },
	IDState: func(_ context.Context, r *run) error { return r.Dirs.Make() },
	IDAgent: func(ctx context.Context, r *run) error { return r.Agent.Ensure(ctx) },
}

// Fix does what the fixable findings ask for and returns those that it settled. It goes on after a failure; the failures
// come back joined.
func Fix(ctx context.Context, p Params, findings []Finding) ([]Finding, error) {
	r, err := newRun(ctx, p)
	if err != nil {
		return nil, err
	}
	var done []Finding
	var errs []error
	for _, f := range findings {
		do := fixes[f.ID]
		if !f.Fixable || do == nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return done, err
		}
		if err := do(ctx, r); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.ID, err))
			continue
		}
		done = append(done, f)
	}
	return done, errors.Join(errs...)
}

// size writes an amount as a person compares it: 1.9 GiB, 143 MiB.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
