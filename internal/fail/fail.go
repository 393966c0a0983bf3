// Package fail defines the errors a person reads: what was being done, why it failed, and what to type next.
//
// Every room returns ordinary errors or a [*Error]; only internal/cli turns one into text, JSON and an exit code.
// It imports nothing from this module.
package fail

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Kind says who has to act, and so decides the exit code. Values cross the wire by name.
type Kind string

// The kinds of failure. An error without a Kind is [Internal].
const (
	Internal    Kind = "internal"    // a bug of ours, or a machine that broke its own rules
	Usage       Kind = "usage"       // the flags or fairlead.yaml
	Preflight   Kind = "preflight"   // the machine or the source is not fit, or a policy refused
	Build       Kind = "build"       // the program does not compile, or the result is not what was asked for
	Unhealthy   Kind = "unhealthy"   // the new release did not become or stay ready; nothing was switched
	RolledBack  Kind = "rolled-back" // traffic had moved or capacity had changed, and it was put back
	Stuck       Kind = "stuck"       // the rollout failed and so did going back: a person must look
	Paused      Kind = "paused"      // the rollout waits for a person
	Busy        Kind = "busy"        // somebody else holds the lease
	NotFound    Kind = "not-found"   // no such service, release or instance
	Unavailable Kind = "unavailable" // a daemon does not answer; the same call may succeed later
	Interrupted Kind = "interrupted" // the user asked to stop
)

// Exit codes of the command line, as its help lists them.
const (
	ExitDone        = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitRolledBack  = 3
	ExitPaused      = 4
	ExitRefused     = 5
	ExitInterrupted = 130
)

// Error is the one error type the command line lays out in parts.
type Error struct {
	Kind  Kind     // who has to act
	Op    string   // what was being done, in the user's words: "build ./cmd/shop"
	Place string   // file:line:column, where there is one
	Hint  string   // one command or one fact to act on
	Lines []string // the last lines of a log or of a compiler, oldest first
	Err   error    // the cause
}

// Error gives "place: op: cause" on one line, without hint and log lines.
func (e *Error) Error() string {
	s := ""
	if e.Place != "" {
		s = e.Place + ": "
	}
	switch {
	case e.Err == nil:
		return s + e.Op
	case e.Op == "":
		return s + e.Err.Error()
	}
	return s + e.Op + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an Error of kind for op from a format and its arguments. A %w is kept as the cause's cause.
func New(kind Kind, op, format string, args ...any) *Error {
	return &Error{Kind: kind, Op: op, Err: fmt.Errorf(format, args...)}
}

// Hinted sets the hint and returns e, so that it can stand behind New in one expression.
func (e *Error) Hinted(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// WithLines sets the log lines and returns e.
func (e *Error) WithLines(lines []string) *Error {
	e.Lines = lines
	return e
}

// KindOf reports the kind nearest the surface of err's chain, [Internal] where there is none, "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Kind != "" {
		return e.Kind
	}
	return Internal
}

// ExitCode maps err to the process's exit code.
func ExitCode(err error) int {
	switch KindOf(err) {
	case "":
		return ExitDone
	case Usage:
		return ExitUsage
	case RolledBack:
		return ExitRolledBack
	case Paused:
		return ExitPaused
	case Preflight:
		return ExitRefused
	case Interrupted:
		return ExitInterrupted
	}
	return ExitFailed
}

type wire struct {
	Kind    Kind     `json:"kind"`
	Op      string   `json:"op,omitempty"`
	Place   string   `json:"place,omitempty"`
	Message string   `json:"message"`
	Hint    string   `json:"hint,omitempty"`
	Lines   []string `json:"lines,omitempty"`
}

// MarshalJSON writes the parts of e, the cause as text.
func (e *Error) MarshalJSON() ([]byte, error) {
	w := wire{Kind: e.Kind, Op: e.Op, Place: e.Place, Hint: e.Hint, Lines: e.Lines}
	if e.Err != nil {
		w.Message = e.Err.Error()
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON wrote; the cause comes back as plain text.
func (e *Error) UnmarshalJSON(b []byte) error {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*e = Error{Kind: w.Kind, Op: w.Op, Place: w.Place, Hint: w.Hint, Lines: w.Lines}
	if w.Message != "" {
		e.Err = errors.New(w.Message)
	}
	return nil
}

// As returns err as an Error: the first one in its chain, or a new one of kind [Internal] around it; nil for nil.
// The outer text is kept: wrapping words around a *Error do not get lost.
func As(err error) *Error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return &Error{Kind: Internal, Err: err}
	}
	if outermost, ok := err.(*Error); ok { //nolint:errorlint // the outermost one, not one in the chain
		return outermost
	}
	outer := *e
	outer.Op, outer.Place, outer.Err = "", "", err
	return &outer
}
