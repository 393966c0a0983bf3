package deploy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/fairlead-dev/fairlead/internal/agent"
	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/build"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
	"github.com/fairlead-dev/fairlead/internal/metrics"
	"github.com/fairlead-dev/fairlead/internal/preflight"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// checks are preflight's parameters for s on this machine.
func (d Deploy) checks(ctx context.Context, s *spec.Spec) preflight.Params {
	c := api.Dial(d.Dirs)
	listen := s.Route.Listen
	if listen == "" && keeper.Running(d.Dirs, home.Agent) {
		if st, err := c.Status(ctx, s.Service, s.Environment); err == nil && len(st.Services) == 1 {
			_, listen, _ = strings.Cut(st.Services[0].URL, "://")
		}
	}
	return preflight.Params{
		Dir: s.Dir, Spec: s, Dirs: d.Dirs, Listen: listen, UDP: s.Route.Datagrams(), Version: d.Version,
		Ours: func(pid int) bool { return slices.Contains(edge.Processes(d.Dirs.Stats()), pid) },
		Mains: func(ctx context.Context) ([]string, error) {
			return build.Mains(ctx, build.Params{Dir: s.Dir, Build: s.Build, Name: s.Service})
		},
		Agent: preflight.Agent{
			Version: func(ctx context.Context) (string, bool, error) {
				if !keeper.Running(d.Dirs, home.Agent) {
					return "", false, nil
				}
				i, err := c.Info(ctx)
				return i.Version, true, err
			},
			Ensure: func(ctx context.Context) error {
				if keeper.Running(d.Dirs, home.Agent) {
					return agent.Upgrade(ctx, d.Dirs, d.Exe)
				}
				_, err := agent.Up(ctx, d.Dirs, d.Exe)
				return err
			},
		},
	}
}

// maxSecret is the longest value a secret may have: environment variables are not made for files.
const maxSecret = 64 << 10

// readSecrets reads the values that the spec refers to. They go to the agent and nowhere else: no error quotes one.
func readSecrets(s *spec.Spec, getenv func(string) string) (map[string]string, error) {
	out := map[string]string{}
	for name, ref := range s.Run.Secrets {
		v, err := readSecret(s.Dir, ref, getenv)
		if err != nil {
			return nil, fail.New(fail.Usage, "read the secret "+name, "%w", err).Hinted("%s", secretHint(ref))
		}
		out[name] = v
	}
	return out, nil
}

func secretHint(ref spec.Secret) string {
	if ref.Scheme() == "env" {
		return "type `export " + ref.Rest() + "=VALUE` first, or refer to a file: file://PATH"
	}
	return "write the value into " + ref.Rest() + " (mode 0600), or refer to a variable: env://NAME"
}

func readSecret(dir string, ref spec.Secret, getenv func(string) string) (string, error) {
	switch ref.Scheme() {
	case "env":
		v := getenv(ref.Rest())
		if v == "" {
			return "", errors.New("the environment variable " + ref.Rest() + " is not set")
		}
		return v, nil
	case "file":
		path := ref.Rest()
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if len(b) > maxSecret || strings.ContainsRune(string(b), 0) {
			return "", errors.New(path + " is too long or binary; a secret becomes an environment variable")
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	}
	return "", errors.New("this version reads env:// and file:// only")
}

// maxPage bounds the page that stands in for a service: it is in every routing table.
const maxPage = 64 << 10

// readFiles checks the service's rule files and its page, and puts their texts in place of their names: a release has its own.
func readFiles(s *spec.Spec) error {
	beside := func(name string) string {
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(s.Dir, name)
	}
	if name := s.Route.Unavailable; name != "" {
		b, err := os.ReadFile(beside(name))
		switch {
		case err != nil:
			return fail.New(fail.Usage, "route.unavailable", "%w", err).Hinted("name an HTML file beside fairlead.yaml")
		case len(b) > maxPage || len(b) == 0 || !utf8.Valid(b):
			return fail.New(fail.Usage, "route.unavailable", "%s has %d bytes: a page in UTF-8 of at most %d is wanted", name, len(b), maxPage).Hinted("put styles into it, and images elsewhere")
		}
		s.Route.Unavailable = string(b)
	}
	var texts []string
	for _, name := range s.Alerts.Rules {
		_, b, err := metrics.LoadRules(beside(name))
		if err != nil {
			return err
		}
		texts = append(texts, string(b))
	}
	s.Alerts.Rules = texts
	return nil
}
