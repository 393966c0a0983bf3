// Package api is what the agent says over its socket: the wire types and the client.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead/internal/depot"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/logs"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rpc"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// Protocol is raised when an older client or agent would misunderstand the other.
const Protocol = 1

// Info says which agent answers.
type Info struct {
	Version  string    `json:"version"`
	Protocol int       `json:"protocol"`
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
}

// Draft is a deploy as the client asks for it. The artifact's bytes are already with the agent.
type Draft struct {
	Environment string            `json:"environment"`
	Spec        spec.Spec         `json:"spec"` // resolved
	Artifact    release.Artifact  `json:"artifact"`
	Secrets     map[string]string `json:"secrets,omitempty"` // values; they are kept in a file only the agent's user reads
	By          string            `json:"by"`
	Release     release.ID        `json:"release,omitempty"` // its number, where that is above those there are
}

// Move asks for a rollout to a release that exists, or a new run of the current one.
type Move struct {
	Service     string     `json:"service"`
	Environment string     `json:"environment"`
	Release     release.ID `json:"release,omitempty"` // 0: the one before
	By          string     `json:"by"`
}

// Planned is what a rollout would do.
type Planned struct {
	Plan json.RawMessage `json:"plan"` // a rollout.Plan
	URL  string          `json:"url"`
}

// Started names a rollout that runs now, in the agent: the client may go.
type Started struct {
	Rollout int64 `json:"rollout"`
}

// Latency holds quantiles of the time from a request's arrival to the end of its answer.
type Latency struct {
	Requests uint64        `json:"requests"`
	P50      time.Duration `json:"p50_ns"`
	P95      time.Duration `json:"p95_ns"`
	P99      time.Duration `json:"p99_ns"`
}

// Receipt is what a rollout cost its clients, as the edge counted it.
type Receipt struct {
	Service     string        `json:"service"`
	Environment string        `json:"environment"`
	From        release.ID    `json:"from,omitempty"`
	To          release.ID    `json:"to"`
	Outcome     string        `json:"outcome"`
	URL         string        `json:"url"`
	Took        time.Duration `json:"took_ns"`
	Requests    uint64        `json:"requests"`               // that ended while the rollout ran
	Failed      uint64        `json:"failed"`                 // of them answered 5xx or not at all
	Undelivered uint64        `json:"undelivered"`            // of the failed: no instance answered whole
	Aborted     uint64        `json:"aborted"`                // clients that went away first
	Gap         time.Duration `json:"gap_ns"`                 // longest time in which requests waited and none was answered
	Recovered   time.Duration `json:"recovered_ns,omitempty"` // when it went back: from the decision until the old release had all traffic
	Noticed     *Noticed      `json:"noticed,omitempty"`      // drills in which a gate had something to notice
	Before      Latency       `json:"before"`                 // the old release in the minute before
	After       Latency       `json:"after"`                  // the new release since it got traffic
}

// End is the Data of a rollout's last event, of type "end".
type End struct {
	Outcome string      `json:"outcome"`
	Receipt *Receipt    `json:"receipt,omitempty"`
	Error   *fail.Error `json:"error,omitempty"`
}

// EventEnd is the type of a rollout's last event.
const EventEnd = "end"

// Drill asks for a rehearsal: a second run of what serves gets a share of the traffic for a while, something is done to it,
// and then everything goes back as from a bad release.
type Drill struct {
	Move
	What   string        `json:"what"`  // one of the Drills
	Share  int           `json:"share"` // percent of the traffic, 1 to 99; [DrillSwitch] moves all of it
	For    time.Duration `json:"for_ns"`
	Hit    float64       `json:"hit,omitempty"`      // errors, latency: percent of the second run's requests
	Status int           `json:"status,omitempty"`   // errors: what is answered
	Delay  time.Duration `json:"delay_ns,omitempty"` // latency
	CPU    float64       `json:"cpu,omitempty"`      // cores that are used in vain
	Memory int64         `json:"memory,omitempty"`   // bytes, likewise
}

