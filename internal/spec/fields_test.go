package spec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// filler gives every field of a value something of its own, so that two fields cannot be mistaken for each other.
type filler struct{ n int }

func (f *filler) fill(v reflect.Value) {
	f.n++
	switch p := v.Addr().Interface().(type) {
	case *Duration, *Bytes, *CPU:
		v.SetInt(int64(f.n) * 1000)
		return
	case *Percent:
		v.SetInt(int64(f.n) * 10)
		return
	case *Amount:
		*p = Amount{N: f.n, Set: true}
		return
	case *Secret:
		*p = Secret(fmt.Sprintf("env://S%d", f.n))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") != "-" {
				f.fill(v.Field(i))
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		f.fill(v.Index(0))
		f.fill(v.Index(1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for _, key := range []string{"shared", fmt.Sprintf("key%d", f.n)} {
			el := reflect.New(v.Type().Elem()).Elem()
			f.fill(el)
			v.SetMapIndex(reflect.ValueOf(key), el)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", f.n))
	case reflect.Int:
		v.SetInt(int64(f.n))
	case reflect.Bool:
		v.SetBool(true)
	default:
		panic("no filler for " + v.Type().String())
	}
}

// diff shows two values that should be the same, "" when they are.
func diff(want, got any) string {
	if reflect.DeepEqual(want, got) {
		return ""
	}
	w, _ := json.MarshalIndent(want, "", " ")
	g, _ := json.MarshalIndent(got, "", " ")
	return fmt.Sprintf("got %s\nwant %s\n", g, w)
}

// tree is v as the file would hold it: JSON is YAML.
func tree(t *testing.T, v any) *yaml.Node {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	n, err := document("f", b)
	if err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	return n
}

func newDecoder() *decoder { return &decoder{file: "f", places: map[string]*yaml.Node{}} }

func TestEveryFieldIsRead(t *testing.T) {
	var want, got Spec
	new(filler).fill(reflect.ValueOf(&want).Elem())
	if err := newDecoder().decode(tree(t, want), &got); err != nil {
		t.Fatal(err)
	}
	if d := diff(want, got); d != "" {
		t.Error(d)
	}
	var wire Spec
	b, err := json.Marshal(want)
	if err == nil {
		err = json.Unmarshal(b, &wire)
	}
	if d := diff(want, wire); err != nil || d != "" {
		t.Error("over the wire:", err, d)
	}
}

// TestEveryFieldIsOverlaid holds the rule of overlays for every field: maps are merged key by key, everything else that
// the overlay says is replaced, what it does not say stays.
func TestEveryFieldIsOverlaid(t *testing.T) {
	var base Spec
	var over Overlay
	f := &filler{}
	f.fill(reflect.ValueOf(&base).Elem())
	f.fill(reflect.ValueOf(&over).Elem())
	base.Environments = map[string]Overlay{"staging": over, "empty": {}}
	for env, parts := range map[string]Overlay{"staging": over, "empty": {}} {
		root := tree(t, base)
		want, got := Spec{}, Spec{Environment: env}
		for _, s := range []*Spec{&want, &got} {
			if err := newDecoder().decode(root, s); err != nil {
				t.Fatal(err)
			}
		}
		lay(reflect.ValueOf(&want.Build).Elem(), reflect.ValueOf(parts.Build))
		lay(reflect.ValueOf(&want.Run).Elem(), reflect.ValueOf(parts.Run))
		lay(reflect.ValueOf(&want.Route).Elem(), reflect.ValueOf(parts.Route))
		lay(reflect.ValueOf(&want.Release).Elem(), reflect.ValueOf(parts.Release))
		lay(reflect.ValueOf(&want.Alerts).Elem(), reflect.ValueOf(parts.Alerts))
		lay(reflect.ValueOf(&want.Target).Elem(), reflect.ValueOf(parts.Target))
		if err := newDecoder().overlay(root, &got); err != nil {
			t.Fatal(err)
		}
		got.Environment = ""
		if d := diff(want, got); d != "" {
			t.Error(env, d)
		}
	}
}

func lay(dst, src reflect.Value) {
	switch {
	case dst.Kind() == reflect.Map:
		for _, k := range src.MapKeys() {
			dst.SetMapIndex(k, src.MapIndex(k))
		}
	case dst.Kind() == reflect.Struct && dst.Type() != reflect.TypeFor[Amount]():
		for i := range dst.NumField() {
			lay(dst.Field(i), src.Field(i))
		}
	case !src.IsZero():
		dst.Set(src)
	}
}

func parse(t *testing.T, text, env string) *Spec {
	t.Helper()
	s, err := Parse("f", []byte(text), "/srv", env)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDefaults(t *testing.T) {
	const s, m = Duration(1e9), Duration(60e9)
	want := &Spec{Service: "shop", Environment: "default", Dir: "/srv",
		Run: Run{Instances: 1, StartupTimeout: m, Stop: Stop{Signal: "TERM", Drain: 30 * s, Timeout: 10 * s}, Logs: Logs{Size: 256 << 20, Age: 168 * 60 * m},
			Probes: Probes{Ready: &Probe{TCP: true, Interval: 2 * s, Timeout: s, Failures: 3, Successes: 1}}},
		Route: Route{TLS: "off", Protocol: "http", Mode: "proxy"},
		Release: Release{Strategy: "blue-green", Watch: 2 * s, Keep: 5, Surge: Amount{N: 1, Set: true},
			Evidence: Evidence{Requests: 100, Wait: 10 * m, Inconclusive: "pause"}}}
	if d := diff(want, parse(t, "service: shop", "")); d != "" {
		t.Error(d)
	}
	got := parse(t, "service: shop\nrun: {probes: {startup: {exec: [x]}, live: {grpc: ''}}}", "").Run.Probes
	empty := ""
	probes := Probes{Startup: &Probe{Exec: []string{"x"}, Interval: s, Timeout: s, Failures: 3, Successes: 1}, Ready: want.Run.Probes.Ready,
		Live: &Probe{GRPC: &empty, Interval: 10 * s, Timeout: 5 * s, Failures: 3, Successes: 1}}
	if d := diff(probes, got); d != "" {
		t.Error(d)
	}
}

// TestWrittenZeroIsMeant holds that a zero in the file is not taken for a missing value.
func TestWrittenZeroIsMeant(t *testing.T) {
	s := parse(t, "service: a\nrun: {stop: {drain: 0s, timeout: 0s}, logs: {age: 0s}}\nrelease: {watch: 0s, surge: 0, unavailable: 1, strategy: rolling}", "")
	if s.Run.Stop.Drain != 0 || s.Run.Stop.Timeout != 0 || s.Run.Logs.Age != 0 || s.Release.Watch != 0 || s.Release.Surge.Of(3, true) != 0 {
		t.Errorf("%+v %+v", s.Run, s.Release)
	}
	// What an overlay replaces as a whole takes its written zeros with it.
	s = parse(t, "service: a\nrun: {probes: {live: {http: /, delay: 0s, interval: 7s}}}\nenvironments: {e: {run: {probes: {live: {tcp: true}}}}}", "e")
	if p := s.Run.Probes.Live; p.HTTP != "" || p.Interval.D() != 10e9 || p.Failures != 3 {
		t.Errorf("%+v", p)
	}
}

func TestEnvironments(t *testing.T) {
	const text = `
service: shop
run: {args: [a, b], env: {A: "1", B: "2"}, instances: 2}
environments:
  default: {run: {instances: 3}}
  staging: &s
    run: {args: [c], env: {B: "3", C: "4"}}
  copy: *s
`
	for _, c := range []struct {
		env, name string
		instances int
		args      []string
		vars      map[string]string
	}{
		{"", "default", 3, []string{"a", "b"}, map[string]string{"A": "1", "B": "2"}},
		{"default", "default", 3, []string{"a", "b"}, map[string]string{"A": "1", "B": "2"}},
		{"staging", "staging", 2, []string{"c"}, map[string]string{"A": "1", "B": "3", "C": "4"}},
		{"copy", "copy", 2, []string{"c"}, map[string]string{"A": "1", "B": "3", "C": "4"}},
	} {
		s := parse(t, text, c.env)
		if s.Environment != c.name || s.Run.Instances != c.instances || diff(c.args, s.Run.Args)+diff(c.vars, s.Run.Env) != "" {
			t.Errorf("%q: %s %+v", c.env, s.Environment, s.Run)
		}
	}
}

func TestAccessLogDefaults(t *testing.T) {
	for text, want := range map[string]AccessLog{
		"":                        {},
		"route: {access_log: {}}": {Sample: 100_000, Slow: Duration(time.Second), Size: 256 << 20, Age: Duration(7 * 24 * time.Hour)},
		"route: {access_log: {sample: 0%, slow: 0s, size: 64KiB, age: 1d, headers: [A]}}": {Size: 64 << 10, Age: Duration(24 * time.Hour), Headers: []string{"A"}},
	} {
		s, err := Parse("f", []byte("service: a\n"+text), "/srv", "")
		if err != nil {
			t.Fatal(err)
		}
		if d := diff(want, s.Route.AccessLog); d != "" || s.Route.AccessLog.On() != (text != "") {
			t.Errorf("%s: %s", text, d)
		}
	}
}
