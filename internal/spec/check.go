package spec

import (
	"cmp"
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
	defaultStartup = Duration(60 * time.Second)
	defaultDrain   = Duration(30 * time.Second)
	defaultStop    = Duration(10 * time.Second)
	defaultWatch   = Duration(2 * time.Second)
	defaultKeep    = 5

	defaultCanaryWatch  = Duration(time.Minute)
	defaultEvidence     = 100
	defaultEvidenceWait = Duration(10 * time.Minute)
	defaultHook         = Duration(10 * time.Minute)
	defaultTopUp        = 20
	defaultFalseAlarm   = Percent(1000)
	defaultMargin       = Percent(25_000)

	defaultLogSize  = Bytes(256 << 20)
	defaultLogAge   = Duration(7 * 24 * time.Hour)
	maxInstances    = 200
	maxNameLength   = 40
	defaultSignal   = "TERM"
	defaultStrategy = "blue-green"
	minMemory       = Bytes(8 << 20)
	minLogSize      = Bytes(64 << 10)
)

// defaults fills in what the file does not say. A zero that stands in the file is meant: `watch: 0s` is no watching, and
// `instances: 0` is for the checks to refuse.
func (d *decoder) defaults(s *Spec) {
	r := &s.Run
	def(d, "run.instances", &r.Instances, 1)
	def(d, "run.startup_timeout", &r.StartupTimeout, defaultStartup)
	def(d, "run.stop.signal", &r.Stop.Signal, defaultSignal)
	def(d, "run.stop.drain", &r.Stop.Drain, defaultDrain)
	def(d, "run.stop.timeout", &r.Stop.Timeout, defaultStop)
	def(d, "run.logs.size", &r.Logs.Size, defaultLogSize)
	def(d, "run.logs.age", &r.Logs.Age, defaultLogAge)
	if r.Probes.Ready == nil {
		r.Probes.Ready = &Probe{TCP: !s.Route.Datagrams(), UDP: s.Route.Datagrams()}
	}
	d.probe("run.probes.startup", r.Probes.Startup, time.Second, time.Second)
	d.probe("run.probes.ready", r.Probes.Ready, 2*time.Second, time.Second)
	d.probe("run.probes.live", r.Probes.Live, 10*time.Second, 5*time.Second)
	def(d, "route.tls", &s.Route.TLS, "off")
	def(d, "route.mode", &s.Route.Mode, ModeProxy)
	d.streamDefaults(&s.Route)
	d.guardDefaults(&s.Route)
	d.accessDefaults(&s.Route.AccessLog)
	d.keepDefaults(&s.Route)
	d.tracesDefaults(&s.Route.Traces)
	d.authDefaults(&s.Route.Auth)
	d.redirectDefaults(s.Route.Redirects)
	def(d, "release.strategy", &s.Release.Strategy, defaultStrategy)
	watch := defaultWatch
	if s.Release.Strategy == "canary" {
		watch = defaultCanaryWatch
	}
	def(d, "release.watch", &s.Release.Watch, watch)
	def(d, "release.evidence.requests", &s.Release.Evidence.Requests, defaultEvidence)
	def(d, "release.evidence.wait", &s.Release.Evidence.Wait, defaultEvidenceWait)
	def(d, "release.evidence.inconclusive", &s.Release.Evidence.Inconclusive, "pause")
	for i := range s.Release.Gates {
		g := &s.Release.Gates[i]
		def(d, fmt.Sprintf("release.gates[%d].else", i), &g.Else, "rollback")
		if len(g.Compare) > 0 {
			def(d, fmt.Sprintf("release.gates[%d].false_alarm", i), &g.FalseAlarm, defaultFalseAlarm)
			def(d, fmt.Sprintf("release.gates[%d].margin", i), &g.Margin, defaultMargin)
		}
	}
	if s.Release.Mirror.For != 0 {
		def(d, "release.mirror.share", &s.Release.Mirror.Share, Percent(100_000))
	}
	if s.Release.Evidence.Probe.HTTP != "" {
		def(d, "release.evidence.probe.rate", &s.Release.Evidence.Probe.Rate, defaultTopUp)
	}
	if h := s.Release.Hooks; h.Before != nil || h.After != nil {
		def(d, "release.hooks.timeout", &s.Release.Hooks.Timeout, defaultHook)
	}
	def(d, "release.keep", &s.Release.Keep, defaultKeep)
	d.fleetDefaults(s)
	if s.Release.Surge.IsZero() && s.Release.Unavailable.IsZero() {
		s.Release.Surge = Amount{N: 1, Set: true}
	}
	for i, h := range s.Route.Hosts {
		s.Route.Hosts[i] = strings.ToLower(h)
	}
	s.Route.Preview.Host = strings.ToLower(s.Route.Preview.Host)
}

