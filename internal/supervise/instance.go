package supervise

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/proc"
)

const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 30 * time.Second
	// stableAfter is the life after which earlier deaths are forgiven.
	stableAfter = 10 * time.Second
	// loopAfter deaths in a row make a crash loop.
	loopAfter = 5
)

// runtimeRecord is what the next supervisor needs to adopt an instance.
type runtimeRecord struct {
	Instance Instance `json:"instance"`
	Program  Program  `json:"program"`
	Groups   []string `json:"groups,omitempty"` // its control groups
}

// instance is one instance's life. The goroutine of run owns it; mu guards what others look at.
type instance struct {
	sup    *Supervisor
	prog   Program
	number int

	mu       sync.Mutex
	pub      Instance
	wantStop bool
	leave    bool
	kick     chan struct{} // something above changed
	groups   []string
	fails    int // deaths in a row
	out      *output
	wasReady bool // since its process started
}

func newInstance(s *Supervisor, p Program, n int) *instance {
	return &instance{sup: s, prog: p, number: n, kick: make(chan struct{}, 1),
		pub: Instance{Service: p.Service, Environment: p.Environment, Release: p.Release, Number: n, State: Starting}}
}

func (in *instance) key() string {
	return instanceKey(GroupKey(in.prog.Service, in.prog.Environment, in.prog.Release), in.number)
}

func (in *instance) recordFile() string {
	return filepath.Join(in.sup.instanceDir(), in.key()+".json")
}

func (in *instance) snapshot() Instance {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.pub
}

// update changes what others see and tells the watchers.
func (in *instance) update(f func(*Instance)) {
	in.mu.Lock()
	f(&in.pub)
	in.mu.Unlock()
	in.sup.notify()
}

func (in *instance) stop()    { in.ask(func() { in.wantStop = true }) }
func (in *instance) abandon() { in.ask(func() { in.leave = true }) }

// keep takes a stop back if the process was not signalled yet.
func (in *instance) keep() {
	in.ask(func() {
		if in.pub.State != Stopping {
			in.wantStop = false
		}
	})
}

func (in *instance) ask(f func()) {
	in.mu.Lock()
	f()
	in.mu.Unlock()
	select {
	case in.kick <- struct{}{}:
	default:
	}
}

func (in *instance) asked() (stop, leave bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.wantStop, in.leave
}

// run lives until the instance is stopped or abandoned. child is an adopted process or nil.
func (in *instance) run(child *child) {
	if err := in.openOutput(); err != nil {
		// Without a log nobody could tell why the service fails; it still has to run.
		in.sup.opt.Log.Error("cannot take the output", "instance", in.key(), "error", err)
	}
	defer in.closeOutput()
	for {
		if stop, leave := in.asked(); child == nil && (stop || leave) {
			in.finish(leave)
			return
		}
		if child == nil {
			var err error
			if child, err = in.start(); err != nil {
				in.died(Exit{At: time.Now(), Code: -1, Reason: "could not be started: " + err.Error()})
				in.note("error", "could not be started: "+err.Error())
				in.backoff()
				continue
			}
		}
		exit, left := in.watch(child)
		if left {
			return // it runs on; the record on disk is its passport
		}
		child = nil
		in.sweep()
		stop, _ := in.asked()
		level := "error"
		if stop {
			level = "info"
		}
		in.note(level, exit.Reason) // before others see the end: they show the log with it
		in.died(exit)
		if !stop {
			in.backoff()
		}
	}
}

// finish removes the traces of a stopped instance.
func (in *instance) finish(leave bool) {
	if leave {
		return
	}
	in.sup.confine.remove(in.groups)
	os.Remove(in.recordFile())
	in.removeFifos()
	in.update(func(i *Instance) { i.State, i.Process = Stopped, proc.ID{} })
}

// died counts one end of the process.
func (in *instance) died(e Exit) {
	in.update(func(i *Instance) {
		if !i.Started.IsZero() && e.At.Sub(i.Started) >= stableAfter {
			in.fails = 0
		}
		in.fails++
		if in.wasReady {
			i.Lost++
		} else {
			i.Exits++
		}
		i.Process, i.Last = proc.ID{}, &e
		i.State = Backoff
		if in.fails >= loopAfter {
			i.State = CrashLoop
		}
	})
}

