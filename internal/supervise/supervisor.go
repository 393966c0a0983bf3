package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/proc"
)

// Options are what a Supervisor is made with.
type Options struct {
	Dirs    home.Dirs
	Version string
	Record  func(Instance, Program, []string) (Recorder, error) // opens an instance's log; the strings must not appear in it
	// GivePort has processes of a control group (a folder of version 2) listen at the port given where they ask for another one.
	GivePort func(group string, asked, given int) error
	Log      *slog.Logger
}

// Supervisor owns every instance of a machine. Make it with [New], end it with Close or Shutdown.
type Supervisor struct {
	opt     Options
	confine confiner

	mu      sync.Mutex
	groups  map[string]Group
	running map[string]*instance // by instanceKey; an entry leaves when its goroutine ends
	rev     uint64
	changed chan struct{} // closed and replaced at each revision
	closed  bool
	wg      sync.WaitGroup
}

// New reads what is wanted from disk, adopts what still runs and starts the rest.
func New(opt Options) (*Supervisor, error) {
	// Revisions go on from the clock, so that a watcher of an earlier supervisor never waits for a number of the past.
	s := &Supervisor{opt: opt, confine: newConfiner(), groups: map[string]Group{}, running: map[string]*instance{},
		rev: uint64(time.Now().UnixMilli()), changed: make(chan struct{})}
	files, err := filepath.Glob(filepath.Join(s.groupDir(), "*.json"))
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{s.groupDir(), s.instanceDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		var g Group
		if err := home.ReadJSON(f, &g); err != nil {
			opt.Log.Error("cannot read what is wanted", "file", f, "error", err)
			continue
		}
		s.groups[g.Key()] = g
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endOrphans()
	for _, g := range s.groups {
		s.reconcile(g)
	}
	return s, nil
}

func (s *Supervisor) groupDir() string {
	return filepath.Join(s.opt.Dirs.State, "supervisor", "groups")
}
func (s *Supervisor) instanceDir() string { return filepath.Join(s.opt.Dirs.Run, "instances") }

func instanceKey(group string, n int) string { return fmt.Sprintf("%s.%d", group, n) }

// Set makes g what is wanted and returns when that is on disk; instances follow. It is idempotent. A group with Want 0
// stays known to this supervisor until Forget.
func (s *Supervisor) Set(g Group) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		// Whoever asks does so again: as a rule the next one comes at once.
		return fail.New(fail.Unavailable, "", "the supervisor is leaving").Hinted("run the command again")
	}
	if old, ok := s.groups[g.Key()]; !ok || !reflect.DeepEqual(old, g) {
		if err := s.keepGroup(g); err != nil {
			return err
		}
	}
	s.groups[g.Key()] = g
	s.reconcile(g)
	return nil
}