func (d *decoder) probe(path string, p *Probe, interval, timeout time.Duration) {
	if p == nil {
		return
	}
	def(d, path+".interval", &p.Interval, Duration(interval))
	def(d, path+".timeout", &p.Timeout, Duration(timeout))
	def(d, path+".failures", &p.Failures, 3)
	def(d, path+".successes", &p.Successes, 1)
}

func def[T any](d *decoder, path string, p *T, v T) {
	if d.places[path] == nil {
		*p = v
	}
}

var (
	nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	envForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// headerForm is a field name (RFC 9110, section 5.1) and perhaps a value.
	headerForm = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+(:[^\\x00-\\x1f]*)?$")
	hostForm   = regexp.MustCompile(`^(\*\.)?([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	// signals are those that every kind of machine has.
	signals = []string{"TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "ABRT", "ALRM", "KILL"}
	// reserved are set by fairlead; a spec that sets them would break what they promise.
	reserved = map[string]bool{"PORT": true, "FAIRLEAD_SERVICE": true, "FAIRLEAD_ENVIRONMENT": true, "FAIRLEAD_RELEASE": true, "FAIRLEAD_INSTANCE": true}
)

// check reports the first value that has the right type but no sense.
func (d *decoder) check(s *Spec) error {
	for _, f := range []func(*Spec) error{d.checkNames, d.checkBuild, d.checkRun, d.checkProbes, d.checkRoute, d.checkRelease, d.checkFleet} {
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
	for _, e := range sortedKeys(s.Environments) {
		if !nameForm.MatchString(e) || len(e) > maxNameLength {
			return d.at("environments."+e, "an environment's name has lower-case letters, digits and dashes, a letter first, at most %d", maxNameLength)
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
	if r.Port < 0 || r.Port > 65535 {
		return d.at("run.port", "%d is not a port", r.Port)
	}
	if r.StartupTimeout <= 0 {
		return d.at("run.startup_timeout", "must be above zero")
	}
	if r.Logs.Size < minLogSize {
		return d.at("run.logs.size", "%s is too little to keep anything; at least %s", r.Logs.Size, minLogSize)
	}
	if err := d.oneOf("run.stop.signal", strings.TrimPrefix(strings.ToUpper(r.Stop.Signal), "SIG"), signals...); err != nil {
		return err
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

// checkPlaceholders refuses {{.Prot}}, which would otherwise reach the program as it is, and a zero byte, which no program
// can be given.
func (d *decoder) checkPlaceholders(r Run) error {
	texts := map[string]string{}
	for i, a := range r.Args {
		texts[fmt.Sprintf("run.args[%d]", i)] = a
	}
	for k, v := range r.Env {
		texts["run.env."+k] = v
	}
	for _, path := range sortedKeys(texts) {
		if strings.Contains(texts[path], "\x00") {
			return d.at(path, "a zero byte cannot be passed to a program")
		}
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
	for i, p := range []*Probe{s.Run.Probes.Startup, s.Run.Probes.Ready, s.Run.Probes.Live} {
		name := [...]string{"startup", "ready", "live"}[i]
		if p == nil {
			continue
		}
		path := "run.probes." + name
		kinds := 0
		for _, set := range []bool{p.HTTP != "", p.TCP, p.UDP, len(p.Exec) > 0, p.GRPC != nil} {
			if set {
				kinds++
			}
		}
		switch {
		case kinds != 1:
			return d.at(path, "exactly one of http, tcp, udp, exec and grpc is wanted, here are %d", kinds)
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
		if n, e := strconv.ParseUint(port, 10, 16); err != nil || e != nil || n == 0 {
			return d.at("route.listen", "%q is not an address: write \":80\" or \"127.0.0.1:8080\"", r.Listen)
		}
	}
	return cmp.Or(d.checkTLS(r), d.checkStream(s), d.checkForward(r), d.checkPreview(r.Preview), d.checkFaults(r.Faults), d.checkGuard(r), d.checkHTTP3(r), d.checkKept(r),
		d.checkAccess(r.AccessLog), d.checkTraces(r.Traces), d.checkHedge(r), d.checkAuth(r.Auth), d.checkRedirects(r.Redirects), d.checkMode(s))
}

// checkFaults holds what shall go wrong on purpose to what can.
func (d *decoder) checkFaults(faults []Fault) error {
	for i, f := range faults {
		path := fmt.Sprintf("route.faults[%d]", i)
		switch {
		case f.Share <= 0:
			return d.at(path+".share", "must be above zero: write share: 5%%")
		case f.Delay == 0 && f.Abort == 0:
			return d.at(path, "neither delay nor abort: nothing would happen")
		case f.Abort != 0 && (f.Abort < 400 || f.Abort > 599):
			return d.at(path+".abort", "%d is not a status from 400 to 599", f.Abort)
		case f.Header != "" && !headerForm.MatchString(f.Header):
			return d.at(path+".header", "%q is not a header: write X-Chaos, or \"X-Chaos: yes\"", f.Header)
		}
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
