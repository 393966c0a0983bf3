// Package spec is fairlead.yaml: its Go types, its strict reader with positions, environments as overlays, and its JSON Schema.
//
// A value of [Spec] that came out of [Load] is complete: every default is filled in and every field is checked.
package spec

import (
	"net"
	"strings"
	"time"
)

// DefaultEnvironment is the environment's name when no --env is given.
const DefaultEnvironment = "default"

// EnvFlag is what a command needs to mean env: " --env staging", or nothing for the default environment.
func EnvFlag(env string) string {
	if env == DefaultEnvironment {
		return ""
	}
	return " --env " + env
}

// FileName is the name of the file in a service's folder.
const FileName = "fairlead.yaml"

// Spec is one service.
type Spec struct {
	Service      string             `json:"service" jsonschema:"the service's name: lower-case letters, digits and dashes"`
	Build        Build              `json:"build,omitzero" jsonschema:"how the program is made from its Go source"`
	Run          Run                `json:"run,omitzero" jsonschema:"how its instances run"`
	Route        Route              `json:"route,omitzero" jsonschema:"how traffic reaches it"`
	Release      Release            `json:"release,omitzero" jsonschema:"how one release takes over from the other"`
	Alerts       Alerts             `json:"alerts,omitzero" jsonschema:"what people are told of"`
	Target       Target             `json:"target,omitzero" jsonschema:"where it runs; this machine when empty"`
	Environments map[string]Overlay `json:"environments,omitempty" jsonschema:"named overlays: what is set here replaces what is set above"`

	// Environment is the overlay that was applied; it is not a key of the file.
	Environment string `json:"-"`
	// Dir is the absolute folder the file stands in; it is not a key of the file.
	Dir string `json:"-"`
}

// Overlay is what an environment may set anew. Maps are merged key by key, lists and single values are replaced.
type Overlay struct {
	Build   Build   `json:"build,omitzero"`
	Run     Run     `json:"run,omitzero"`
	Route   Route   `json:"route,omitzero"`
	Release Release `json:"release,omitzero"`
	Alerts  Alerts  `json:"alerts,omitzero"`
	Target  Target  `json:"target,omitzero"`
}

// Alerts are a service's own; where they are sent is the machine's affair.
type Alerts struct {
	// Rules are paths in the file. In a release they are what stands in those files.
	Rules []string `json:"rules,omitempty" jsonschema:"Prometheus rule files beside fairlead.yaml"`
}

// Build says how the program is made.
type Build struct {
	Main      string            `json:"main,omitempty" jsonschema:"the main package, as ./cmd/shop; default: the module's only one"`
	Programs  map[string]string `json:"programs,omitempty" jsonschema:"more programs that go with it, by file name: {worker: ./cmd/worker}"`
	Platforms []string          `json:"platforms,omitempty" jsonschema:"GOOS/GOARCH, or GOOS/GOARCH/LEVEL as linux/amd64/v3; default: this machine's"`
	Tags      []string          `json:"tags,omitempty" jsonschema:"Go build tags"`
	Ldflags   []string          `json:"ldflags,omitempty" jsonschema:"more linker flags, behind fairlead's own"`
	Flags     []string          `json:"flags,omitempty" jsonschema:"more flags of go build"`
	Env       map[string]string `json:"env,omitempty" jsonschema:"environment of the build"`
	PGO       string            `json:"pgo,omitempty" jsonschema:"a CPU profile for profile-guided optimization, or off; default: default.pgo beside the main package"`
	Debug     bool              `json:"debug,omitempty" jsonschema:"keep the symbol table and DWARF (no -s -w)"`
	Cgo       bool              `json:"cgo,omitempty" jsonschema:"allow cgo; the result must still be static"`
	Race      bool              `json:"race,omitempty" jsonschema:"build with the race detector, for tests on this machine: slower, and not static"`
	Image     Image             `json:"image,omitzero" jsonschema:"the image the programs are put in"`
	Sign      string            `json:"sign,omitempty" jsonschema:"a private key's file (fairlead keys new); the image is then signed"`
	Vulns     Vulns             `json:"vulns,omitzero" jsonschema:"what is done about known vulnerabilities"`
}

// Vulns says which known vulnerabilities keep a release from being deployed.
type Vulns struct {
	Refuse string      `json:"refuse,omitempty" jsonschema:"reachable: refuse what the program can call; present: also what merely stands in its modules; default: look only when asked (check --vulns)"`
	DB     string      `json:"db,omitempty" jsonschema:"a copy of the Go vulnerability database, an address or a folder; default: Go's own"`
	Allow  []Allowance `json:"allow,omitempty" jsonschema:"exceptions, each with an end"`
}

