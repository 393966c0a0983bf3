package badinput

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// secretValues are shaped like what people keep secret: a token, a generated password, a URL with a query, a key file.
var secretValues = map[string]string{
	"PLAIN":  "tok-5f3a9c71e8d24b06",
	"QUOTED": `pa"ss\wo'rd-77e1d0`,
	"MARKUP": "postgres://u:p4ss-9b2e@db/x?a=1&b=<2>",
	"LINES":  "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BA\nQEFAASCBKcwggSjAgEAAoIBAQ\n-----END KEY-----",
}

// pieces are what must not be found anywhere: parts of the values that no escaping changes, and each line of the key.
var pieces = map[string][]string{
	"PLAIN":  {"tok-5f3a9c71e8d24b06", "71e8d24b06"},
	"QUOTED": {"rd-77e1d0"},
	"MARKUP": {"p4ss-9b2e"},
	"LINES":  {"MIIEvQIBADANBgkqhkiG9w0BA", "QEFAASCBKcwggSjAgEAAoIBAQ"},
}

const secretLines = "  secrets: {PLAIN: env://PLAIN, QUOTED: env://QUOTED, MARKUP: env://MARKUP, LINES: env://LINES}\n"

// withSecrets is m with the values in the environment of its command line.
func withSecrets(m *rig.Machine) *rig.Machine {
	c := *m
	c.Env = slices.Clone(m.Env)
	for k, v := range secretValues {
		c.Env = append(c.Env, k+"="+v)
	}
	return &c
}

func TestSecrets(t *testing.T) {
	m := rig.NewMachine(t)
	s := serving(t, m, "secrets")
	defer s.remove(t)
	t.Run("not-set", func(t *testing.T) {
		s.mode(t, "secret", "  secrets: {PLAIN: env://FAIRLEAD_TEST_UNSET}\n")
		s.refuses(t, refusal{code: 2, kind: fail.Usage, says: []string{"PLAIN", "FAIRLEAD_TEST_UNSET", "not set"}, hint: "FAIRLEAD_TEST_UNSET"})
	})
	t.Run("no-file", func(t *testing.T) {
		s.mode(t, "secret", "  secrets: {PLAIN: file://gone.txt}\n")
		s.refuses(t, refusal{code: 2, kind: fail.Usage, says: []string{"PLAIN", "gone.txt"}, hint: "gone.txt"})
	})
	// A release that dies with the secret on its lips: its last words stand in the error and in the history.
	t.Run("in-the-error", func(t *testing.T) {
		s.Machine = withSecrets(m)
		s.mode(t, "secret-exit", secretLines)
		o := s.refuses(t, refusal{code: 1, kind: fail.Unhealthy, says: []string{"ended with code 7"}, lines: []string{"the password is [secret]"}, hint: "fairlead logs"})
		noPiece(t, "the error's lines", strings.Join(o.err.Lines, "\n"), "PLAIN")
	})
	// A probe has the service's environment, and its last line stands in the error.
	t.Run("in-a-probe", func(t *testing.T) {
		s.Machine = withSecrets(m)
		s.spec(t, "  env: {MODE: good}\n", secretLines, "startup_timeout: 20s", "startup_timeout: 2s",
			"{http: /ready, interval: 500ms}", `{exec: [sh, -c, "echo no login with $PLAIN; exit 1"]}`)
		o := s.refuses(t, refusal{code: 1, kind: fail.Unhealthy, says: []string{"was not ready within 2s", "no login with"}, hint: "fairlead logs"})
		noPiece(t, "the error", o.err.Error(), "PLAIN")
	})
	s.Machine = withSecrets(m)
	s.mode(t, "secret", secretLines)
	if o := s.up(t); o.code != 0 {
		t.Fatalf("exit code %d, %v", o.code, o.err)
	}
	rig.Eventually(t, 10*time.Second, "the service said everything", func() bool {
		return strings.Contains(s.logs(t), "secrets are over")
	})
	for name := range secretValues {
		t.Run(name, func(t *testing.T) { s.secret(t, name) })
	}
	t.Run("whole", func(t *testing.T) {
		// What the program got is what was set: nothing was lost on the way there.
		if body, err := rig.Get(t, s.url); err != nil || !strings.Contains(body, "secret=true") {
			t.Errorf("the service says %q, %v", body, err)
		}
		if out := s.logs(t); !strings.Contains(out, "PLAIN plain [secret] end") {
			t.Errorf("no [secret] in the log:\n%s", out)
		}
	})
}

func noPiece(t *testing.T, where, text, name string) {
	t.Helper()
	for _, p := range pieces[name] {
		if i := strings.Index(text, p); i >= 0 {
			t.Errorf("%s shows %s: ...%q...", where, name, text[max(0, i-40):min(len(text), i+len(p))])
			return
		}
	}
}

// secret looks for one secret everywhere but in the one file that holds it for the release, and in the instance itself.
func (s *service) secret(t *testing.T, name string) {
	for _, args := range [][]string{{"status", "--json"}, {"status"}, {"history", s.name, "--json"}, {"history", s.name}, {"logs", s.name, "--json"},
		{"logs", s.name}, {"config", "show", s.dir}, {"config", "show", s.dir, "--json"}, {"plan", s.dir, "--json"}, {"check", s.dir, "--json"}, {"metrics"}} {
		stdout, stderr, code := s.Run(t, args...)
		if code != 0 {
			t.Errorf("fairlead %s: exit code %d\n%s", strings.Join(args, " "), code, stderr)
		}
		noPiece(t, "fairlead "+strings.Join(args, " "), stdout+stderr, name)
	}
	d := home.Dirs{State: filepath.Join(s.Dir, "state"), Run: filepath.Join(s.Dir, "run")}
	db, err := os.ReadFile(d.DB())
	if err != nil || len(db) == 0 {
		t.Errorf("%s: %d bytes, %v: nothing would be found in it", d.DB(), len(db), err)
	}
	err = filepath.WalkDir(s.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || e.Name() == "secrets.json" {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil {
			noPiece(t, path, string(b), name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, role := range home.Roles {
		for _, file := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(keeper.PID(d, role)), file))
			if err == nil { // there is no /proc on macOS
				noPiece(t, role+"'s "+file, string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})), name)
			}
		}
	}
	s.private(t)
}

// private checks that only the machine's user reads the file that holds the values.
func (s *service) private(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Dir, "state", "services", s.name+"@default", "releases", "*", "secrets.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no secrets.json: %v", err)
	}
	for _, f := range files {
		if fi, err := os.Stat(f); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, fi.Mode(), err)
		}
	}
}