// The drills.
const (
	DrillRollback = "rollback" // nothing is done to it; the way back is what is rehearsed
	DrillSwitch   = "switch"   // likewise, with all traffic
	DrillCrash    = "crash"    // an instance is killed
	DrillErrors   = "errors"   // the edge answers errors in its place
	DrillLatency  = "latency"  // the edge delays its requests
	DrillCPU      = "cpu"      // its instances use processors in vain
	DrillMemory   = "memory"   // its instances use memory in vain
)

// Noticed tells how a drill went in which a gate had something to notice.
type Noticed struct {
	By       string        `json:"by"` // the gate; "" when none did
	Reason   string        `json:"reason"`
	Detected time.Duration `json:"detected_ns,omitempty"` // since it was done
}

// Order is what a person tells a rollout.
type Order struct {
	Do  string `json:"do"` // one of the Orders
	By  string `json:"by"`
	Why string `json:"why,omitempty"`
}

// The orders.
const (
	OrderPause      = "pause"       // stay at this step; gates may still lead back
	OrderFreeze     = "freeze"      // stay, and do not go back by itself either
	OrderResume     = "resume"      // end a pause or a freeze
	OrderPromote    = "promote"     // end this step now, whatever the gates say of it
	OrderPromoteAll = "promote-all" // and all that follow
	OrderApprove    = "approve"     // say yes to the approval gate of this step
)

// Service is one service in one environment as it is now.
type Service struct {
	Service     string               `json:"service"`
	Environment string               `json:"environment"`
	URL         string               `json:"url"`
	Stopped     bool                 `json:"stopped,omitempty"`
	Current     release.ID           `json:"current"`
	Previous    release.ID           `json:"previous,omitempty"`
	Version     string               `json:"version,omitempty"`
	Commit      string               `json:"commit,omitempty"`
	Weights     map[int]int          `json:"weights"` // percent by release
	Instances   []supervise.Instance `json:"instances"`
	Mode        string               `json:"mode"`               // how new connections reach instances: proxy, or kernel
	ModeWhy     string               `json:"mode_why,omitempty"` // it is proxy, where the kernel was asked for
	RPS         float64              `json:"requests_per_second"`
	P95         time.Duration        `json:"p95_ns"`
	Rollout     *Under               `json:"rollout,omitempty"`
}

// Under is a rollout under way.
type Under struct {
	ID      int64      `json:"id"`
	Kind    string     `json:"kind"`
	To      release.ID `json:"to"`
	Step    int        `json:"step"` // 1-based
	Steps   int        `json:"steps"`
	Undoing bool       `json:"undoing,omitempty"`
	Paused  string     `json:"paused,omitempty"` // why
	Frozen  bool       `json:"frozen,omitempty"`
	Doing   string     `json:"doing"` // the step as a sentence
	Holder  string     `json:"holder"`
}

// Status is the whole machine.
type Status struct {
	Agent    Info      `json:"agent"`
	Services []Service `json:"services"`
}

// Entry is one rollout of the history.
type Entry struct {
	ID       int64       `json:"id"`
	Kind     string      `json:"kind"`
	Strategy string      `json:"strategy"`
	From     release.ID  `json:"from,omitempty"`
	To       release.ID  `json:"to"`
	Version  string      `json:"version,omitempty"`
	Commit   string      `json:"commit,omitempty"`
	Outcome  string      `json:"outcome"` // "running" while it does
	By       string      `json:"by"`
	Started  time.Time   `json:"started"`
	Ended    time.Time   `json:"ended,omitzero"`
	Error    *fail.Error `json:"error,omitempty"`
	Receipt  *Receipt    `json:"receipt,omitempty"`
}

// Client calls an agent.
type Client struct {
	c        *rpc.Client
	patience time.Duration // with an agent that died
}

// Dial makes a client of the agent of d. Nothing is sent yet.
func Dial(d home.Dirs) *Client { return &Client{rpc.NewClient(d.Sock(home.Agent)), agentBack} }