// Allowance lets one vulnerability pass for a while.
type Allowance struct {
	ID     string `json:"id" jsonschema:"GO-2026-1234, or a CVE or GHSA number"`
	Until  string `json:"until" jsonschema:"the last day on which it holds, as 2026-12-31 (UTC)"`
	Reason string `json:"reason" jsonschema:"why that is safe"`
}

// End is the instant at which the exception is over. Until was checked when the spec was loaded.
func (a Allowance) End() time.Time {
	t, _ := time.Parse(time.DateOnly, a.Until)
	return t.AddDate(0, 0, 1)
}

// Image says how the programs become an OCI image.
type Image struct {
	Repository  string            `json:"repository,omitempty" jsonschema:"where push sends it, as registry.example.com/team/shop"`
	Base        string            `json:"base,omitempty" jsonschema:"what the programs stand on: NAME@sha256:DIGEST in a registry or oci:FOLDER; default: nothing but CA roots, time zones and a user"`
	Compression string            `json:"compression,omitempty" jsonschema:"gzip or zstd; default gzip, which everything reads"`
	Labels      map[string]string `json:"labels,omitempty" jsonschema:"more labels"`
	Tags        []string          `json:"tags,omitempty" jsonschema:"what push calls it: version, minor, commit, latest, or a word of your own; default: version, minor, commit, latest where they apply"`
}

// Run says how instances run.
type Run struct {
	Args           []string          `json:"args,omitempty" jsonschema:"arguments; {{.Port}} {{.Data}} {{.Service}} {{.Environment}} {{.Release}} {{.Instance}} are filled in"`
	Instances      int               `json:"instances,omitempty" jsonschema:"how many; default 1"`
	Port           int               `json:"port,omitempty" jsonschema:"the port that stands in the service's code, where it reads neither PORT nor an argument: the kernel gives each instance one of its own in its place (Linux, root)"`
	Env            map[string]string `json:"env,omitempty" jsonschema:"environment variables; the same {{.Names}} are filled in"`
	Secrets        map[string]Secret `json:"secrets,omitempty" jsonschema:"environment variables whose values are read at deploy time and never shown: env://NAME or file://PATH"`
	Limits         Limits            `json:"limits,omitzero" jsonschema:"what one instance may use"`
	Probes         Probes            `json:"probes,omitzero" jsonschema:"how its health is asked"`
	StartupTimeout Duration          `json:"startup_timeout,omitzero" jsonschema:"the longest a new instance may take to become ready; default 60s"`
	Stop           Stop              `json:"stop,omitzero" jsonschema:"how an instance is ended"`
	Logs           Logs              `json:"logs,omitzero" jsonschema:"how long its log is kept"`
	Faults         InstanceFaults    `json:"faults,omitzero" jsonschema:"what goes wrong on purpose in its instances: for rehearsals, not for production"`
	Metrics        string            `json:"metrics,omitempty" jsonschema:"the path of the service's own metrics in Prometheus's format, as /metrics; they are kept with fairlead's"`
}

// InstanceFaults are used by each instance in vain, within its limits.
type InstanceFaults struct {
	CPU    CPU   `json:"cpu,omitzero" jsonschema:"cores, as 0.5"`
	Memory Bytes `json:"memory,omitzero" jsonschema:"as 256MiB"`
}

// Limits of one instance. Zero means no limit, except Files.
type Limits struct {
	Memory Bytes `json:"memory,omitzero" jsonschema:"as 512MiB; GOMEMLIMIT follows at 90 %"`
	CPU    CPU   `json:"cpu,omitzero" jsonschema:"cores, as 1.5"`
	Pids   int   `json:"pids,omitempty" jsonschema:"processes and threads"`
	Files  int   `json:"files,omitempty" jsonschema:"open files; default 65536 or what the machine allows"`
}

// Probes ask an instance how it is.
type Probes struct {
	Startup *Probe `json:"startup,omitempty" jsonschema:"asked until it succeeds once, before the others; default: the ready probe"`
	Ready   *Probe `json:"ready,omitempty" jsonschema:"gets traffic only while this succeeds; default: its port takes a connection, or with protocol: udp, receives"`
	Live    *Probe `json:"live,omitempty" jsonschema:"restarted when this fails; default: none"`
}

