package metrics

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/util/annotations"
)

// apiTarget is a target as Prometheus describes it.
type apiTarget struct {
	Discovered   labels.Labels       `json:"discoveredLabels"`
	Labels       labels.Labels       `json:"labels"`
	Pool         string              `json:"scrapePool"`
	URL          string              `json:"scrapeUrl"`
	GlobalURL    string              `json:"globalUrl"`
	LastError    string              `json:"lastError"`
	LastScrape   time.Time           `json:"lastScrape"`
	LastDuration float64             `json:"lastScrapeDuration"` // s
	Health       scrape.TargetHealth `json:"health"`
	Interval     string              `json:"scrapeInterval"`
	Timeout      string              `json:"scrapeTimeout"`
}

func (db *DB) apiTargets(r *http.Request) (any, annotations.Annotations, error) {
	active := []apiTarget{}
	state, pool := strings.ToLower(r.Form.Get("state")), r.Form.Get("scrapePool")
	if state == "dropped" || pool != "" && pool != poolName {
		return targetList(active), nil, nil
	}
	b := labels.NewBuilder(labels.EmptyLabels())
	for _, t := range db.scraper.manager.TargetsActive()[poolName] {
		lastError := ""
		if err := t.LastError(); err != nil {
			lastError = err.Error()
		}
		active = append(active, apiTarget{
			Discovered: t.DiscoveredLabels(b), Labels: t.Labels(b), Pool: poolName,
			URL: t.URL().String(), GlobalURL: t.URL().String(), // no open port, so no other view from outside
			LastError: lastError, LastScrape: t.LastScrape(), LastDuration: t.LastScrapeDuration().Seconds(), Health: t.Health(),
			Interval: t.GetValue(model.ScrapeIntervalLabel), Timeout: t.GetValue(model.ScrapeTimeoutLabel),
		})
	}
	return targetList(active), nil, nil
}

// targetList stands active targets beside the dropped ones, of which there are never any: nothing is relabelled.
func targetList(active []apiTarget) any {
	return struct {
		Active  []apiTarget    `json:"activeTargets"`
		Dropped []apiTarget    `json:"droppedTargets"`
		Counts  map[string]int `json:"droppedTargetCounts"`
	}{active, []apiTarget{}, map[string]int{poolName: 0}}
}

func (db *DB) apiPools(*http.Request) (any, annotations.Annotations, error) {
	return map[string][]string{"scrapePools": {poolName}}, nil, nil
}

// apiMetadata says type, help and unit of metrics: of those that sources write, and of those that targets describe. When two
// describe one differently both are given.
func (db *DB) apiMetadata(r *http.Request) (any, annotations.Annotations, error) {
	limit, err := atMost(r, "limit")
	if err != nil {
		return nil, nil, err
	}
	each, err := atMost(r, "limit_per_metric")
	if err != nil {
		return nil, nil, err
	}
	all := map[string][]metadata.Metadata{}
	only := r.Form.Get("metric")
	add := func(name string, m metadata.Metadata) {
		if only != "" && name != only || slices.Contains(all[name], m) || each > 0 && len(all[name]) >= each {
			return
		}
		all[name] = append(all[name], m)
	}
	for name, m := range db.families.all() {
		add(name, m)
	}
	for _, t := range db.scraper.manager.TargetsActive()[poolName] {
		for _, m := range t.ListMetadata() {
			add(m.MetricFamily, metadata.Metadata{Type: m.Type, Help: m.Help, Unit: m.Unit})
		}
	}
	if limit >= 0 && len(all) > limit {
		for _, name := range slices.Sorted(maps.Keys(all))[limit:] {
			delete(all, name)
		}
	}
	return all, nil, nil
}

// atMost reads a limit; -1 where there is none.
func atMost(r *http.Request, name string) (int, error) {
	s := r.Form.Get(name)
	if s == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, badData(errors.New(name + " must be a number"))
	}
	return n, nil
}

type apiAlert struct {
	Labels      labels.Labels `json:"labels"`
	Annotations labels.Labels `json:"annotations"`
	State       string        `json:"state"`
	ActiveAt    *time.Time    `json:"activeAt,omitempty"`
	KeepFiring  *time.Time    `json:"keepFiringSince,omitempty"`
	Value       string        `json:"value"`
}