// DialBy makes a client of another machine's agent, to which dial connects. Nothing is sent yet.
func DialBy(host string, dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{rpc.NewClientBy("agent of "+host+" does not answer", dial), remoteBack}
}

// Info asks who answers.
func (c *Client) Info(ctx context.Context) (i Info, err error) {
	return i, c.c.Call(ctx, http.MethodGet, "/v1/info", nil, &i)
}

// Offer announces a bundle. The agent verifies it against the machine's policy and says what it lacks.
func (c *Client) Offer(ctx context.Context, o depot.Offer) (w depot.Wanted, err error) {
	return w, c.c.Call(ctx, http.MethodPost, "/v1/artifacts", o, &w)
}

// PutLayer sends the layer that an offer lacks; the agent refuses one that does not have the digest.
func (c *Client) PutLayer(ctx context.Context, p depot.Parcel) error {
	q := url.Values{"form": {p.Form}, "base": {p.Base}}
	return c.c.Call(ctx, http.MethodPut, "/v1/layers/"+url.PathEscape(p.DiffID.String())+"?"+q.Encode(), p.Body, nil)
}

// Policy returns what the machine asks of artifacts.
func (c *Client) Policy(ctx context.Context) (p depot.Policy, err error) {
	return p, c.c.Call(ctx, http.MethodGet, "/v1/policy", nil, &p)
}

// SetPolicy replaces what the machine asks of artifacts. What runs keeps running; it is judged when it is started next.
func (c *Client) SetPolicy(ctx context.Context, p depot.Policy) error {
	return c.c.Call(ctx, http.MethodPut, "/v1/policy", p, nil)
}

// Plan asks what a deploy would do.
func (c *Client) Plan(ctx context.Context, d Draft) (p Planned, err error) {
	return p, c.c.Call(ctx, http.MethodPost, "/v1/plan", d, &p)
}

// Deploy begins a rollout to a new release.
func (c *Client) Deploy(ctx context.Context, d Draft) (s Started, err error) {
	return s, c.c.Call(ctx, http.MethodPost, "/v1/rollouts", d, &s)
}

// Rollback begins a rollout to an older release.
func (c *Client) Rollback(ctx context.Context, m Move) (s Started, err error) {
	return s, c.c.Call(ctx, http.MethodPost, "/v1/rollback", m, &s)
}

// Restart begins a rollout to a new run of the current release.
func (c *Client) Restart(ctx context.Context, m Move) (s Started, err error) {
	return s, c.c.Call(ctx, http.MethodPost, "/v1/restart", m, &s)
}

// Certificates returns what the machine's edge serves TLS with.
func (c *Client) Certificates(ctx context.Context) (edge.Certificates, error) {
	var out edge.Certificates
	err := c.c.Call(ctx, http.MethodGet, "/v1/certificates", nil, &out)
	return out, err
}

// Drill begins a rollout that goes back on purpose.
func (c *Client) Drill(ctx context.Context, d Drill) (s Started, err error) {
	return s, c.c.Call(ctx, http.MethodPost, "/v1/drill", d, &s)
}

// Order tells a rollout under way how to go on.
func (c *Client) Order(ctx context.Context, id int64, o Order) error {
	return c.c.Call(ctx, http.MethodPost, "/v1/rollouts/"+strconv.FormatInt(id, 10)+"/orders", o, nil)
}

// Record returns what was decided in a rollout, in order.
func (c *Client) Record(ctx context.Context, id int64) (d []json.RawMessage, err error) {
	return d, c.c.Call(ctx, http.MethodGet, "/v1/rollouts/"+strconv.FormatInt(id, 10)+"/decisions", nil, &d)
}

// Cancel makes a rollout go back; it returns before that is done.
func (c *Client) Cancel(ctx context.Context, id int64) error {
	return c.c.Call(ctx, http.MethodPost, "/v1/rollouts/"+strconv.FormatInt(id, 10)+"/cancel", nil, nil)
}

