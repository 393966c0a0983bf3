package metrics

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/scrape"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Target is an address that offers metrics over HTTP.
type Target struct {
	URL      string        // http or https, with path; of each query parameter the first value counts
	Interval time.Duration // 0: 5 s
	Timeout  time.Duration // 0: 4 s, or the interval when that is shorter

	// Labels go on every series: service, environment, release, instance... Without job and instance those are "fairlead"
	// and the URL's host and port, as in Prometheus. A label that the target sends itself is kept as exported_NAME.
	Labels map[string]string
}

// pool is the one job of the embedded scraper. The limits are there for the target that goes wild: above them its scrape
// fails as a whole, up is 0, and the others do not notice.
const (
	poolName = "fairlead"
	pool     = `
global: {scrape_interval: 5s, scrape_timeout: 4s}
scrape_configs:
  - job_name: ` + poolName + `
    sample_limit: 10000
    body_size_limit: 16MB
    label_limit: 64
    label_name_length_limit: 256
    label_value_length_limit: 2048
    fallback_scrape_protocol: PrometheusText0.0.4
    follow_redirects: false
`
	reloads = 100 * time.Millisecond // how soon new targets are taken; Prometheus takes 5 s
)

// scraper feeds Prometheus's scrape manager.
type scraper struct {
	manager *scrape.Manager
	job     *config.ScrapeConfig
	feed    chan map[string][]*targetgroup.Group

	mu      sync.Mutex // guards what follows
	changed time.Time  // when feed last got something
}

// startScraper runs the manager with no targets. It looks up the machine's name, which is behind the offset that spreads
// scrapes over their interval, so that is not waited for.
func startScraper(db *DB) (*scraper, error) {
	cfg, err := config.Load(pool, db.opt.Log)
	if err != nil {
		return nil, fail.New(fail.Internal, "start the scraper", "%w", err)
	}
	jobs, err := cfg.GetScrapeConfigs()
	if err != nil {
		return nil, fail.New(fail.Internal, "start the scraper", "%w", err)
	}
	m, err := scrape.NewManager(&scrape.Options{DiscoveryReloadInterval: model.Duration(reloads)}, db.opt.Log.With("part", "scrape"), nil, nil, db.tsdb, db.reg)
	if err != nil {
		return nil, fail.New(fail.Internal, "start the scraper", "%w", err)
	}
	s := &scraper{manager: m, job: jobs[0], feed: make(chan map[string][]*targetgroup.Group, 1)}
	db.run(func() {
		if err := m.ApplyConfig(cfg); err != nil {
			db.opt.Log.Error("the scraper does not start", "error", err)
			return
		}
		if err := m.Run(s.feed); err != nil {
			db.opt.Log.Error("the scraper has ended", "error", err)
		}
	})
	return s, nil
}

// stop ends the scraping and waits for it. The manager takes a new set of targets on its own time, and one that it takes
// while it stops would be scraped for ever: so give it that time first.
func (s *scraper) stop() {
	s.mu.Lock()
	rest := time.Until(s.changed.Add(3 * reloads))
	s.mu.Unlock()
	if rest > 0 {
		<-time.After(rest)
	}
	s.manager.Stop()
}

// Targets replaces all targets. Those that stay are not interrupted; the series of those that go end at once. It returns an
// error of kind [fail.Usage] for the first target that cannot be scraped as it is described, and then changes nothing.
func (db *DB) Targets(targets []Target) error {
	groups := make([]*targetgroup.Group, 0, len(targets))
	for i, t := range targets {
		set, err := db.scraper.labels(t)
		if err != nil {
			return fail.New(fail.Usage, "scrape "+t.place(), "%w", err)
		}
		groups = append(groups, &targetgroup.Group{Source: fmt.Sprint(i), Targets: []model.LabelSet{set}})
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return fail.New(fail.Unavailable, "scrape", "the metrics are closed")
	}
	s := db.scraper
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.feed: // an older set that was not taken yet
	default:
	}
	s.feed <- map[string][]*targetgroup.Group{poolName: groups}
	s.changed = time.Now()
	return nil
}

// place names the target in an error, without a password.
func (t Target) place() string {
	u, err := url.Parse(t.URL)
	if err != nil {
		return "a target"
	}
	return u.Redacted()
}

// labels describes a target as discovery does, and checks it as the scraper would: there it would only be a line in the log.
func (s *scraper) labels(t Target) (model.LabelSet, error) {
	u, err := url.Parse(t.URL)
	switch {
	case err != nil:
		return nil, errors.New("the URL cannot be read")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, errors.New("the URL must begin with http:// or https:// and a host")
	case u.User != nil:
		return nil, errors.New("a user or password in the URL would stand in labels and logs")
	}
	interval := t.Interval
	if interval <= 0 {
		interval = time.Duration(s.job.ScrapeInterval)
	}
	timeout := t.Timeout
	if timeout <= 0 {
		timeout = min(time.Duration(s.job.ScrapeTimeout), interval)
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	set := model.LabelSet{
		model.AddressLabel:        model.LabelValue(u.Host),
		model.SchemeLabel:         model.LabelValue(u.Scheme),
		model.MetricsPathLabel:    model.LabelValue(path),
		model.ScrapeIntervalLabel: model.LabelValue(model.Duration(interval).String()),
		model.ScrapeTimeoutLabel:  model.LabelValue(model.Duration(timeout).String()),
	}
	for k, v := range u.Query() {
		set[model.LabelName(model.ParamLabelPrefix+k)] = model.LabelValue(v[0])
	}
	for k, v := range t.Labels {
		if !model.LegacyValidation.IsValidLabelName(k) || strings.HasPrefix(k, "__") {
			return nil, fmt.Errorf("%q is not a label's name", k)
		}
		set[model.LabelName(k)] = model.LabelValue(v)
	}
	_, err = scrape.PopulateLabels(labels.NewBuilder(labels.EmptyLabels()), s.job, set, nil)
	return set, err
}
