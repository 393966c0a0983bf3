// Package event carries what happened from the mechanisms to whoever shows it: the terminal, a JSON stream, the journal.
package event

import "time"

// Level says how loud an event is.
type Level string

// The levels of an event.
const (
	Info  Level = "info"
	Warn  Level = "warn"
	Error Level = "error"
)

// Types of events that a rollout waits with.
const (
	Paused = "paused" // until somebody says how to go on
	Waits  = "waits"  // for the answer of a person
)

// Event is one thing that happened, or how far something is. Field names are part of the command line's --json output.
type Event struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"` // what happened: "preflight", "build", "step", "undo", "instance", "receipt"...
	Level   Level     `json:"level,omitempty"`
	Service string    `json:"service,omitempty"`
	Release int       `json:"release,omitempty"`
	Step    int       `json:"step,omitempty"`  // 1-based; 0 outside a plan
	Steps   int       `json:"steps,omitempty"` // how many there are
	Text    string    `json:"text,omitempty"`
	Done    int64     `json:"done,omitempty"`  // progress: so many of Total
	Total   int64     `json:"total,omitempty"` // 0 where unknown
	Data    any       `json:"data,omitempty"`  // a finding, a receipt, an error: by Type
}

// Sink receives events in order, from one goroutine at a time. It must not block for long.
type Sink func(Event)

// Send stamps e and hands it on; a nil Sink drops it.
func (s Sink) Send(e Event) {
	if s == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Level == "" {
		e.Level = Info
	}
	s(e)
}