// keepGroup writes down what is wanted. Nothing being wanted is written by removing the file, which works on a full disk:
// a bad release must be stoppable there, too.
func (s *Supervisor) keepGroup(g Group) error {
	path := filepath.Join(s.groupDir(), g.Key()+".json")
	if g.Want > 0 {
		return home.WriteJSON(path, g, 0o600)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Forget drops a group; its instances are stopped.
func (s *Supervisor) Forget(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.groups[key]
	if !ok {
		return nil
	}
	g.Want = 0
	if err := s.keepGroup(g); err != nil {
		return err
	}
	delete(s.groups, key)
	s.reconcile(g)
	return nil
}

// reconcile starts the missing instances of g and stops those above Want. s.mu is held.
func (s *Supervisor) reconcile(g Group) {
	for n := 1; n <= g.Want; n++ {
		key := instanceKey(g.Key(), n)
		if in, ok := s.running[key]; ok {
			in.keep()
			continue
		}
		s.launch(key, newInstance(s, g.Program, n))
	}
	prefix := g.Key() + "."
	for key, in := range s.running {
		if strings.HasPrefix(key, prefix) && in.number > g.Want {
			in.stop()
		}
	}
	s.bump()
}

// left takes an ended instance out, and starts it anew when it was wanted again while it was stopping. One that is left to the next
// supervisor runs on: whoever still asks this one must not take it for gone.
func (s *Supervisor) left(key string, in *instance) {
	if _, leave := in.asked(); leave {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[key] == in {
		delete(s.running, key)
	}
	if g, ok := s.groups[GroupKey(in.prog.Service, in.prog.Environment, in.prog.Release)]; ok && !s.closed {
		s.reconcile(g)
	}
	s.bump()
}

// endOrphans ends processes of an earlier supervisor that nobody wants any more. s.mu is held.
func (s *Supervisor) endOrphans() {
	files, _ := filepath.Glob(filepath.Join(s.instanceDir(), "*.json"))
	for _, f := range files {
		var r runtimeRecord
		if home.ReadJSON(f, &r) != nil {
			os.Remove(f)
			continue
		}
		key := GroupKey(r.Instance.Service, r.Instance.Environment, r.Instance.Release)
		if g, ok := s.groups[key]; ok && r.Instance.Number <= g.Want {
			continue
		}
		if !r.Instance.Process.Alive() {
			os.Remove(f)
			continue
		}
		in := newInstance(s, r.Program, r.Instance.Number)
		in.stop()
		s.launch(instanceKey(key, in.number), in)
	}
}

// launch begins an instance's life. A process of an earlier supervisor is adopted before this returns, so that nobody
// ever sees a running instance as not there. s.mu is held.
func (s *Supervisor) launch(key string, in *instance) {
	c := in.adopt()
	s.running[key] = in
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		in.run(c)
		s.left(key, in)
	}()
}

func (s *Supervisor) bump() {
	s.rev++
	close(s.changed)
	s.changed = make(chan struct{})
}

// notify is called by instances when their state changed.
func (s *Supervisor) notify() {
	s.mu.Lock()
	s.bump()
	s.mu.Unlock()
}

// Snapshot returns the instances of the machine in a fixed order. With usage set it reads what each one takes now.
func (s *Supervisor) Snapshot(usage bool) Snapshot {
	s.mu.Lock()
	all := make([]*instance, 0, len(s.running))
	for _, in := range s.running {
		all = append(all, in)
	}
	snap := Snapshot{Revision: s.rev, Version: s.opt.Version, Instances: []Instance{}}
	s.mu.Unlock()
	for _, in := range all {
		i := in.snapshot()
		if usage && i.Process.PID != 0 {
			if u, err := proc.Use(i.Process.PID); err == nil {
				i.Usage = &u
			}
		}
		snap.Instances = append(snap.Instances, i)
	}
	sort.Slice(snap.Instances, func(a, b int) bool {
		x, y := snap.Instances[a], snap.Instances[b]
		if x.Service != y.Service {
			return x.Service < y.Service
		}
		if x.Environment != y.Environment {
			return x.Environment < y.Environment
		}
		if x.Release != y.Release {
			return x.Release < y.Release
		}
		return x.Number < y.Number
	})
	return snap
}

// Wait returns the snapshot as soon as its revision is not after, or when ctx is done.
func (s *Supervisor) Wait(ctx context.Context, after uint64) Snapshot {
	s.mu.Lock()
	ch, rev := s.changed, s.rev
	s.mu.Unlock()
	if rev == after {
		select {
		case <-ch:
		case <-ctx.Done():
		}
	}
	return s.Snapshot(false)
}

// Close leaves every instance running and forgets it: the next supervisor adopts it.
func (s *Supervisor) Close() { s.end((*instance).abandon) }

// Shutdown stops every instance in order and waits; what is wanted stays on disk for the next start.
func (s *Supervisor) Shutdown() { s.end((*instance).stop) }

func (s *Supervisor) end(f func(*instance)) {
	s.mu.Lock()
	s.closed = true
	for _, in := range s.running {
		f(in)
	}
	s.mu.Unlock()
	s.wg.Wait()
}
