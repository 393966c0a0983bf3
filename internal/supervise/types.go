// Package supervise keeps instances running: it starts them confined, asks how they are, starts them again with back-off,
// ends them in order, takes what they print, and adopts them after its own death.
package supervise

import (
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/internal/proc"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Program is what the instances of one release run. It never changes for a release.
type Program struct {
	Service        string            `json:"service"`
	Environment    string            `json:"environment"`
	Release        int               `json:"release"`
	Path           string            `json:"path"` // the binary, absolute
	Args           []string          `json:"args,omitempty"`
	Env            map[string]string `json:"env,omitempty"`
	SecretsFile    string            `json:"secrets_file,omitempty"` // JSON object of variables, mode 0600
	Port           int               `json:"port,omitempty"`         // that stands in its code; 0 for none
	Dir            string            `json:"dir"`                    // the service's own folder: working folder, HOME, {{.Data}}
	Limits         spec.Limits       `json:"limits"`
	Probes         spec.Probes       `json:"probes"`
	StartupTimeout spec.Duration     `json:"startup_timeout"`
	Stop           spec.Stop         `json:"stop"`
	Logs           spec.Logs         `json:"logs"`
}

// Group is a release's instances as they are wanted: numbers 1 to Want.
type Group struct {
	Program Program `json:"program"`
	Want    int     `json:"want"`
}

// Key names the group.
func (g Group) Key() string {
	return GroupKey(g.Program.Service, g.Program.Environment, g.Program.Release)
}

// GroupKey names the group of one release.
func GroupKey(service, env string, release int) string {
	return fmt.Sprintf("%s@%s.%d", service, env, release)
}

// State is where an instance is in its life.
type State string

// The states of an instance.
const (
	Starting  State = "starting"   // runs, not ready yet
	Ready     State = "ready"      // gets traffic
	Unready   State = "unready"    // was ready; its probe fails now
	Backoff   State = "backoff"    // ended; waits to be started again
	CrashLoop State = "crash-loop" // ended again and again; still tried, rarely
	Stopping  State = "stopping"
	Stopped   State = "stopped"
)

// Instance is what the supervisor knows of one instance.
type Instance struct {
	Service     string      `json:"service"`
	Environment string      `json:"environment"`
	Release     int         `json:"release"`
	Number      int         `json:"number"` // 1, 2, ...
	State       State       `json:"state"`
	Process     proc.ID     `json:"process"`
	Port        int         `json:"port"`
	Started     time.Time   `json:"started,omitzero"`
	ReadyAt     time.Time   `json:"ready_at,omitzero"`
	Restarts    int         `json:"restarts"`        // since the instance was made
	Exits       int         `json:"exits"`           // ends before it was ever ready
	Lost        int         `json:"lost"`            // ends after it had been ready
	Last        *Exit       `json:"last,omitempty"`  // how it ended the last time
	Probe       string      `json:"probe,omitempty"` // why the last probe failed
	Missing     []string    `json:"missing,omitempty"`
	Usage       *proc.Usage `json:"usage,omitempty"`
}

// Addr is where the instance takes connections.
func (i Instance) Addr() string { return fmt.Sprintf("127.0.0.1:%d", i.Port) }

// Exit tells how a process ended.
type Exit struct {
	At     time.Time `json:"at"`
	Code   int       `json:"code"` // -1 when it was killed by a signal or is not known
	Signal string    `json:"signal,omitempty"`
	OOM    bool      `json:"oom,omitempty"`  // the kernel ended it for its memory limit
	Late   bool      `json:"late,omitempty"` // it was killed because it did not become ready in time
	Reason string    `json:"reason"`         // one sentence without a subject: "ended with code 1"
	Hint   string    `json:"hint,omitempty"` // what to do about it, where that is known
}

// Snapshot is everything at one revision.
type Snapshot struct {
	Revision  uint64     `json:"revision"`
	Version   string     `json:"version"`
	Instances []Instance `json:"instances"`
}

// Recorder takes what one instance prints. Write is called from one goroutine a stream and must not block for long.
type Recorder interface {
	Write(stream string, p []byte)
	Note(level, text string) // the supervisor's own remark
	Close() error
}
