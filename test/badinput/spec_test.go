package badinput

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// billion is the classic: a small file that its aliases expand to ten billion values.
const billion = `service: NAME
x1: &x1 [a, a, a, a, a, a, a, a, a, a]
x2: &x2 [*x1, *x1, *x1, *x1, *x1, *x1, *x1, *x1, *x1, *x1]
x3: &x3 [*x2, *x2, *x2, *x2, *x2, *x2, *x2, *x2, *x2, *x2]
x4: &x4 [*x3, *x3, *x3, *x3, *x3, *x3, *x3, *x3, *x3, *x3]
x5: &x5 [*x4, *x4, *x4, *x4, *x4, *x4, *x4, *x4, *x4, *x4]
`

// bomb has only keys that a spec may have, so that nothing but the number of its values can be held against it.
func bomb() string {
	var b strings.Builder
	b.WriteString("service: NAME\nrun:\n  args: &args [" + strings.Repeat("x, ", 999) + "x]\nenvironments:\n")
	for i := range 200 {
		b.WriteString("  e" + strings.Repeat("x", i%30) + string(rune('a'+i/30)) + ": {run: {args: *args}}\n")
	}
	return b.String()
}

// specs are files that are wrong. place is line:column, which the error names behind the file.
var specs = []struct {
	name, text  string
	place, says string
	hint        string
}{
	{"unknown-key", "service: NAME\nrun:\n  instnces: 2\n", "3:3", `"instnces"`, "instances"},
	{"unknown-key-deep", "service: NAME\nenvironments:\n  staging:\n    run:\n      limts: {}\n", "5:7", `"limts"`, "limits"},
	{"unknown-key-at-the-top", "service: NAME\nreleas: {watch: 1s}\n", "2:1", `"releas"`, "release"},
	{"wrong-type", "service: NAME\nrun:\n  instances: many\n", "3:14", "whole number", "-"},
	{"list-for-a-map", "service: NAME\nrun:\n  env: [A=1]\n", "3:8", "keys and values", "-"},
	{"old-octal", "service: NAME\nrun:\n  instances: 010\n", "3:14", "010", "10"},
	{"old-octal-in-env", "service: NAME\nrun:\n  env: {UMASK: 022}\n", "3:16", "022", `"022"`},
	{"no-unit", "service: NAME\nrelease: {watch: 30}\n", "2:18", "30s", "-"},
	{"no-unit-of-memory", "service: NAME\nrun: {limits: {memory: 512}}\n", "2:24", "512MiB", "-"},
	{"two-documents", "service: NAME\n---\nservice: other\n", "2:1", "second document", "---"},
	{"billion-laughs", billion, "2:1", `"x1"`, ""},
	{"alias-bomb", bomb(), "", "aliases", "-"},
	{"alias-of-itself", "service: NAME\nrun: &r\n  env: {A: *r}\n", "2:6", "run.env.A", "-"},
	{"empty", "", "1:1", "empty", "service: NAME"},
	{"blank", "\n \n\n", "1:1", "empty", "service: NAME"},
	{"only-a-comment", "# nothing here yet\n", "1:1", "empty", "service: NAME"},
	{"tab", "service: NAME\nrun:\n\tinstances: 2\n", "3:1", "no YAML", "-"},
	{"nul-byte", "service: NAME\nrun: {args: [\"\x00\"]}\n", "2:", "this is no text", "-"},
	{"twice", "service: NAME\nservice: other\n", "2:1", "second time", "-"},
	{"no-service", "run: {instances: 2}\n", "1:1", "service: is missing", "service: NAME"},
	{"placeholder", "service: NAME\nrun: {args: [\"{{.Prot}}\"]}\n", "2:14", "{{.Prot}}", "{{.Port}}"},
	{"plain-secret", "service: NAME\nrun: {secrets: {TOKEN: hunter2-hunter2}}\n", "2:24", "reference", "-"},
}

// TestSpecs gives the command line every wrong fairlead.yaml beside a service that runs.
func TestSpecs(t *testing.T) {
	m := rig.NewMachine(t)
	s := serving(t, m, "specs")
	defer s.remove(t)
	for _, c := range specs {
		t.Run(c.name, func(t *testing.T) {
			s.write(t, "fairlead.yaml", strings.ReplaceAll(c.text, "NAME", s.name))
			o := s.wrong(t, refusal{code: 2, kind: fail.Usage, says: []string{c.says}, hint: strings.ReplaceAll(c.hint, "NAME", "")})
			if strings.Contains(o.err.Error(), "hunter2") {
				t.Errorf("the error quotes what may be a secret: %v", o.err)
			}
			place := regexp.MustCompile(`^.*fairlead\.yaml:` + c.place)
			if c.place == "" {
				place = regexp.MustCompile(`fairlead\.yaml:[1-9][0-9]*:[1-9][0-9]*$`)
			}
			if !place.MatchString(o.err.Place) {
				t.Errorf("place %q, want fairlead.yaml:%s", o.err.Place, c.place)
			}
		})
	}
	t.Run("no-file", func(t *testing.T) {
		if err := os.Remove(filepath.Join(s.dir, "fairlead.yaml")); err != nil {
			t.Fatal(err)
		}
		s.wrong(t, refusal{code: 2, kind: fail.Usage, says: []string{"fairlead.yaml"}, hint: "fairlead init"})
	})
	t.Run("no-folder", func(t *testing.T) {
		gone := *s
		gone.dir = filepath.Join(s.dir, "gone")
		gone.wrong(t, refusal{code: 2, kind: fail.Usage, says: []string{"gone"}, hint: "folder"})
	})
	t.Run("unknown-environment", func(t *testing.T) {
		s.write(t, "fairlead.yaml", s.text+"environments: {staging: {}}\n")
		s.wrong(t, refusal{code: 2, kind: fail.Usage, says: []string{`"stagin"`}, hint: `"staging"`}, "--env", "stagin")
	})
	t.Run("unknown-flag", func(t *testing.T) {
		s.write(t, "fairlead.yaml", s.text)
		_, stderr, code := s.Run(t, "up", s.dir, "--forse")
		if code != 2 || !strings.Contains(stderr, "--forse") || !strings.Contains(stderr, "hint: ") {
			t.Errorf("exit code %d\n%s", code, stderr)
		}
		// A script that asked for JSON reads the refusal from there, too.
		refusal{code: 2, kind: fail.Usage, says: []string{"--forse"}, hint: "--help"}.check(t, outcomeOf(s.Events(t, "up", s.dir, "--forse")))
	})
	s.unharmed(t)
}

// wrong runs up on a spec that must be refused before anything else happens, and quickly.
func (s *service) wrong(t *testing.T, want refusal, args ...string) outcome {
	t.Helper()
	begun := time.Now()
	o := outcomeOf(s.Events(t, append([]string{"up", s.dir}, args...)...))
	want.check(t, o)
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %s to refuse a file", took)
	}
	if len(o.events) != 1 {
		t.Errorf("something happened before the file was refused: %+v", o.events[0])
	}
	s.answers(t, 1)
	return o
}
