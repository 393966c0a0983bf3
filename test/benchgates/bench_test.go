package benchgates

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A regression is a way in which new is worse.
type regression struct {
	name  string
	fails float64 // share of new's requests that fail
	times float64 // how much longer they take
}

// A situation is an old release and the regressions that may befall it.
type situation struct {
	name  string
	old   service
	other []service // further equal releases in which Flagger's rule must hold
	bad   []regression
}

// situations at rate requests a second.
func situations(rate float64) []situation {
	plain := func(fails float64) service {
		return service{fails: fails, median: 40 * time.Millisecond, sigma: 1, times: 1}
	}
	heavy := plain(0.001)
	heavy.slow = 0.03
	return []situation{
		{"0 % fail", plain(0), []service{plain(3 / (3600 * rate))}, []regression{{"errors 0 → 1 %", 0.01, 1}}},
		{"0.1 % fail", plain(0.001), nil, []regression{{"errors 0.1 → 0.5 %", 0.005, 1},
			{"times × 1.2", 0.001, 1.2}, {"times × 1.5", 0.001, 1.5}, {"times × 3", 0.001, 3}}},
		{"1 % fail", plain(0.01), nil, []regression{{"errors 1 → 2 %", 0.02, 1}, {"errors 1 → 5 %", 0.05, 1}}},
		{"0.1 % fail, 3 % slow by 10", heavy, nil, []regression{{"two humps, times × 1.2", 0.001, 1.2}, {"two humps, times × 3", 0.001, 3}}},
	}
}

func (s situation) bads() []service {
	var out []service
	latency := false
	for _, r := range s.bad {
		latency = latency || r.times > 1
		out = append(out, s.worse(r))
	}
	if !latency { // a rule must watch both metrics, as compare does
		out = append(out, s.worse(regression{"", s.old.fails, 1.5}))
	}
	return out
}

func (s situation) worse(r regression) service {
	out := s.old
	out.fails, out.times = r.fails, r.times
	return out
}

