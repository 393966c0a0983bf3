package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

// How often an outside system is asked, and how long it may take: meanwhile no other gate is.
const (
	webhookEvery = 5 * time.Second
	webhookWait  = 2 * time.Second
)

// webhook asks an outside system whether to go on.
type webhook struct {
	base
	at     time.Time
	answer rollout.Answer
}

// Question is the JSON that a webhook gate posts.
type Question struct {
	Service     string     `json:"service"`
	Environment string     `json:"environment"`
	From        release.ID `json:"from,omitempty"`
	To          release.ID `json:"to"`
	Step        int        `json:"step"` // 1-based
	Steps       int        `json:"steps"`
	Share       int        `json:"share"` // percent of the traffic that the new release has
	Elapsed     float64    `json:"elapsed_seconds"`
}

// Ask implements [rollout.Gate].
func (w *webhook) Ask(ctx context.Context, m rollout.Moment) rollout.Answer {
	if m.Before {
		return w.idle()
	}
	if w.begins(m) || time.Since(w.at) >= webhookEvery {
		w.answer, w.at = w.ask(ctx, m), time.Now()
	}
	return w.answer
}

func (w *webhook) ask(ctx context.Context, m rollout.Moment) rollout.Answer {
	p := m.Plan
	body, err := json.Marshal(Question{Service: p.Service, Environment: p.Environment, From: p.Old, To: p.New, Step: m.Step + 1, Steps: len(p.Steps),
		Share: int(weightOf(m)*100 + 0.5), Elapsed: m.Elapsed.Seconds()})
	if err != nil {
		return w.blind(m, err)
	}
	ctx, cancel := context.WithTimeout(ctx, webhookWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.spec.Webhook, bytes.NewReader(body))
	if err != nil {
		return w.blind(m, errors.New("its address cannot be asked"))
	}
	req.Header.Set("Content-Type", "application/json")
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}}
	res, err := c.Do(req)
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // without the address, which may hold a token
	}
	if err != nil {
		return w.blind(m, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 500))
	if err != nil {
		return w.blind(m, err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	reason := strings.TrimSpace(fmt.Sprintf("it answers %d %s", res.StatusCode, line))
	switch {
	case res.StatusCode == http.StatusOK:
		return w.pass(reason, nil)
	case res.StatusCode == http.StatusAccepted:
		return w.unsure(m, reason, nil)
	case res.StatusCode >= http.StatusInternalServerError:
		return w.blind(m, errors.New(reason)) // it is out of order, which says nothing about the release
	}
	return w.breach(reason, nil)
}
