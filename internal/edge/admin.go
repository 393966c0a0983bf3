package edge

import (
	"context"
	"net/http"
	"os"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fairlead-dev/fairlead/internal/certs"
	"github.com/fairlead-dev/fairlead/internal/rpc"
)

// Info says which edge answers.
type Info struct {
	PID        int    `json:"pid"`
	Version    string `json:"version"`
	Generation uint64 `json:"generation"` // of the routing table in force
}

// Client calls a machine's edge.
type Client struct{ c *rpc.Client }

// NewClient makes a client of the edge behind sock.
func NewClient(sock string) *Client { return &Client{rpc.NewClient(sock)} }

// Set puts a table in force; see Server.Set. It returns the generation under which it is.
func (c *Client) Set(ctx context.Context, t Table) (uint64, error) {
	var i Info
	err := c.c.Call(ctx, http.MethodPut, "/v1/table", t, &i)
	return i.Generation, err
}

// Certificates are those of the routes in force.
type Certificates struct {
	All       []certs.Certificate `json:"certificates"`
	LocalRoot string              `json:"local_root,omitempty"` // the machine's own authority in PEM, where a route has certificates of it
}

// Certificates returns what the edge serves TLS with.
func (c *Client) Certificates(ctx context.Context) (Certificates, error) {
	var out Certificates
	err := c.c.Call(ctx, http.MethodGet, "/v1/certificates", nil, &out)
	return out, err
}

// Table returns the table in force.
func (c *Client) Table(ctx context.Context) (Table, error) {
	var t Table
	err := c.c.Call(ctx, http.MethodGet, "/v1/table", nil, &t)
	return t, err
}

// Info returns which edge answers.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var i Info
	err := c.c.Call(ctx, http.MethodGet, "/v1/info", nil, &i)
	return i, err
}

// MetricsHandler serves the counters in Prometheus's text format.
func MetricsHandler(st *Stats) http.Handler {
	return promhttp.HandlerFor(Gatherer(st), promhttp.HandlerOpts{})
}

// Gatherer collects the counters.
func Gatherer(st *Stats) prometheus.Gatherer {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collector{st})
	return reg
}

// collector reads the mapped counters at each scrape. The names follow Prometheus's conventions: base units, _total.
type collector struct{ st *Stats }

var (
	labels       = []string{"service", "environment", "release", "instance"}
	descRequests = prometheus.NewDesc("fairlead_edge_requests_total", "Requests that ended, by class of their status; 0xx has none: no answer came, or it was a connection that is passed on as it is.", append(labels, "class"), nil)
	descFailed   = prometheus.NewDesc("fairlead_edge_failures_total", "Requests answered 5xx, undeliverable or broken off.", labels, nil)
	descUndone   = prometheus.NewDesc("fairlead_edge_undelivered_total", "Requests that no instance answered whole.", labels, nil)
	descAborted  = prometheus.NewDesc("fairlead_edge_aborted_total", "Requests whose client went away first.", labels, nil)
	descRefused  = prometheus.NewDesc("fairlead_edge_refused_total", "Requests that a limit of the route kept from the instances.", []string{"service", "environment"}, nil)
	descUnlogged = prometheus.NewDesc("fairlead_edge_access_log_dropped_total", "Lines of the access log that were dropped, as the disk did not take them.", []string{"service", "environment"}, nil)
	descCached   = prometheus.NewDesc("fairlead_edge_cached_total", "Requests that were answered out of the edge's memory, fresh or stale; no instance counts them.", []string{"service", "environment"}, nil)
	descRetried  = prometheus.NewDesc("fairlead_edge_retries_total", "Tries that failed and were repeated.", labels, nil)
	descBytes    = prometheus.NewDesc("fairlead_edge_response_bytes_total", "Bytes of response bodies.", labels, nil)
	descOpen     = prometheus.NewDesc("fairlead_edge_open_requests", "Requests under way.", labels, nil)
	descLatency  = prometheus.NewDesc("fairlead_edge_request_duration_seconds", "From a request's arrival to the end of its answer.", labels, nil)
)

// Describe implements [prometheus.Collector]; sending nothing makes it an unchecked one, whose label sets come and go.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c collector) Collect(ch chan<- prometheus.Metric) {
	for _, r := range c.st.Read() {
		if r.Release == 0 && r.Counts.Refused > 0 {
			ch <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, float64(r.Counts.Refused), r.Service, r.Environment)
		}
		if r.Release == 0 && r.Counts.Unlogged > 0 {
			ch <- prometheus.MustNewConstMetric(descUnlogged, prometheus.CounterValue, float64(r.Counts.Unlogged), r.Service, r.Environment)
		}
		if r.Release == 0 && r.Counts.Cached > 0 {
			ch <- prometheus.MustNewConstMetric(descCached, prometheus.CounterValue, float64(r.Counts.Cached), r.Service, r.Environment)
		}
		if r.Release == 0 && r.Counts.Unplaced == 0 {
			continue // everything a route counts is in its instances, but for requests that found none
		}
		l := []string{r.Service, r.Environment, strconv.Itoa(r.Release), strconv.Itoa(r.Instance)}
		if r.Release == 0 {
			// Only those: with the others a sum over all releases would count them twice. In all three, for the error rate of
			// a service that has no instance at all is 1.
			lost := float64(r.Counts.Unplaced)
			ch <- prometheus.MustNewConstMetric(descRequests, prometheus.CounterValue, lost, append(l, "5xx")...)
			ch <- prometheus.MustNewConstMetric(descFailed, prometheus.CounterValue, lost, l...)
			ch <- prometheus.MustNewConstMetric(descUndone, prometheus.CounterValue, lost, l...)
			continue
		}
		counter := func(d *prometheus.Desc, v uint64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), l...)
		}
		for class, n := range r.Counts.Classes {
			ch <- prometheus.MustNewConstMetric(descRequests, prometheus.CounterValue, float64(n), append(l[:len(l):len(l)], strconv.Itoa(class)+"xx")...)
		}
		counter(descFailed, r.Counts.Failed)
		counter(descUndone, r.Counts.Undone)
		counter(descAborted, r.Counts.Aborted)
		counter(descRetried, r.Counts.Retried)
		counter(descBytes, r.Counts.Bytes)
		ch <- prometheus.MustNewConstMetric(descOpen, prometheus.GaugeValue, float64(r.Counts.Open), l...)
		count, buckets := promBuckets(r.Counts)
		ch <- prometheus.MustNewConstHistogram(descLatency, count, float64(r.Counts.Nanos)/1e9, buckets, l...)
	}
}

// promBuckets folds the fine histogram into one bucket for each doubling.
func promBuckets(c Counts) (uint64, map[float64]uint64) {
	var sum uint64
	out := map[float64]uint64{}
	for i, n := range c.Hist {
		sum += n
		if i%subBuckets == 0 {
			out[bucketEnd(i).Seconds()] = sum
		}
	}
	return sum, out
}

// info describes this process.
func info(version string, generation uint64) Info {
	return Info{PID: os.Getpid(), Version: version, Generation: generation}
}