// Probe is one question; exactly one of HTTP, TCP, UDP, Exec and GRPC is set.
type Probe struct {
	HTTP      string   `json:"http,omitempty" jsonschema:"a path that answers 2xx or 3xx"`
	TCP       bool     `json:"tcp,omitempty" jsonschema:"the port takes a connection"`
	UDP       bool     `json:"udp,omitempty" jsonschema:"somebody receives at the UDP port; nothing is sent there"`
	Exec      []string `json:"exec,omitempty" jsonschema:"a command that ends with 0"`
	GRPC      *string  `json:"grpc,omitempty" jsonschema:"a service name for grpc.health.v1; empty for the whole server"`
	Interval  Duration `json:"interval,omitzero" jsonschema:"default 2s (live: 10s)"`
	Timeout   Duration `json:"timeout,omitzero" jsonschema:"default 1s (live: 5s)"`
	Failures  int      `json:"failures,omitempty" jsonschema:"in a row before it counts; default 3"`
	Successes int      `json:"successes,omitempty" jsonschema:"in a row before it counts again; default 1"`
	Delay     Duration `json:"delay,omitzero" jsonschema:"wait before the first question"`
}

// Stop ends an instance: traffic away, wait for open requests, signal, and kill if that did not help.
type Stop struct {
	Signal  string   `json:"signal,omitempty" jsonschema:"default TERM"`
	Drain   Duration `json:"drain,omitzero" jsonschema:"the longest wait for open requests; default 30s"`
	Timeout Duration `json:"timeout,omitzero" jsonschema:"from the signal to the kill; default 10s"`
}

// Logs says how much of the log is kept: whichever bound is reached first.
type Logs struct {
	Size Bytes    `json:"size,omitzero" jsonschema:"per instance; default 256MiB"`
	Age  Duration `json:"age,omitzero" jsonschema:"default 168h"`
}

// Redirect is where plain HTTP is sent on to https, when the service listens at an address; "" for nowhere.
func (r Route) Redirect(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	switch {
	case r.TLS == "off" || r.TLS == "" || r.HTTP == "off" || err != nil || r.Streams() && r.HTTP == "":
		return ""
	case r.HTTP != "":
		return r.HTTP
	case port == "443":
		return net.JoinHostPort(host, "80")
	}
	return ""
}

// HeaderMatch takes "Name: value" apart; without a value any will do.
func HeaderMatch(s string) (name, value string) {
	name, value, _ = strings.Cut(s, ":")
	return strings.TrimSpace(name), strings.TrimSpace(value)
}

// Release says how one release takes over from the other.
type Release struct {
	Strategy    string    `json:"strategy,omitempty" jsonschema:"recreate, rolling, blue-green or canary; default blue-green"`
	Steps       []Percent `json:"steps,omitempty" jsonschema:"a canary's shares of the traffic"`
	Surge       Amount    `json:"surge,omitzero" jsonschema:"rolling: instances above the wanted number, as 1 or 25%; default 1"`
	Unavailable Amount    `json:"unavailable,omitzero" jsonschema:"rolling: instances that may be missing, as 1 or 25%; default 0"`
	Watch       Duration  `json:"watch,omitzero" jsonschema:"how long the new release is watched after it got traffic; default 2s"`
	Warm        Duration  `json:"warm,omitzero" jsonschema:"blue-green: how long the old instances stay up for going back at once; default 0s"`
	Keep        int       `json:"keep,omitempty" jsonschema:"old releases kept for going back; default 5"`
	Bake        Duration  `json:"bake,omitzero" jsonschema:"how long the new release is watched after it got all the traffic, where that is longer than watch; the old one stays up meanwhile"`
	Sticky      string    `json:"sticky,omitempty" jsonschema:"who saw the new release keeps seeing it while its share grows: client (by address), cookie:NAME or header:NAME"`
	Gates       []Gate    `json:"gates,omitempty" jsonschema:"questions asked of measurements at each step"`
	Evidence    Evidence  `json:"evidence,omitzero" jsonschema:"how much the gates need to know"`
	Mirror      Mirror    `json:"mirror,omitzero" jsonschema:"a dark launch: before it gets traffic of its own, the new release gets copies of safe requests"`
	Hooks       Hooks     `json:"hooks,omitzero" jsonschema:"programs that run once for a release"`
	Fleet       Fleet     `json:"fleet,omitzero" jsonschema:"in which order several machines get it"`
}

// Fleet says how a release goes over several machines.
type Fleet struct {
	Canary   int      `json:"canary,omitempty" jsonschema:"hosts that get it first, in the order of target.ssh; default 1, or none where there is one host"`
	Batch    Amount   `json:"batch,omitzero" jsonschema:"how many of the others get it at once, as 2 or 25%; default 25%"`
	Pause    Duration `json:"pause,omitzero" jsonschema:"between two batches; default 0s"`
	Failures int      `json:"max_failures,omitempty" jsonschema:"hosts that may fail or be missing before all go back; default 0"`
}

// Mirror sends copies of requests to a release that has no traffic of its own; what it answers goes nowhere.
type Mirror struct {
	Share Percent  `json:"share,omitzero" jsonschema:"of the GET, HEAD and OPTIONS requests; default 100%"`
	For   Duration `json:"for,omitzero" jsonschema:"how long, before the first step"`
}

