package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/fairlead-dev/fairlead/internal/release"
)

// Fleet is one rollout over the machines of an environment. Each of them keeps it whole, so that whoever comes next finds on any of them
// how far it got.
type Fleet struct {
	ID          string     `json:"id"`
	Kind        string     `json:"kind"` // FleetDeploy or FleetRollback
	Service     string     `json:"service"`
	Environment string     `json:"environment"`
	Waves       [][]string `json:"waves"`    // the hosts, in the order in which they get it
	Failures    int        `json:"failures"` // hosts that may fail before all go back
	Release     release.ID `json:"release"`  // its number on every host
	By          string     `json:"by"`
	Started     time.Time  `json:"started"`
}

// The kinds of fleet rollouts.
const (
	FleetDeploy   = "deploy"
	FleetRollback = "rollback"
)

// Part is a machine's part in a [Fleet].
type Part struct {
	Fleet
	Host    string     `json:"host"`              // the machine's name in Waves
	Old     release.ID `json:"old,omitempty"`     // what served here before it; 0: nothing
	To      release.ID `json:"to"`                // what serves here after it
	Rollout int64      `json:"rollout,omitempty"` // the machine's own rollout; 0: not begun
	Decided string     `json:"decided,omitempty"` // how it ended for the whole fleet; "" where that is not known here
	Leader  string     `json:"leader"`            // who leads it
	Until   time.Time  `json:"until"`             // and until when he is taken to be alive, by the machine's clock
	Staged  time.Time  `json:"staged,omitzero"`   // by the machine's clock
}

// How a fleet rollout ends: on every machine with the new release, or on every one with what served before.
const (
	DecidedNew = "new"
	DecidedOld = "old"
)

// LeaderFor is how long a leader counts as alive after he was heard of.
const LeaderFor = 20 * time.Second

// Seat is what a machine knows before a fleet rollout.
type Seat struct {
	Part     *Part      `json:"part,omitempty"`     // in the last one; nil where there was none
	Current  release.ID `json:"current"`            // serves; 0: nothing
	Previous release.ID `json:"previous,omitempty"` // served before that
	Next     release.ID `json:"next"`               // the number of its next release
}

// Staging asks a machine to take part. Exactly one of Draft and Move is set.
type Staging struct {
	Part  Part   `json:"part"`
	Draft *Draft `json:"draft,omitempty"`
	Move  *Move  `json:"move,omitempty"`
}

// Turn tells a machine of a fleet rollout that it has a part in.
type Turn struct {
	Service     string `json:"service"`
	Environment string `json:"environment"`
	Fleet       string `json:"fleet"` // its ID
	By          string `json:"by"`
	Decided     string `json:"decided,omitempty"`
	Leaves      bool   `json:"leaves,omitempty"` // By leads it no more
}

// Seat returns what the machine knows of fleet rollouts of a service.
func (c *Client) Seat(ctx context.Context, service, env string) (s Seat, err error) {
	q := url.Values{"service": {service}, "environment": {env}}
	return s, c.c.Call(ctx, http.MethodGet, "/v1/fleet?"+q.Encode(), nil, &s)
}

// Stage gives the machine everything that its part needs and plans it. Nothing that serves is changed. A machine that has a part in
// another one that is not decided refuses with [fail.Busy].
func (c *Client) Stage(ctx context.Context, s Staging) (p Planned, err error) {
	return p, c.c.Call(ctx, http.MethodPut, "/v1/fleet", s, &p)
}

// Begin begins what was staged, once: later calls return the same rollout.
func (c *Client) Begin(ctx context.Context, t Turn) (s Started, err error) {
	return s, c.c.Call(ctx, http.MethodPost, "/v1/fleet/begin", t, &s)
}

// Lead says that t.By leads it and is alive, or leaves it to others. It is refused with [fail.Busy] while somebody else is.
func (c *Client) Lead(ctx context.Context, t Turn) error {
	return c.c.Call(ctx, http.MethodPost, "/v1/fleet/lead", t, nil)
}

// Decide ends it for the machine. With [DecidedOld] it returns the rollout that leads back, or 0 where nothing has to be done.
func (c *Client) Decide(ctx context.Context, t Turn) (s Started, err error) {
	return s, c.c.Call(ctx, http.MethodPost, "/v1/fleet/decide", t, &s)
}
