// Package services_test holds the promise that fairlead runs services nobody here wrote: Caddy and the NATS server as
// their authors publish them, and a service with Gin. Each is deployed, upgraded to another real version and rolled back,
// under load, and loses no request.
//
// On an empty Go cache Caddy alone compiles for minutes; on a warm one each service takes some ten seconds.
package services_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// service is one foreign service in two versions.
type service struct {
	name     string
	versions [2]string                                              // the one before, and the one it is upgraded to
	checkout func(t *testing.T, tree, version string)               // lays the source of a version out in tree, in place of another
	spec     func(t *testing.T, m *rig.Machine, tree string) string // fairlead.yaml
	version  func(t *testing.T, url string) string                  // asks the running service which version it is
}

func TestNATS(t *testing.T) {
	const module = "github.com/nats-io/nats-server/v2"
	service{
		name: "nats-server", versions: [2]string{"v2.15.1", "v2.15.2"},
		checkout: func(t *testing.T, tree, version string) { checkout(t, tree, module, version, ".") },
		// Adopted as a user would: init names the service, and the arguments are added. The client port may be any.
		spec: func(t *testing.T, m *rig.Machine, tree string) string {
			return adopt(t, m, tree) + `run:
  args: [-a, 127.0.0.1, -p, "-1", -m, "{{.Port}}"]
  probes:
    ready: {http: /healthz}
    live: {http: /healthz}
`
		},
		version: func(t *testing.T, url string) string {
			var varz struct{ Version string }
			if err := json.Unmarshal([]byte(get(t, url+"/varz")), &varz); err != nil {
				t.Fatal(err)
			}
			return "v" + varz.Version
		},
	}.test(t)
}

func TestCaddy(t *testing.T) {
	const module = "github.com/caddyserver/caddy/v2"
	service{
		name: "caddy", versions: [2]string{"v2.11.8", "v2.11.9"},
		checkout: func(t *testing.T, tree, version string) { checkout(t, tree, module, version, "./cmd/caddy") },
		spec: func(t *testing.T, m *rig.Machine, tree string) string {
			return adopt(t, m, tree) + `run:
  args: [run, --adapter, caddyfile, --config, ` + caddyfile(t, m) + `]
  probes:
    ready: {http: /healthz}
`
		},
		// Caddy tells its version as every Go program with Prometheus's build information does. The Go command put it
		// there, from the tag in the tree's git.
		version: func(t *testing.T, url string) string {
			for line := range strings.Lines(get(t, url+"/metrics")) {
				if labels, ok := strings.CutPrefix(line, "go_build_info{"); ok {
					_, v, _ := strings.Cut(labels, `version="`)
					v, _, _ = strings.Cut(v, `"`)
					return v
				}
			}
			return "no go_build_info"
		},
	}.test(t)
}

// caddyfile writes Caddy's configuration where the service's own user can read it, and returns its path. The admin API is
// off: two releases at once cannot both have its port.
func caddyfile(t *testing.T, m *rig.Machine) string {
	t.Helper()
	path := filepath.Join(m.Dir, "Caddyfile")
	const text = `{
	admin off
	auto_https off
}
http://:{$PORT} {
	bind 127.0.0.1
	respond /healthz 204
	metrics /metrics
	respond / "served by Caddy"
}
`
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestGin(t *testing.T) {
	example := filepath.Join(rig.Root(t), "examples", "gin")
	service{
		name: "gin", versions: [2]string{"v1.11.0", "v1.12.0"},
		checkout: func(t *testing.T, tree, version string) {
			replace(t, tree, example)
			fetched(t, tree, "get", "github.com/gin-gonic/gin@"+version)
			fetched(t, tree, "mod", "tidy")
			fetched(t, tree, "list", "-deps", ".")
			commit(t, tree, version)
		},
		// The example has a fairlead.yaml of its own.
		spec: func(t *testing.T, _ *rig.Machine, tree string) string {
			b, err := os.ReadFile(filepath.Join(tree, "fairlead.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		},
		version: func(t *testing.T, url string) string {
			var about struct{ Gin string }
			if err := json.Unmarshal([]byte(get(t, url+"/")), &about); err != nil {
				t.Fatal(err)
			}
			return about.Gin
		},
	}.test(t)
}

// test deploys the older version, upgrades it under load, and goes back.
func (s service) test(t *testing.T) {
	m := rig.NewMachine(t)
	// What go.mod says of newer toolchains is not to be downloaded here.
	m.Env = append(m.Env, "GOTOOLCHAIN=local")
	tree := newTree(t)
	clock := stopwatch(t)
	s.checkout(t, tree, s.versions[0])
	spec := s.spec(t, m, tree)
	write(t, filepath.Join(tree, "fairlead.yaml"), spec)
	commit(t, tree, s.versions[0])
	clock("source of " + s.versions[0])

	first := m.Up(t, tree)
	clock("up")
	s.serves(t, first, s.versions[0])

	load := rig.Load{URL: first.URL, Clients: 4, Every: 50 * time.Millisecond, Most: 40_000, For: 8 * time.Minute}.Start(t)
	s.checkout(t, tree, s.versions[1])
	write(t, filepath.Join(tree, "fairlead.yaml"), spec)
	commit(t, tree, s.versions[1])
	clock("source of " + s.versions[1])
	second := m.Up(t, tree)
	clock("up")
	s.serves(t, second, s.versions[1])
	if second.From != first.To || second.URL != first.URL {
		t.Errorf("the upgrade went from release %d at %s, the deploy before was release %d at %s", second.From, second.URL, first.To, first.URL)
	}
	back := m.Move(t, "rollback", "--service", s.name)
	clock("rollback")
	s.serves(t, back, s.versions[0])
	if back.To != first.To {
		t.Errorf("the rollback went to release %d, the one before is %d", back.To, first.To)
	}

	for what, r := range map[string]rig.Receipt{"upgrade": second, "rollback": back} {
		if r.Outcome != "done" || r.Failed != 0 || r.Requests == 0 {
			t.Errorf("the receipt of the %s says %q, %d of %d requests failed; it should have seen some and lost none", what, r.Outcome, r.Failed, r.Requests)
		}
		t.Logf("%s: %d requests, %d failed, longest gap %v, p99 %v before and %v after, took %v",
			what, r.Requests, r.Failed, r.Gap, r.Before.P99, r.After.P99, r.Took)
	}
	c := load.Stop()
	t.Logf("the load's own count: %d requests, %d failed, by status %v", c.Requests, c.Failed, c.Status)
	if c.Failed != 0 || uint64(c.Requests) < second.Requests+back.Requests {
		t.Errorf("the load counts %d failed of %d requests; the receipts counted %d in all; first failure: %s",
			c.Failed, c.Requests, second.Requests+back.Requests, c.First)
	}
}

// serves checks that the edge's URL is answered by version want, not just once.
func (s service) serves(t *testing.T, r rig.Receipt, want string) {
	t.Helper()
	for range 5 {
		if got := s.version(t, r.URL); got != want {
			t.Fatalf("release %d of %s should be version %s, it says %s", r.To, s.name, want, got)
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	body, err := rig.Get(t, url)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// stopwatch logs how long each part took.
func stopwatch(t *testing.T) func(what string) {
	last := time.Now()
	return func(what string) {
		t.Helper()
		t.Logf("%-18s %6.1f s", what, time.Since(last).Seconds())
		last = time.Now()
	}
}
