package metrics

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// BuiltinRules is the rule file that comes with fairlead, in Prometheus's own format.
//
//go:embed builtin.yaml
var BuiltinRules []byte

// BuiltinName stands for a file's name where the built-in rules are listed among others.
const BuiltinName = "fairlead-builtin"

// Alert is one that an alerting rule raised.
type Alert struct {
	Name        string // the rule's
	Labels      map[string]string
	Annotations map[string]string
	Expr        string // that held
	Value       float64
	Firing      bool // false: it holds, but not yet for as long as the rule asks; never so in a notification
	Active      time.Time
	Fired       time.Time // zero while it is pending
	Resolved    time.Time // zero while it is active
	ValidUntil  time.Time // of a notification: when no other one comes until then, the alert is over
}

// ruler runs Prometheus's rule manager on rule files that were read beforehand.
type ruler struct {
	manager *rules.Manager
	mu      sync.Mutex // one Update at a time
	loader  *loader
}

func startRuler(db *DB) *ruler {
	l := &loader{parser: db.parser, files: map[string]*rulefmt.RuleGroups{}}
	m := rules.NewManager(&rules.ManagerOptions{
		NameValidationScheme: model.UTF8Validation,
		ExternalURL:          &url.URL{},
		QueryFunc:            rules.EngineQueryFunc(db.engine, db.tsdb),
		NotifyFunc:           db.notify,
		Context:              db.ctx,
		Appendable:           db.tsdb,
		Queryable:            db.tsdb,
		Logger:               db.opt.Log.With("part", "rules"),
		Registerer:           db.reg,
		// An alert that was pending when the agent stopped goes on counting when it comes back within the hour. Prometheus
		// asks for 10 minutes more after a restart, and forgets the shorter ones; ours are short and a restart takes a second.
		OutageTolerance:        time.Hour,
		ForGracePeriod:         db.opt.RuleInterval,
		ResendDelay:            time.Minute,
		DefaultRuleQueryOffset: func() time.Duration { return 0 },
		RestoreNewRuleGroups:   true,
		GroupLoader:            l,
		Parser:                 db.parser,
	})
	db.run(m.Run)
	return &ruler{manager: m, loader: l}
}

func (r *ruler) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manager.Stop()
}

func (db *DB) notify(ctx context.Context, expr string, alerts ...*rules.Alert) {
	if db.opt.Notify == nil || len(alerts) == 0 {
		return
	}
	out := make([]Alert, len(alerts))
	for i, a := range alerts {
		out[i] = alertOf(a, expr)
	}
	db.opt.Notify(ctx, out)
}

func alertOf(a *rules.Alert, expr string) Alert {
	return Alert{
		Name: a.Labels.Get(labels.AlertName), Labels: a.Labels.Map(), Annotations: a.Annotations.Map(), Expr: expr, Value: a.Value,
		Firing: a.State == rules.StateFiring, Active: a.ActiveAt, Fired: a.FiredAt, Resolved: a.ResolvedAt, ValidUntil: a.ValidUntil,
	}
}

// Alerts returns those that are pending or firing.
func (db *DB) Alerts() []Alert {
	var out []Alert
	for _, r := range db.ruler.manager.AlertingRules() {
		for _, a := range r.ActiveAlerts() {
			out = append(out, alertOf(a, r.Query().String()))
		}
	}
	return out
}

// Rules replaces all rules by the built-in ones and those of files, each in Prometheus's format. Groups that did not change
// keep their state; for groups that are new, it is taken up from the database. A file that is not right changes nothing and
// is an error of kind [fail.Usage] with file, line and column, and all that is wrong with it in Lines.
func (db *DB) Rules(files []string) error {
	loaded := map[string]*rulefmt.RuleGroups{}
	names := []string{BuiltinName}
	groups, errs := parseRules(BuiltinRules, db.parser)
	if len(errs) > 0 {
		return fail.New(fail.Internal, "the built-in rules", "%w", errors.Join(errs...))
	}
	loaded[BuiltinName] = groups
	for _, f := range files {
		f, err := filepath.Abs(f)
		if err != nil {
			return fail.New(fail.Usage, "alerts.rules", "%w", err)
		}
		if loaded[f], _, err = LoadRules(f); err != nil {
			return err
		}
		names = append(names, f)
	}
	r := db.ruler
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loader.replace(loaded)
	if err := r.manager.Update(db.opt.RuleInterval, names, labels.EmptyLabels(), "", nil); err != nil {
		return fail.New(fail.Internal, "alerts.rules", "%w", err)
	}
	return nil
}

// LoadRules reads one rule file, checks it as promtool does, names, expressions and templates, and returns it with its text. The
// error is of kind [fail.Usage] with the place.
func LoadRules(file string) (groups *rulefmt.RuleGroups, text []byte, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fail.New(fail.Usage, "alerts.rules", "%w", err).Hinted("the path is taken from the folder of fairlead.yaml")
	}
	groups, errs := parseRules(b, parser.NewParser(parser.Options{}))
	if len(errs) == 0 {
		return groups, b, nil
	}
	where, what := placeOf(file, errs[0])
	e := fail.New(fail.Usage, "alerts.rules", "%s", what)
	e.Place = where
	for _, x := range errs[1:] {
		where, what := placeOf(file, x)
		e.Lines = append(e.Lines, where+": "+what)
	}
	return nil, nil, e
}

func parseRules(content []byte, p parser.Parser) (*rulefmt.RuleGroups, []error) {
	return rulefmt.Parse(content, false, model.UTF8Validation, p, slog.New(slog.DiscardHandler))
}

var (
	linePlace = regexp.MustCompile(`^(\d+:\d+): (?:\d+:\d+: )?`) // rulefmt; a second place is that of another key
	yamlPlace = regexp.MustCompile(`line (\d+): `)
)

// placeOf takes line and column out of the text of an error: the libraries give them in no other way.
func placeOf(file string, err error) (where, what string) {
	what = strings.Join(strings.Fields(err.Error()), " ")
	if m := linePlace.FindStringSubmatch(what); m != nil {
		if m[1] == "0:0" { // what is wrong with a whole group comes without a place
			return file, what[len(m[0]):]
		}
		return file + ":" + m[1], what[len(m[0]):]
	}
	if m := yamlPlace.FindStringSubmatchIndex(what); m != nil {
		return file + ":" + what[m[2]:m[3]], strings.TrimPrefix(what[m[1]:], "yaml: ")
	}
	return file, what
}

// loader implements [rules.GroupLoader] over files that were read and checked before: the manager must not see another
// content than the one that was found to be right.
type loader struct {
	parser parser.Parser
	mu     sync.Mutex
	files  map[string]*rulefmt.RuleGroups
}

func (l *loader) replace(files map[string]*rulefmt.RuleGroups) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files = files
}

// Load implements [rules.GroupLoader].
func (l *loader) Load(name string, _ bool, _ model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g, ok := l.files[name]
	if !ok {
		return nil, []error{fmt.Errorf("no rule file %s", name)}
	}
	return g, nil
}

// Parse implements [rules.GroupLoader].
func (l *loader) Parse(query string) (parser.Expr, error) { return l.parser.ParseExpr(query) }
