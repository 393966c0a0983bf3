package spec

import (
	"fmt"
	"net"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// The defaults, right for a small Go service.
const (
	defaultStartup  = Duration(60 * time.Second)
	defaultDrain    = Duration(30 * time.Second)
	defaultStop     = Duration(10 * time.Second)
	defaultWatch    = Duration(2 * time.Second)
	defaultKeep     = 5
	defaultLogSize  = Bytes(256 << 20)
	defaultLogAge   = Duration(7 * 24 * time.Hour)
	maxInstances    = 200
	maxNameLength   = 40
	defaultSignal   = "TERM"
	defaultStrategy = "blue-green"
	minMemory       = Bytes(8 << 20)
)

func (s *Spec) setDefaults() {
	r := &s.Run
	def(&r.Instances, 1)
	def(&r.StartupTimeout, defaultStartup)
	def(&r.Stop.Signal, defaultSignal)
	def(&r.Stop.Drain, defaultDrain)
	def(&r.Stop.Timeout, defaultStop)
	def(&r.Logs.Size, defaultLogSize)
	def(&r.Logs.Age, defaultLogAge)
	if r.Probes.Ready == nil {
		r.Probes.Ready = &Probe{TCP: true}
	}
	r.Probes.Ready.setDefaults(2*time.Second, time.Second)
	if r.Probes.Startup != nil {
		r.Probes.Startup.setDefaults(time.Second, time.Second)
	}
	if r.Probes.Live != nil {
		r.Probes.Live.setDefaults(10*time.Second, 5*time.Second)
	}
	def(&s.Route.TLS, "off")
	def(&s.Route.Mode, "proxy")
	def(&s.Release.Strategy, defaultStrategy)
	def(&s.Release.Watch, defaultWatch)
	def(&s.Release.Keep, defaultKeep)
	if s.Release.Surge.IsZero() && s.Release.Unavailable.IsZero() {
		s.Release.Surge = Amount{N: 1, Set: true}
	}
	for i, h := range s.Route.Hosts {
		s.Route.Hosts[i] = strings.ToLower(h)
	}
}

func (p *Probe) setDefaults(interval, timeout time.Duration) {
	def(&p.Interval, Duration(interval))
	def(&p.Timeout, Duration(timeout))
	def(&p.Failures, 3)
	def(&p.Successes, 1)
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

var (
	nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	envForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	hostForm = regexp.MustCompile(`^(\*\.)?([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	platform = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?$`)
	// reserved are set by fairlead; a spec that sets them would break what they promise.
	reserved = map[string]bool{"PORT": true, "FAIRLEAD_SERVICE": true, "FAIRLEAD_ENVIRONMENT": true, "FAIRLEAD_RELEASE": true, "FAIRLEAD_INSTANCE": true}
)

// check reports the first value that has the right type but no sense.
func (d *decoder) check(s *Spec) error {
	for _, f := range []func(*Spec) error{d.checkNames, d.checkRun, d.checkProbes, d.checkRoute, d.checkRelease} {
		if err := f(s); err != nil {
			return err
		}
	}
	return nil
}

// at makes an error at the place where path stands, or at the nearest thing above it that stands in the file.
func (d *decoder) at(path, format string, args ...any) *fail.Error {
	p := path
	for {
		if n := d.places[p]; n != nil {
			return d.errorf(n, "%s: %s", path, fmt.Sprintf(format, args...))
		}
		i := strings.LastIndexAny(p, ".[")
		if i < 0 {
			return d.errorf(&yaml.Node{Line: 1, Column: 1}, "%s: %s", path, fmt.Sprintf(format, args...))
		}
		p = p[:i]
	}
}

func (d *decoder) checkNames(s *Spec) error {
	if s.Service == "" {
		return d.at("service", "is missing").Hinted("write `service: NAME` at the top")
	}
	if !nameForm.MatchString(s.Service) || len(s.Service) > maxNameLength {
		return d.at("service", "%q is not a name of lower-case letters, digits and dashes, a letter first, at most %d", s.Service, maxNameLength)
	}
	for e := range s.Environments {
		if !nameForm.MatchString(e) || len(e) > maxNameLength {
			return d.at("environments."+e, "an environment's name has lower-case letters, digits and dashes, a letter first, at most %d", maxNameLength)
		}
	}
	for i, p := range s.Build.Platforms {
		if !platform.MatchString(p) {
			return d.at(fmt.Sprintf("build.platforms[%d]", i), "%q is not GOOS/GOARCH, as linux/amd64", p)
		}
	}
	return nil
}

func (d *decoder) checkRun(s *Spec) error {
	r := s.Run
	if r.Instances < 1 || r.Instances > maxInstances {
		return d.at("run.instances", "%d is not between 1 and %d", r.Instances, maxInstances)
	}
	if r.Limits.Memory != 0 && r.Limits.Memory < minMemory {
		return d.at("run.limits.memory", "%s is less than a Go program needs to start (%s)", r.Limits.Memory, minMemory)
	}
	if r.Limits.Files != 0 && r.Limits.Files < 64 || r.Limits.Pids < 0 {
		return d.at("run.limits", "files must be at least 64, pids not negative")
	}
	for _, k := range sortedKeys(r.Env) {
		if !envForm.MatchString(k) || reserved[k] {
			return d.at("run.env."+k, "is not a name of an environment variable that a service may set")
		}
		if _, both := r.Secrets[k]; both {
			return d.at("run.secrets."+k, "stands under run.env, too")
		}
	}
	for _, k := range sortedKeys(r.Secrets) {
		if !envForm.MatchString(k) || reserved[k] {
			return d.at("run.secrets."+k, "is not a name of an environment variable that a service may set")
		}
	}
	return d.checkPlaceholders(r)
}

var placeholder = regexp.MustCompile(`\{\{[^}]*\}?\}?`)

var placeholders = []string{"{{.Port}}", "{{.Data}}", "{{.Service}}", "{{.Environment}}", "{{.Release}}", "{{.Instance}}"}

// checkPlaceholders refuses {{.Prot}}, which would otherwise reach the program as it is.
func (d *decoder) checkPlaceholders(r Run) error {
	texts := map[string]string{}
	for i, a := range r.Args {
		texts[fmt.Sprintf("run.args[%d]", i)] = a
	}
	for k, v := range r.Env {
		texts["run.env."+k] = v
	}
	for _, path := range sortedKeys(texts) {
		for _, p := range placeholder.FindAllString(texts[path], -1) {
			known := false
			for _, k := range placeholders {
				known = known || p == k
			}
			if known {
				continue
			}
			e := d.at(path, "%s is not known", p)
			if n := nearest(p, placeholders); n != "" {
				return e.Hinted("did you mean %s?", n)
			}
			return e.Hinted("known are %s", strings.Join(placeholders, " "))
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

func (d *decoder) checkProbes(s *Spec) error {
	for name, p := range map[string]*Probe{"startup": s.Run.Probes.Startup, "ready": s.Run.Probes.Ready, "live": s.Run.Probes.Live} {
		if p == nil {
			continue
		}
		path := "run.probes." + name
		kinds := 0
		for _, set := range []bool{p.HTTP != "", p.TCP, len(p.Exec) > 0, p.GRPC != nil} {
			if set {
				kinds++
			}
		}
		switch {
		case kinds != 1:
			return d.at(path, "exactly one of http, tcp, exec and grpc is wanted, here are %d", kinds)
		case p.HTTP != "" && !strings.HasPrefix(p.HTTP, "/"):
			return d.at(path+".http", "%q is not a path: write /healthz", p.HTTP)
		case p.Interval <= 0 || p.Timeout <= 0 || p.Failures < 1 || p.Successes < 1:
			return d.at(path, "interval, timeout, failures and successes must be above zero")
		}
	}
	return nil
}

func (d *decoder) checkRoute(s *Spec) error {
	r := s.Route
	for i, h := range r.Hosts {
		if !hostForm.MatchString(h) {
			return d.at(fmt.Sprintf("route.hosts[%d]", i), "%q is not a host name", h)
		}
	}
	if r.Listen != "" {
		_, port, err := net.SplitHostPort(r.Listen)
		if n, e := strconv.Atoi(port); err != nil || e != nil || n < 1 || n > 65535 {
			return d.at("route.listen", "%q is not an address: write \":80\" or \"127.0.0.1:8080\"", r.Listen)
		}
	}
	if err := d.oneOf("route.tls", r.TLS, "off", "auto"); err != nil {
		return err
	}
	return d.oneOf("route.mode", r.Mode, "proxy", "kernel")
}

func (d *decoder) checkRelease(s *Spec) error {
	r := s.Release
	if err := d.oneOf("release.strategy", r.Strategy, "recreate", "rolling", "blue-green", "canary"); err != nil {
		return err
	}
	for i, g := range r.Gates {
		path := fmt.Sprintf("release.gates[%d]", i)
		kinds := 0
		for _, set := range []bool{g.Check != "", len(g.Compare) > 0, g.PromQL != ""} {
			if set {
				kinds++
			}
		}
		if kinds != 1 {
			return d.at(path, "exactly one of check, compare and promql is wanted, here are %d", kinds)
		}
		if g.Else != "" {
			if err := d.oneOf(path+".else", g.Else, "rollback", "pause", "warn"); err != nil {
				return err
			}
		}
	}
	last := Percent(0)
	for i, p := range r.Steps {
		if p <= last {
			return d.at(fmt.Sprintf("release.steps[%d]", i), "%s is not more than the step before", p)
		}
		last = p
	}
	if r.Strategy == "rolling" && r.Surge.Of(s.Run.Instances, true) == 0 && r.Unavailable.Of(s.Run.Instances, false) == 0 {
		return d.at("release", "rolling with neither surge nor unavailable instances cannot move").Hinted("write surge: 1")
	}
	if r.Keep < 1 {
		return d.at("release.keep", "at least one old release is kept")
	}
	return nil
}

func (d *decoder) oneOf(path, v string, allowed ...string) error {
	for _, a := range allowed {
		if v == a {
			return nil
		}
	}
	e := d.at(path, "%q is none of %s", v, strings.Join(allowed, ", "))
	if n := nearest(v, allowed); n != "" {
		return e.Hinted("did you mean %q?", n)
	}
	return e
}