// BenchmarkGates writes the table.
func BenchmarkGates(b *testing.B) {
	for range b.N {
		begun := time.Now()
		n := 10000
		if text := os.Getenv("ROLLOUTS"); text != "" {
			var err error
			if n, err = strconv.Atoi(text); err != nil || n < 100 {
				b.Fatalf("ROLLOUTS=%q: a number, at least 100", text)
			}
		}
		t := &table{n: n}
		for i, rate := range []float64{10, 100, 1000} {
			for j, s := range situations(rate) {
				t.situation(s, rate, uint64(1+100*i+10*j))
			}
		}
		text := t.page()
		fmt.Print(text)
		if path := os.Getenv("TABLE"); path != "" {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(100*t.worst, "worst-false-alarm-%")
		b.ReportMetric(float64(len(t.lost)), "cells-lost")
		if t.worst > alarm {
			b.Errorf("compare raised a false alarm in %.2f %% of equal rollouts; 1 %% is stated", 100*t.worst)
		}
		fmt.Println(time.Since(begun).Round(time.Second))
	}
}

type table struct {
	n            int
	alarms, rows []string
	worst        float64  // false-alarm rate of compare
	lost         []string // cells in which Flagger's one rule exposes fewer
	lostToOwn    []string // and those in which the rule for this very regression does
}

// situation plays one old release: equal rollouts, then each regression.
func (t *table) situation(s situation, rate float64, seed uint64) {
	at := func(newer service, more uint64) cell { return cell{s.old, newer, rate, seed*1000 + more} }
	var equals, bads [][][checks]checked
	for i, old := range append([]service{s.old}, s.other...) {
		equals = append(equals, cell{old, old, rate, seed*1000 + 900 + uint64(i)}.checked(max(t.n, 3000)))
	}
	for i, bad := range s.bads() {
		bads = append(bads, at(bad, 950+uint64(i)).checked(min(t.n, 1000)))
	}
	played := slices.Concat(equals, bads)
	failed := limits(played, func(k checked) float32 { return k.errors })
	slow := limits(played, func(k checked) float32 { return k.p99 })
	one := tune(failed, slow, equals, bads)

	equal, seen := summarize(at(s.old, 0).fairlead(t.n)), at(s.old, 1).checked(t.n)
	t.worst = max(t.worst, equal.found)
	f, m, d := summarize(play(seen, one.n, one.breach)), summarize(repeated(seen)), summarize(play(seen, defaults.n, defaults.breach))
	t.alarms = append(t.alarms, fmt.Sprintf("| %.0f/s | %s | **%.2f %%** | %.2f %% | %.1f %% | %.0f %% |",
		rate, s.name, 100*equal.found, 100*f.found, 100*d.found, 100*m.found))
	for i, r := range s.bad {
		bad := at(s.worse(r), 10+uint64(i))
		mine, seen := summarize(bad.fairlead(t.n)), bad.checked(t.n)
		own := tune(failed, slow, equals[:1], bads[i:i+1])
		f, o, m := summarize(play(seen, one.n, one.breach)), summarize(play(seen, own.n, own.breach)), summarize(repeated(seen))
		name := fmt.Sprintf("%s at %.0f/s", r.name, rate)
		if mine.mean > f.mean {
			t.lost = append(t.lost, fmt.Sprintf("%s (%.0f against %.0f)", name, mine.mean, f.mean))
		}
		if mine.mean > o.mean {
			t.lostToOwn = append(t.lostToOwn, fmt.Sprintf("%s (%.0f against %.0f)", name, mine.mean, o.mean))
		}
		t.rows = append(t.rows, fmt.Sprintf("| %.0f/s | %s | **%v** | %v<br>%v | %v<br>%v | %v |", rate, r.name, mine, f, one, o, own, m))
		fmt.Println(t.rows[len(t.rows)-1])
	}
	fmt.Println(t.alarms[len(t.alarms)-1])
}

// page is docs/gates-table.md.
func (t *table) page() string {
	none := func(cells []string) string {
		if len(cells) == 0 {
			return "none"
		}
		return strings.Join(cells, "; ")
	}
	return fmt.Sprintf(head, t.n) + strings.Join(t.alarms, "\n") + fmt.Sprintf(middle, len(t.rows)-len(t.lost), len(t.rows), none(t.lost),
		len(t.rows)-len(t.lostToOwn), none(t.lostToOwn)) + strings.Join(t.rows, "\n") + "\n"
}

const head = `# How soon a bad canary is found

Written by ` + "`make bench-gates`" + ` (test/benchgates), from %d simulated rollouts a cell with fixed seeds. Do not edit.

A rollout sends 5 %% of the traffic to the new release for 30 minutes; a regression that was not found by then counts as exposed for
all of them. Requests come as a Poisson stream and go to a release by chance. Times are lognormal (median 40 ms, sigma 1, so p95
207 ms, p99 409 ms); "3 %% slow by 10" has a second hump of requests ten times as long. Failing has nothing to do with time taken.

- **fairlead**: ` + "`compare: [errors, latency], false_alarm: 1%%`" + ` (internal/sequential) with nothing set by hand, asked after every reading: each
  quarter of a second; each second at 10/s and with equal releases. It has seen one minute of the old release before.
- **Flagger's way**: each minute, success rate and p99 of the new release against fixed limits; back after n failed checks in
  all. Its documented defaults are 99 %%, 500 ms and 5. Here the limits and n are instead the best of some 800 rules whose rate of
  false alarms in 10,000 equal rollouts of this very service (3,000 where fewer are played) is at most 1 %%. *One rule* serves all
  regressions of a service, and exposes fewest by the geometric mean of their means. Where old fails nothing, the rule must also
  hold if an hour without a failure was luck (a rate of 3 in an hour's requests). *Own rule* is chosen knowing the very
  regression in its row, and may ignore the other metric: nobody can set that, it is what the way could give at best.
- **Mann-Whitney each minute** (Kayenta's test, repeated as an analysis run of Argo does): new's failures and times against old's of the
  same minute, each one-sided at 1 %%; back at the first that is significant.

## False alarms: both releases equal

| requests | old and new | fairlead | Flagger, one rule | Flagger, defaults | Mann-Whitney |
|---|---|---|---|---|---|
`

const middle = `

Repeated tests are significant sooner or later; that is what their last column below buys its speed with. Where failures are rare, one
failure of new in a minute already passes for significant there.

## Requests that the bad release served: found, mean, median, 90th percentile

By the mean fairlead exposes fewer than Flagger's one rule in %d of %d cells. Not in: %s.

Fewer than the rule made for the very regression in %d. Not in: %s.

What it loses, it loses at 10/s, where half an hour brings 900 requests of new. A rule knows how often old fails and when the rollout
ends, and has to hold for just that; compare assumes neither.

| requests | regression | fairlead | Flagger, one rule | Flagger, own rule | Mann-Whitney |
|---|---|---|---|---|---|
`
