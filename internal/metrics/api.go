package metrics

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/util/annotations"
)

// promVersion is the release of the libraries that are linked: v0.N.M of the module is release N.M of major version 3.
// Clients, Grafana first, decide by it what they may ask for.
const promVersion = "3.15.0"

// API serves Prometheus's HTTP API and its health pages, and under /metrics what this room counts of itself.
//
// The handlers are our own over Prometheus's engine: its package web/api/v1 takes 13 MB more, for OpenAPI, remote write and
// OTLP, which an agent without an open port has no use for. What they answer is compared with the real one in test/metrics.
// Not there are the admin API, remote read and write, federation, search, and exemplars, of which none are kept.
func (db *DB) API() http.Handler {
	mux := http.NewServeMux()
	for path, f := range map[string]apiFunc{
		"query":        db.apiQuery,
		"query_range":  db.apiQueryRange,
		"series":       db.apiSeries,
		"labels":       db.apiLabels,
		"format_query": db.apiFormat,
		"query_exemplars": func(*http.Request) (any, annotations.Annotations, error) {
			return []string{}, nil, nil
		},
	} {
		mux.HandleFunc("GET /api/v1/"+path, f.serve)
		mux.HandleFunc("POST /api/v1/"+path, f.serve)
	}
	for path, f := range map[string]apiFunc{
		"label/{name}/values": db.apiLabelValues,
		"metadata":            db.apiMetadata,
		"targets":             db.apiTargets,
		"scrape_pools":        db.apiPools,
		"rules":               db.apiRules,
		"alerts":              db.apiAlerts,
		"alertmanagers":       apiAlertmanagers,
		"status/buildinfo":    apiBuildInfo,
	} {
		mux.HandleFunc("GET /api/v1/"+path, f.serve)
	}
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "Prometheus Server is Healthy.") })
	mux.HandleFunc("GET /-/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "Prometheus Server is Ready.") })
	mux.Handle("GET /metrics", promhttp.HandlerFor(db.reg, promhttp.HandlerOpts{Registry: db.reg}))
	return mux
}

// apiFunc answers one path with what goes under "data", and with what the engine remarks on the query.
type apiFunc func(*http.Request) (any, annotations.Annotations, error)

// maxForm bounds the body of a POST, as a query of this length is none that a person wrote.
const maxForm = 1 << 20

func (f apiFunc) serve(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		sendError(w, badData(fmt.Errorf("error parsing form values: %w", err)))
		return
	}
	data, notes, err := f(r)
	if err != nil {
		sendError(w, err)
		return
	}
	raw, ok := data.(json.RawMessage)
	if !ok {
		if raw, err = json.Marshal(data); err != nil {
			sendError(w, err)
			return
		}
	}
	warnings, infos := notes.AsStrings(r.Form.Get("query"), 10, 10)
	w.Header().Set("Content-Type", "application/json")
	// By hand, for the encoder would go over a long answer again, and write the < and > in it in another way.
	var b bytes.Buffer
	b.WriteString(`{"status":"success","data":`)
	b.Write(raw)
	for _, n := range []struct {
		key   string
		texts []string
	}{{"warnings", warnings}, {"infos", infos}} {
		if len(n.texts) > 0 {
			t, _ := json.Marshal(n.texts) // strings always marshal
			b.WriteString(`,"` + n.key + `":`)
			b.Write(t)
		}
	}
	b.WriteByte('}')
	_, _ = w.Write(b.Bytes()) // the client has gone; there is nobody to tell
}

// apiError is an error with its type on the wire.
type apiError struct {
	kind string
	code int
	err  error
}

func (e *apiError) Error() string { return e.err.Error() }
func (e *apiError) Unwrap() error { return e.err }

func badData(err error) error { return &apiError{"bad_data", http.StatusBadRequest, err} }

func badParam(name string, err error) error {
	return badData(fmt.Errorf("invalid parameter %q: %w", name, err))
}

const clientGone = 499 // nginx's code for a request whose client left, which Prometheus uses too

