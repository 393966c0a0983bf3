// Package metrics is the Prometheus inside the agent: its time series database, its PromQL engine, its scraper and its rule
// manager, linked as libraries and wired for one small machine.
//
// Samples come in from two sides. What this process can read itself (the edge's counters, what instances use) is a [Source]
// and costs no HTTP; what services offer is scraped from their own /metrics ([DB.Targets]). Rule files are taken as they are
// ([DB.Rules]), with a few built in. Samples go out through [Querier], which an external Prometheus answers as well
// ([Remote]), and through Prometheus's HTTP API ([DB.API]), so that Grafana and promtool can point at the agent.
//
// Nothing is registered with Prometheus's global registry, and no goroutine outlives [DB.Close].
package metrics

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Options say where the samples lie and how much they may take. Zero values are right for a small machine.
type Options struct {
	Dir          string        // of this database alone; made when it is not there
	Retention    time.Duration // 0: 15 days, as Prometheus keeps
	MaxBytes     int64         // of blocks on disk, the oldest go first; 0: 1 GiB
	RuleInterval time.Duration // of rule groups that name none; 0: 15 s
	QueryTimeout time.Duration // 0: 30 s
	MaxSamples   int           // that one query may hold at once, 16 bytes each; 0: 5 million
	Version      string        // of fairlead, for its own /metrics
	Log          *slog.Logger  // nil: nothing is logged

	// Notify is told of alerts that fire, once a minute while they do, and of those that are resolved. It is called between
	// two evaluations of a rule group and holds that group up: hand over and return. Nil: nobody is told.
	Notify func(ctx context.Context, alerts []Alert)
}

func (o Options) orDefaults() Options {
	if o.Retention <= 0 {
		o.Retention = 15 * 24 * time.Hour
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 1 << 30
	}
	if o.RuleInterval <= 0 {
		o.RuleInterval = 15 * time.Second
	}
	if o.QueryTimeout <= 0 {
		o.QueryTimeout = 30 * time.Second
	}
	if o.MaxSamples <= 0 {
		o.MaxSamples = 5_000_000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// DB is an open database with everything that writes to it and reads from it. Make it with [Open], end it with Close.
type DB struct {
	opt      Options
	reg      *prometheus.Registry // what this room counts of itself
	tsdb     *tsdb.DB
	engine   *promql.Engine
	slots    slots
	parser   parser.Parser
	scraper  *scraper
	ruler    *ruler
	families families

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // guards closed against tasks.Add
	closed bool
	tasks  sync.WaitGroup
}

// Open opens the database in o.Dir and starts what runs on its own: compaction, scraping and rules, both empty so far.
// What cannot be read any more is repaired or set aside with a warning. It returns an error of kind [fail.Busy] when another
// process has the folder, and whatever the disk says otherwise.
func Open(o Options) (*DB, error) {
	o = o.orDefaults()
	dir, err := filepath.Abs(o.Dir)
	if o.Dir == "" || err != nil {
		return nil, fail.New(fail.Internal, "open the metrics", "no folder was named: %v", err)
	}
	o.Dir = dir
	store, reg, err := openStore(o)
	if err != nil {
		return nil, err
	}
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), versionMetric(o.Version))
	db := &DB{opt: o, reg: reg, tsdb: store, parser: parser.NewParser(parser.Options{}), slots: make(slots, maxQueries)}
	db.ctx, db.cancel = context.WithCancel(context.Background())
	db.engine = promql.NewEngine(promql.EngineOpts{
		Logger:                   o.Log,
		Reg:                      reg,
		MaxSamples:               o.MaxSamples,
		Timeout:                  o.QueryTimeout,
		ActiveQueryTracker:       db.slots,
		NoStepSubqueryIntervalFn: func(int64) int64 { return o.RuleInterval.Milliseconds() },
		EnableAtModifier:         true,
		EnableNegativeOffset:     true,
		Parser:                   db.parser,
	})
	if db.scraper, err = startScraper(db); err != nil {
		db.cancel()
		return nil, errors.Join(err, store.Close())
	}
	db.ruler = startRuler(db)
	return db, nil
}

// Close ends rules, scraping and sources, waits for them, and writes out what is in memory. A second call does nothing.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return nil
	}
	db.closed = true
	db.mu.Unlock()
	db.ruler.stop()
	db.scraper.stop()
	db.cancel()
	db.tasks.Wait()
	return errors.Join(db.engine.Close(), db.tsdb.Close())
}

// run starts a task that Close waits for; it reports false when the database is closed.
func (db *DB) run(task func()) bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return false
	}
	db.tasks.Go(task)
	return true
}

// maxQueries may be under way at once. The others wait their turn, within their own timeout.
const maxQueries = 16

// slots implements [promql.QueryTracker] as nothing but the limit: Prometheus's own keeps a mapped file of the queries for
// the post-mortem of a crash.
type slots chan struct{}

func (s slots) GetMaxConcurrent() int { return cap(s) }

func (s slots) Insert(ctx context.Context, _ string) (int, error) {
	select {
	case s <- struct{}{}:
		return 0, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (s slots) Delete(int) { <-s }

func (s slots) Close() error { return nil }

func versionMetric(version string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fairlead_build_info", Help: "Always 1; the labels say which fairlead this is.",
		ConstLabels: prometheus.Labels{"version": version},
	}, func() float64 { return 1 })
}