func apiAlertsOf(r *rules.AlertingRule) []apiAlert {
	out := []apiAlert{}
	for _, a := range r.ActiveAlerts() {
		x := apiAlert{
			Labels: a.Labels, Annotations: a.Annotations, State: a.State.String(), ActiveAt: &a.ActiveAt,
			Value: strconv.FormatFloat(a.Value, 'e', -1, 64),
		}
		if !a.KeepFiringSince.IsZero() {
			x.KeepFiring = &a.KeepFiringSince
		}
		out = append(out, x)
	}
	return out
}

func (db *DB) apiAlerts(*http.Request) (any, annotations.Annotations, error) {
	all := []apiAlert{}
	for _, r := range db.ruler.manager.AlertingRules() {
		all = append(all, apiAlertsOf(r)...)
	}
	return map[string][]apiAlert{"alerts": all}, nil, nil
}

// apiRule holds both kinds of rule; what a recording rule has not got is nil.
type apiRule struct {
	State       string           `json:"state,omitempty"`
	Name        string           `json:"name"`
	Query       string           `json:"query"`
	Duration    *float64         `json:"duration,omitempty"`      // s
	KeepFiring  *float64         `json:"keepFiringFor,omitempty"` // s
	Labels      labels.Labels    `json:"labels"`
	Annotations *labels.Labels   `json:"annotations,omitempty"`
	Alerts      *[]apiAlert      `json:"alerts,omitempty"`
	Health      rules.RuleHealth `json:"health"`
	LastError   string           `json:"lastError,omitempty"`
	Took        float64          `json:"evaluationTime"` // s
	Last        time.Time        `json:"lastEvaluation"`
	Type        string           `json:"type"`
}

type apiGroup struct {
	Name     string    `json:"name"`
	File     string    `json:"file"`
	Rules    []apiRule `json:"rules"`
	Interval float64   `json:"interval"` // s
	Limit    int       `json:"limit"`
	Took     float64   `json:"evaluationTime"` // s
	Last     time.Time `json:"lastEvaluation"`
}

// apiRules lists the groups, narrowed by type, rule_name[], rule_group[], file[] and match[]. It does not paginate.
func (db *DB) apiRules(r *http.Request) (any, annotations.Annotations, error) {
	sets, err := db.matchers(r)
	if err != nil {
		return nil, nil, badData(err)
	}
	kind := strings.ToLower(r.Form.Get("type"))
	if kind != "" && kind != "alert" && kind != "record" {
		return nil, nil, badParam("type", fmt.Errorf("not supported value %q", kind))
	}
	quiet := false
	if s := r.Form.Get("exclude_alerts"); s != "" {
		if quiet, err = strconv.ParseBool(strings.ToLower(s)); err != nil {
			return nil, nil, badParam("exclude_alerts", fmt.Errorf("error converting exclude_alerts: %w", err))
		}
	}
	wanted := func(param, name string) bool {
		names := r.Form[param]
		return len(names) == 0 || slices.Contains(names, name)
	}
	groups := []apiGroup{}
	for _, g := range db.ruler.manager.RuleGroups() {
		if !wanted("rule_group[]", g.Name()) || !wanted("file[]", g.File()) {
			continue
		}
		out := apiGroup{Name: g.Name(), File: g.File(), Rules: []apiRule{}, Interval: g.Interval().Seconds(), Limit: g.Limit(),
			Took: g.GetEvaluationTime().Seconds(), Last: g.GetLastEvaluation()}
		for _, x := range g.Rules(sets...) {
			one := apiRuleOf(x, quiet)
			if wanted("rule_name[]", x.Name()) && (kind == "" || strings.HasPrefix(one.Type, kind)) {
				out.Rules = append(out.Rules, one)
			}
		}
		if len(out.Rules) > 0 {
			groups = append(groups, out)
		}
	}
	return map[string][]apiGroup{"groups": groups}, nil, nil
}

func apiRuleOf(r rules.Rule, quiet bool) apiRule {
	out := apiRule{Name: r.Name(), Labels: r.Labels(), Query: r.Query().String(), Health: r.Health(), Took: r.GetEvaluationDuration().Seconds(), Last: r.GetEvaluationTimestamp()}
	if err := r.LastError(); err != nil {
		out.LastError = err.Error()
	}
	a, ok := r.(*rules.AlertingRule)
	if !ok {
		out.Type = "recording"
		return out
	}
	notes := a.Annotations()
	out.Type, out.State, out.Annotations = "alerting", a.State().String(), &notes
	out.Duration, out.KeepFiring = new(a.HoldDuration().Seconds()), new(a.KeepFiringFor().Seconds())
	if !quiet {
		out.Alerts = new(apiAlertsOf(a))
	}
	return out
}