// classify gives an error of the engine or of the store its type, as Prometheus does.
func classify(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	_, gone := errors.AsType[promql.ErrQueryCanceled](err)
	_, late := errors.AsType[promql.ErrQueryTimeout](err)
	_, disk := errors.AsType[promql.ErrStorage](err)
	switch {
	case gone, errors.Is(err, context.Canceled):
		return &apiError{"canceled", clientGone, err}
	case late:
		return &apiError{"timeout", http.StatusServiceUnavailable, err}
	case disk:
		return &apiError{"internal", http.StatusInternalServerError, err}
	}
	return &apiError{"execution", http.StatusUnprocessableEntity, err}
}

func sendError(w http.ResponseWriter, err error) {
	e := classify(err)
	b, _ := json.Marshal(struct {
		Status string `json:"status"`
		Type   string `json:"errorType"`
		Error  string `json:"error"`
	}{"error", e.kind, e.Error()}) // strings always marshal
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.code)
	_, _ = w.Write(b) // the client has gone; there is nobody to tell
}

// The ends of time in the API: a caller may write them out, although no parser takes years with so many digits.
var (
	minTime = time.Unix(math.MinInt64/1000+62135596801, 0).UTC()
	maxTime = time.Unix(math.MaxInt64/1000-62135596801, 999999999).UTC()
)

// timeParam reads seconds since 1970 or RFC 3339.
func timeParam(r *http.Request, name string, otherwise time.Time) (time.Time, error) {
	s := r.Form.Get(name)
	if s == "" && !otherwise.IsZero() {
		return otherwise, nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		whole, part := math.Modf(f)
		return time.Unix(int64(whole), int64(math.Round(part*1000)/1000*float64(time.Second))).UTC(), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	for _, end := range []time.Time{minTime, maxTime} {
		if s == end.Format(time.RFC3339Nano) {
			return end, nil
		}
	}
	err := fmt.Errorf("cannot parse %q to a valid timestamp", s)
	if !otherwise.IsZero() {
		err = fmt.Errorf("invalid time value for '%s': %w", name, err)
	}
	return time.Time{}, badParam(name, err)
}

// durationParam reads seconds or a Prometheus duration such as 1h30m.
func durationParam(r *http.Request, name string) (time.Duration, error) {
	s := r.Form.Get(name)
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		ns := f * float64(time.Second)
		if math.IsNaN(ns) || math.Abs(ns) >= math.MaxInt64 {
			return 0, badParam(name, fmt.Errorf("cannot parse %q to a valid duration. It overflows int64", s))
		}
		return time.Duration(ns), nil
	}
	if d, err := model.ParseDuration(s); err == nil {
		return time.Duration(d), nil
	}
	return 0, badParam(name, fmt.Errorf("cannot parse %q to a valid duration", s))
}

// limitParam reads how many results are wanted at most; 0 is all of them.
func limitParam(r *http.Request) (int, error) {
	s := r.Form.Get("limit")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err == nil && n < 0 {
		err = errors.New("limit must be non-negative")
	}
	if err != nil {
		return 0, badParam("limit", err)
	}
	return n, nil
}

var errTruncated = errors.New("results truncated due to limit")

// matchers reads the selectors of match[], of which each must ask for something.
func (db *DB) matchers(r *http.Request) ([][]*labels.Matcher, error) {
	sets, err := db.parser.ParseMetricSelectors(r.Form["match[]"])
	if err != nil {
		return nil, err
	}
	for _, set := range sets {
		some := false
		for _, m := range set {
			some = some || !m.Matches("")
		}
		if !some {
			return nil, errors.New("match[] must contain at least one non-empty matcher")
		}
	}
	return sets, nil
}

func apiBuildInfo(*http.Request) (any, annotations.Annotations, error) {
	return map[string]string{
		"version": promVersion, "revision": "", "branch": "", "buildUser": "fairlead", "buildDate": "", "goVersion": runtime.Version(),
	}, nil, nil
}

// apiAlertmanagers says that the engine sends to none: the agent does that itself.
func apiAlertmanagers(*http.Request) (any, annotations.Annotations, error) {
	return map[string][]string{"activeAlertmanagers": {}, "droppedAlertmanagers": {}}, nil, nil
}
