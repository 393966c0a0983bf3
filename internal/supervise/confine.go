package supervise

import (
	"errors"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

// confiner puts instances under the kernel's limits on memory, processor time and processes.
type confiner interface {
	// make creates fresh control groups for the limits that are set and returns them, and a sentence for each limit that
	// this machine cannot put in force.
	make(name string, l spec.Limits) (groups, missing []string)
	// unified returns a group of version 2 that the process shall be in, one of groups or a fresh one.
	unified(groups []string) (string, error)
	// oomKilled reports whether the kernel ended something in the groups for its memory limit.
	oomKilled(groups []string) bool
	// killAll ends whatever still runs in the groups.
	killAll(groups []string)
	// remove deletes empty groups.
	remove(groups []string)
}

// without is the confiner of a machine that has no control groups for us.
type without struct{ why string }

func (w without) make(_ string, l spec.Limits) ([]string, []string) {
	var missing []string
	if l.Memory > 0 {
		missing = append(missing, "memory: "+w.why)
	}
	if l.CPU > 0 {
		missing = append(missing, "cpu: "+w.why)
	}
	if l.Pids > 0 {
		missing = append(missing, "pids: "+w.why)
	}
	return nil, missing
}

func (w without) unified([]string) (string, error) { return "", errors.New(w.why) }

func (without) oomKilled([]string) bool { return false }
func (without) killAll([]string)        {}
func (without) remove([]string)         {}