// backoff waits before the next start: nothing the first time, then twice as long each time. Being asked to stop or to
// leave ends the wait.
func (in *instance) backoff() {
	in.mu.Lock()
	fails := in.fails
	in.pub.Restarts++
	in.mu.Unlock()
	if fails <= 1 {
		return
	}
	t := time.NewTimer(min(firstBackoff<<min(fails-2, 20), maxBackoff))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return
		case <-in.kick:
			if stop, leave := in.asked(); stop || leave {
				return
			}
		}
	}
}

// watch looks after a running child until it ends (its exit) or the supervisor leaves it alone (left).
func (in *instance) watch(c *child) (exit Exit, left bool) {
	ended := make(chan Exit, 1)
	go func() { ended <- c.wait() }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	probes := in.startProbes(ctx)
	late := time.NewTimer(in.prog.StartupTimeout.D())
	defer late.Stop()
	for {
		select {
		case <-late.C:
			if i := in.snapshot(); i.State == Starting {
				e := Exit{Late: true, Code: -1, Hint: in.wrongPort(i),
					Reason: fmt.Sprintf("was not ready within %s: %s", in.prog.StartupTimeout, i.Probe)}
				c.kill()
				e.At = (<-ended).At
				return e, false
			}
		case exit = <-ended:
			exit.OOM = in.sup.confine.oomKilled(in.groups)
			if exit.OOM {
				exit.Reason = fmt.Sprintf("was ended by the kernel: it used more than its memory limit of %s", in.prog.Limits.Memory)
			}
			if exit.Code == 0 && !in.wasReady {
				exit.Hint = "a service keeps running: does the program need a command or a flag in run.args?"
			}
			return exit, false
		case r := <-probes:
			in.probed(c, r)
		case <-in.kick:
			stop, leave := in.asked()
			if leave {
				return Exit{}, true
			}
			if stop {
				cancel()
				return in.end(c, ended), false
			}
		}
	}
}

// end signals the child, waits, and kills what does not listen.
func (in *instance) end(c *child, ended <-chan Exit) Exit {
	in.update(func(i *Instance) { i.State = Stopping })
	sig, err := ParseSignal(in.prog.Stop.Signal)
	if err == nil {
		err = c.signal(sig)
	}
	if err != nil {
		in.note("warn", "signal "+in.prog.Stop.Signal+": "+err.Error())
	}
	t := time.NewTimer(in.prog.Stop.Timeout.D())
	defer t.Stop()
	select {
	case e := <-ended:
		return e
	case <-t.C:
	}
	in.note("warn", fmt.Sprintf("did not end within %s of %s; killed", in.prog.Stop.Timeout, in.prog.Stop.Signal))
	c.kill()
	e := <-ended
	e.Reason = fmt.Sprintf("ignored %s for %s and was killed", in.prog.Stop.Signal, in.prog.Stop.Timeout)
	return e
}

// sweep ends what the process left behind in its group.
func (in *instance) sweep() {
	if pid := in.snapshot().Process.PID; pid != 0 {
		killGroup(pid)
	}
	in.sup.confine.killAll(in.groups)
}

// adopt takes over the process of an earlier supervisor, nil where there is none.
func (in *instance) adopt() *child {
	var r runtimeRecord
	if home.ReadJSON(in.recordFile(), &r) != nil {
		return nil
	}
	in.groups = r.Groups
	in.mu.Lock()
	in.pub.Port, in.pub.Restarts, in.pub.Lost = r.Instance.Port, r.Instance.Restarts, r.Instance.Lost
	in.mu.Unlock()
	c, err := adoptChild(r.Instance.Process)
	if err != nil {
		return nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.pub = r.Instance
	if in.pub.State != Ready {
		in.pub.State = Starting
	}
	in.wasReady = r.Instance.State == Ready
	return c
}

func (in *instance) save(i Instance) {
	if err := home.WriteJSON(in.recordFile(), runtimeRecord{Instance: i, Program: in.prog, Groups: in.groups}, 0o600); err != nil {
		in.sup.opt.Log.Error("cannot write the instance's record", "instance", in.key(), "error", err)
	}
}