// Hooks are commands: a program of the artifact by its name, or a path.
type Hooks struct {
	Before  []string `json:"before,omitempty" jsonschema:"before the release's first instance starts, as [migrate, up]; when it fails nothing is deployed"`
	After   []string `json:"after,omitempty" jsonschema:"when the release has all traffic; when it fails that is told and nothing else follows"`
	Timeout Duration `json:"timeout,omitzero" jsonschema:"for each; default 10m"`
}

// Evidence says how much gates need to know, and what follows when they never do.
type Evidence struct {
	Requests     int      `json:"requests,omitempty" jsonschema:"of the new release, before a threshold or a comparison is judged; default 100"`
	Wait         Duration `json:"wait,omitzero" jsonschema:"the longest a step waits for evidence; default 10m"`
	Inconclusive string   `json:"inconclusive,omitempty" jsonschema:"what follows then: pause, promote or rollback; default pause"`
	Prometheus   string   `json:"prometheus,omitempty" jsonschema:"the address of a Prometheus that promql gates ask; default: the one in the agent"`
	Probe        TopUp    `json:"probe,omitzero" jsonschema:"requests of fairlead's own while there are too few to judge by"`
}

// TopUp is synthetic traffic through the edge.
type TopUp struct {
	HTTP string `json:"http,omitempty" jsonschema:"a path that may be asked at any time, as /"`
	Rate int    `json:"rate,omitempty" jsonschema:"requests a second that there shall be, clients' own included; default 20"`
}

// Gate is one question; exactly one of Check, Compare, PromQL, HTTP, Exec, Webhook, Window and Approve is set.
type Gate struct {
	Check      string   `json:"check,omitempty" jsonschema:"a threshold, as errors <= 1%, p95 <= 500ms, cpu <= 90%, memory <= 80%, restarts == 0, log(level=error) <= 10/min, differs <= 1%"`
	Compare    []string `json:"compare,omitempty" jsonschema:"errors, latency or both, of the new release against the old one beside it, by a sequential test"`
	PromQL     string   `json:"promql,omitempty" jsonschema:"a comparison that must hold; $service, $environment, $canary and $stable are filled in"`
	HTTP       string   `json:"http,omitempty" jsonschema:"a path that the new instances must answer with 2xx or 3xx before the release gets any traffic"`
	Exec       []string `json:"exec,omitempty" jsonschema:"a command that must end with 0 for each new instance before the release gets any traffic; {{.Port}} is the instance's"`
	Webhook    string   `json:"webhook,omitempty" jsonschema:"an address that is asked whether to go on: 200 says yes, 202 not yet, everything else no, with its first line as the reason"`
	Window     string   `json:"window,omitempty" jsonschema:"when traffic may begin to move, as Mon-Fri 09:00-16:00 Europe/Berlin"`
	Approve    string   `json:"approve,omitempty" jsonschema:"a person must say yes: before (any traffic) or steps (at the end of each)"`
	FalseAlarm Percent  `json:"false_alarm,omitzero" jsonschema:"compare: the greatest chance that a good release is found worse; default 1%"`
	Margin     Percent  `json:"margin,omitzero" jsonschema:"compare: by how much it may be worse and pass, of the old release's own; default 25%"`
	Else       string   `json:"else,omitempty" jsonschema:"what follows when it does not hold: rollback, pause or warn; default rollback"`
}

// Name is the gate as a person wrote it.
func (g Gate) Name() string {
	switch {
	case g.Check != "":
		return g.Check
	case len(g.Compare) > 0:
		return "compare " + strings.Join(g.Compare, ", ")
	case g.PromQL != "":
		return g.PromQL
	case g.HTTP != "":
		return "GET " + g.HTTP
	case len(g.Exec) > 0:
		return "exec " + strings.Join(g.Exec, " ")
	case g.Webhook != "":
		return "webhook"
	case g.Window != "":
		return "window " + g.Window
	}
	return "approval"
}

// Before reports whether the gate has a question before the new release gets traffic.
func (g Gate) Before() bool {
	return g.HTTP != "" || len(g.Exec) > 0 || g.Window != "" || g.Approve == "before" || strings.HasPrefix(g.Check, "drill")
}

// Target is where releases run; this machine when empty.
type Target struct {
	SSH        []string    `json:"ssh,omitempty" jsonschema:"machines, as deploy@web1.example.com"`
	Kubernetes *Kubernetes `json:"kubernetes,omitempty"`
}

// Kubernetes names a cluster.
type Kubernetes struct {
	Context   string `json:"context,omitempty"`
	Namespace string `json:"namespace,omitempty"`
}
