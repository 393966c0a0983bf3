package fail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"
)

func TestExitCodes(t *testing.T) {
	want := map[Kind]int{Internal: 1, Build: 1, Unhealthy: 1, Stuck: 1, Busy: 1, NotFound: 1, Unavailable: 1,
		Usage: 2, RolledBack: 3, Paused: 4, Preflight: 5, Interrupted: 130, "unheard of": 1}
	for kind, code := range want {
		err := fmt.Errorf("outside: %w", New(kind, "op", "x"))
		if got := ExitCode(err); got != code || KindOf(err) != kind {
			t.Errorf("%s: %d (%s), want %d", kind, got, KindOf(err), code)
		}
	}
	if ExitCode(nil) != 0 || KindOf(nil) != "" || ExitCode(io.EOF) != 1 || KindOf(io.EOF) != Internal || KindOf(&Error{}) != Internal {
		t.Error("nil, plain errors and errors without a kind")
	}
}

func TestText(t *testing.T) {
	cause := errors.New("refused")
	for _, c := range []struct {
		err  *Error
		want string
	}{
		{&Error{Op: "build"}, "build"},
		{&Error{Err: cause}, "refused"},
		{&Error{Op: "build", Err: cause}, "build: refused"},
		{&Error{Place: "f:1:2", Op: "build", Err: cause, Hint: "hint", Lines: []string{"line"}}, "f:1:2: build: refused"},
		{&Error{}, ""},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if err := New(Usage, "op", "a: %w", io.EOF).Hinted("do %d", 7).WithLines([]string{"x"}); !errors.Is(err, io.EOF) || err.Hint != "do 7" || err.Lines[0] != "x" {
		t.Errorf("%+v", err)
	}
}

func TestAs(t *testing.T) {
	inner := New(Busy, "begin", "held").Hinted("wait")
	inner.Place = "f:1:1"
	inner.Lines = []string{"last words"}
	if As(nil) != nil || As(inner) != inner {
		t.Error("nil and an Error are what they are")
	}
	if e := As(io.EOF); e.Kind != Internal || e.Error() != "EOF" {
		t.Errorf("%+v", e)
	}
	e := As(fmt.Errorf("deploy shop: %w", inner))
	if e.Error() != "deploy shop: f:1:1: begin: held" || e.Kind != Busy || e.Hint != "wait" || e.Lines[0] != "last words" {
		t.Errorf("%+v: %v", e, e)
	}
	outer := &Error{Kind: Stuck, Op: "undo", Err: inner}
	if As(outer) != outer || KindOf(outer) != Stuck {
		t.Error("the outermost Error counts")
	}
	both := errors.Join(io.EOF, inner)
	if e := As(both); e.Kind != Busy || e.Error() != both.Error() {
		t.Errorf("%v", e)
	}
}

func TestOverTheWire(t *testing.T) {
	for _, e := range []*Error{
		{Kind: Usage, Op: "op", Place: "f:1:2", Hint: "h", Lines: []string{"a", "b"}, Err: errors.New("cause <&>")},
		{Kind: Internal},
	} {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var got Error
		if err := json.Unmarshal(b, &got); err != nil || got.Error() != e.Error() {
			t.Errorf("%s: %+v %v", b, got, err)
		}
		got.Err, e.Err = nil, nil
		if !reflect.DeepEqual(got, *e) {
			t.Errorf("got %+v, want %+v", got, *e)
		}
	}
	if err := new(Error).UnmarshalJSON([]byte(`{"kind":1}`)); err == nil {
		t.Error("a kind that is a number is taken")
	}
}
