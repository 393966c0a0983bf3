// Package proc reads what the operating system says of processes: who they are, whether they live, what they use and hold.
package proc

// ID names a process so that a later one with the same number is not taken for it.
type ID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // when it started, in the system's own clock: ticks since boot or nanoseconds
	Boot  string `json:"boot,omitempty"`
}

// Usage is what a process takes now.
type Usage struct {
	Memory  int64   // resident bytes
	CPU     float64 // seconds of processor time since its start
	Files   int     // open files; -1 where the system does not say
	Threads int
}

// Identify returns the ID of a living process; an error where there is none (a zombie counts as gone).
func Identify(pid int) (ID, error) { return identify(pid) }

// Alive reports whether the very process id names still runs.
func (id ID) Alive() bool {
	now, err := identify(id.PID)
	return err == nil && now == id
}