// Stop ends all instances of a service; its releases stay.
func (c *Client) Stop(ctx context.Context, m Move) error {
	return c.c.Call(ctx, http.MethodPost, "/v1/stop", m, nil)
}

// Remove forgets a service with its releases, data and logs.
func (c *Client) Remove(ctx context.Context, m Move) error {
	return c.c.Call(ctx, http.MethodPost, "/v1/remove", m, nil)
}

// Status returns the machine, or one service of it when service is not empty.
func (c *Client) Status(ctx context.Context, service, env string) (s Status, err error) {
	q := url.Values{"service": {service}, "environment": {env}}
	return s, c.c.Call(ctx, http.MethodGet, "/v1/status?"+q.Encode(), nil, &s)
}

// History returns the rollouts of a service, newest first, at most n.
func (c *Client) History(ctx context.Context, service, env string, n int) (h []Entry, err error) {
	q := url.Values{"service": {service}, "environment": {env}, "n": {strconv.Itoa(n)}}
	return h, c.c.Call(ctx, http.MethodGet, "/v1/history?"+q.Encode(), nil, &h)
}

// Follow hands the rollout's events to sink until its end, from event number from on (0: the first), and returns the end.
// When the agent is started again meanwhile, it goes on where it was.
func (c *Client) Follow(ctx context.Context, id int64, sink event.Sink) (End, error) {
	var end *End
	seen := 0
	var lost time.Time
	for end == nil {
		path := "/v1/rollouts/" + strconv.FormatInt(id, 10) + "/events?from=" + strconv.Itoa(seen)
		err := rpc.Each(ctx, c.c, path, func(e event.Event) error {
			seen++
			lost = time.Time{}
			if e.Type != EventEnd {
				sink.Send(e)
				return nil
			}
			end = &End{}
			b, err := json.Marshal(e.Data)
			if err == nil {
				err = json.NewDecoder(bytes.NewReader(b)).Decode(end)
			}
			return err
		})
		switch {
		case end != nil || err == nil:
		case ctx.Err() != nil:
			return End{}, context.Cause(ctx)
		case fail.KindOf(err) != fail.Unavailable:
			return End{}, err
		case lost.IsZero():
			lost = time.Now()
		case time.Since(lost) > c.patience:
			return End{}, err
		}
		if end == nil {
			if err := wait.For(ctx, 100*time.Millisecond); err != nil {
				return End{}, err
			}
		}
	}
	return *end, nil
}

// How long a client waits for an agent that died to be started again. Of another machine the connection was silent for a while already.
const (
	agentBack  = 30 * time.Second
	remoteBack = 8 * time.Second
)

// LogQuery asks for records; see [logs.Query].
type LogQuery struct {
	Service, Environment string
	Release, Instance    int
	Since                time.Time
	Level, Grep          string
	Tail                 int
	Follow               bool
	Access               bool
}

// Values is the query as it stands in a URL.
func (q LogQuery) Values() url.Values {
	v := url.Values{"service": {q.Service}, "environment": {q.Environment}, "release": {strconv.Itoa(q.Release)},
		"instance": {strconv.Itoa(q.Instance)}, "level": {q.Level}, "grep": {q.Grep}, "tail": {strconv.Itoa(q.Tail)},
		"follow": {strconv.FormatBool(q.Follow)}, "access": {strconv.FormatBool(q.Access)}}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	return v
}

// Logs hands on the records that q asks for, until the end or, with Follow, until ctx is done.
func (c *Client) Logs(ctx context.Context, q LogQuery, f func(logs.Record) error) error {
	return rpc.Each(ctx, c.c, "/v1/logs?"+q.Values().Encode(), f)
}

// Transport reaches the agent's HTTP API, that of Prometheus among it, whatever host a request names.
func (c *Client) Transport() http.RoundTripper { return c.c.Transport() }

// Metrics returns the edge's counters in Prometheus's text format; the caller closes it.
func (c *Client) Metrics(ctx context.Context) (io.ReadCloser, error) { return c.c.Raw(ctx, "/metrics") }
