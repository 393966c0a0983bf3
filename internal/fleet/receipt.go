package fleet

import (
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
)

// Receipt is what a rollout cost the clients of all hosts together, and of each. Quantiles of several machines cannot be put together
// from their quantiles: they are told by host only.
type Receipt struct {
	Service     string        `json:"service"`
	Environment string        `json:"environment"`
	To          release.ID    `json:"to,omitempty"`
	Outcome     string        `json:"outcome"`
	Took        time.Duration `json:"took_ns"`
	Requests    uint64        `json:"requests"`
	Failed      uint64        `json:"failed"`
	Undelivered uint64        `json:"undelivered"`
	Aborted     uint64        `json:"aborted"`
	Gap         time.Duration `json:"gap_ns"` // the longest of any host
	Hosts       []HostReceipt `json:"hosts"`
}

// HostReceipt is a host's part.
type HostReceipt struct {
	Host     string         `json:"host"`
	Outcome  string         `json:"outcome"` // done, failed, lost or waiting
	Error    *fail.Error    `json:"error,omitempty"`
	Receipts []*api.Receipt `json:"receipts,omitempty"` // of the way there, and of the way back where it was gone
}

// ended notes how a rollout on a host ended. The last word counts, the receipts add up.
func (l *lead) ended(h *Host, r *api.Receipt, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.ends[h]
	if e == nil {
		e = &HostReceipt{Host: h.Name}
		l.ends[h] = e
	}
	e.Error, e.Outcome = fail.As(err), "done"
	if err != nil {
		e.Outcome = "failed"
		if lost(err) {
			e.Outcome = "lost"
		}
	}
	if r != nil {
		e.Receipts = append(e.Receipts, r)
	}
}

func (l *lead) receipt(outcome string) *Receipt {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := &Receipt{Service: l.fleet.Service, Environment: l.fleet.Environment, To: l.fleet.Release, Outcome: outcome, Took: time.Since(l.began)}
	for _, h := range l.Hosts {
		e := l.ends[h]
		if e == nil {
			e = &HostReceipt{Host: h.Name, Outcome: "waiting"}
			if h.Err != nil {
				e.Outcome, e.Error = "lost", fail.As(h.Err)
			}
		}
		out.Hosts = append(out.Hosts, *e)
		for _, r := range e.Receipts {
			out.Requests += r.Requests
			out.Failed += r.Failed
			out.Undelivered += r.Undelivered
			out.Aborted += r.Aborted
			out.Gap = max(out.Gap, r.Gap)
		}
	}
	return out
}
