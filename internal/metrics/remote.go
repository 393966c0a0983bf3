package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// maxAnswer is how much of an external Prometheus's answer is read, in bytes.
const maxAnswer = 64 << 20

// remote is an external Prometheus.
type remote struct {
	base   *url.URL
	client *http.Client
}

// Remote returns a Querier that asks the Prometheus at base, which is what stands before /api/v1: http://prometheus:9090, or
// with the prefix under which a Thanos or Mimir offers the same API. A user and password in it are sent, and shown nowhere.
// It returns an error of kind [fail.Usage] when base is not such a URL. The client may be nil; a call without a deadline
// ends after 30 s.
func Remote(base string, client *http.Client) (Querier, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fail.New(fail.Usage, "the external Prometheus", "the address must look like http://HOST:9090")
	}
	if client == nil {
		client = &http.Client{Timeout: 30 * time.Second}
	}
	return &remote{base: u.JoinPath("api/v1"), client: client}, nil
}

// Query implements [Querier].
func (r *remote) Query(ctx context.Context, expr string, at time.Time) ([]Sample, error) {
	d, err := r.ask(ctx, "query", url.Values{"query": {expr}, "time": {seconds(at)}})
	if err != nil {
		return nil, err
	}
	switch d.ResultType {
	case "scalar":
		var p wirePoint
		if err := json.Unmarshal(d.Result, &p); err != nil {
			return nil, r.strange(err)
		}
		return []Sample{{Labels: map[string]string{}, At: p.At, Value: p.Value}}, nil
	case "vector":
		var v []struct {
			Metric    map[string]string
			Value     wirePoint
			Histogram json.RawMessage
		}
		if err := json.Unmarshal(d.Result, &v); err != nil {
			return nil, r.strange(err)
		}
		out := make([]Sample, 0, len(v))
		for _, s := range v {
			if s.Histogram != nil {
				return nil, badExpr(expr, errNative)
			}
			out = append(out, Sample{Labels: s.Metric, At: s.Value.At, Value: s.Value.Value})
		}
		return out, nil
	}
	return nil, badExpr(expr, errors.New("the answer is a "+d.ResultType+", not a number for each series"))
}

// Range implements [Querier].
func (r *remote) Range(ctx context.Context, expr string, span Span) ([]Series, error) {
	if err := span.check(); err != nil {
		return nil, badExpr(expr, err)
	}
	d, err := r.ask(ctx, "query_range", url.Values{
		"query": {expr}, "start": {seconds(span.From)}, "end": {seconds(span.To)},
		"step": {strconv.FormatFloat(span.Step.Seconds(), 'f', -1, 64)},
	})
	if err != nil {
		return nil, err
	}
	var m []struct {
		Metric     map[string]string
		Values     []wirePoint
		Histograms json.RawMessage
	}
	if err := json.Unmarshal(d.Result, &m); err != nil {
		return nil, r.strange(err)
	}
	out := make([]Series, 0, len(m))
	for _, s := range m {
		if s.Histograms != nil {
			return nil, badExpr(expr, errNative)
		}
		one := Series{Labels: s.Metric, Points: make([]Point, len(s.Values))}
		for i, p := range s.Values {
			one.Points[i] = Point(p)
		}
		out = append(out, one)
	}
	return out, nil
}

// answer is what stands in the envelope of Prometheus's HTTP API.
type answer struct {
	ResultType string
	Result     json.RawMessage
}

// ask posts a query, as long ones do not fit into a URL. What Prometheus does not understand is of kind [fail.Usage]; when it
// does not answer, or not with JSON, [fail.Unavailable].
func (r *remote) ask(ctx context.Context, path string, form url.Values) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base.JoinPath(path).String(), strings.NewReader(form.Encode()))
	if err != nil {
		return answer{}, r.away(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := r.client.Do(req)
	if err != nil {
		return answer{}, r.away(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, r.away(err)
	}
	if len(body) > maxAnswer {
		return answer{}, fail.New(fail.Unavailable, "query "+form.Get("query"), "the answer is longer than %d MiB", maxAnswer>>20)
	}
	var env struct {
		Status, ErrorType, Error string
		Data                     answer
	}
	if err := json.Unmarshal(body, &env); err != nil {
		return answer{}, r.strange(fmt.Errorf("%s: %w", resp.Status, err))
	}
	switch {
	case env.Status == "success":
		return env.Data, nil
	case env.ErrorType == "bad_data" || env.ErrorType == "execution":
		return answer{}, badExpr(form.Get("query"), errors.New(env.Error))
	}
	return answer{}, r.away(fmt.Errorf("%s: %s", env.ErrorType, env.Error))
}

func (r *remote) away(err error) error {
	return fail.New(fail.Unavailable, "ask "+r.base.Redacted(), "%w", err).Hinted("is the Prometheus there, and reachable from this machine?")
}

func (r *remote) strange(err error) error {
	return fail.New(fail.Unavailable, "ask "+r.base.Redacted(), "this is not a Prometheus's answer: %w", err)
}

// seconds writes a time as the API takes it, seconds since 1970 to the millisecond.
func seconds(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

// wirePoint is [1735689600.123, "42"]: the value is text because JSON has no NaN and no infinity.
type wirePoint Point

// UnmarshalJSON implements [json.Unmarshaler].
func (p *wirePoint) UnmarshalJSON(b []byte) error {
	var at float64
	var v string
	if err := json.Unmarshal(b, &[2]any{&at, &v}); err != nil {
		return err
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return err
	}
	*p = wirePoint{At: time.UnixMilli(int64(at*1000 + 0.5)), Value: f}
	return nil
}
