// Package metrics_test holds the embedded Prometheus against the real one: Debian's promtool asks the agent's API and checks
// its rules, and Debian's prometheus answers the same queries on the same samples.
package metrics_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/metrics"
	"github.com/fairlead-dev/fairlead/test/rig"
)

func promtool(t *testing.T, args ...string) string {
	t.Helper()
	out, err := rig.Command(t, t.TempDir(), nil, rig.Tool(t, "promtool", "prometheus"), args...) // "debug" leaves an archive where it runs
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func open(t testing.TB, o metrics.Options) *metrics.DB {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "metrics")
	}
	db, err := metrics.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// TestPromtoolAsksTheAgent is Debian's client against the agent's API.
func TestPromtoolAsksTheAgent(t *testing.T) {
	db := open(t, metrics.Options{})
	db.Source("test", 100*time.Millisecond, func(_ context.Context, r *metrics.Round) error {
		r.Counter("orders_total", 42, "service", "shop", "release", "7")
		r.Counter("orders_total", 8, "service", "pay", "release", "2")
		return nil
	})
	srv := httptest.NewServer(db.API())
	defer srv.Close()
	rig.Eventually(t, 10*time.Second, "samples", func() bool {
		got, err := db.Query(t.Context(), "orders_total", time.Now())
		return err == nil && len(got) == 2
	})
	if got := promtool(t, "query", "instant", srv.URL, "sum(orders_total)"); !strings.Contains(got, "{} => 50 @[") {
		t.Errorf("instant: %s", got)
	}
	now := time.Now().Unix()
	if got := promtool(t, "query", "range", "--start", fmt.Sprint(now-60), "--end", fmt.Sprint(now+1), "--step", "1s", srv.URL, `orders_total{service="pay"}`); !strings.Contains(got, `orders_total{release="2", service="pay"} =>`) || !strings.Contains(got, "8 @[") {
		t.Errorf("range: %s", got)
	}
	if got := promtool(t, "query", "series", "--match", `orders_total{service="shop"}`, srv.URL); strings.TrimSpace(got) != `{__name__="orders_total", release="7", service="shop"}` {
		t.Errorf("series: %s", got)
	}
	if got := promtool(t, "query", "labels", srv.URL, "service"); got != "pay\nshop\n" {
		t.Errorf("labels: %q", got)
	}
	for _, path := range []string{"/-/healthy", "/-/ready"} {
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	if out := promtool(t, "debug", "metrics", srv.URL); strings.Contains(strings.ToLower(out), "error") {
		t.Errorf("its own /metrics: %s", out)
	}
	tool := rig.Tool(t, "promtool", "prometheus")
	if out, err := rig.Command(t, "", nil, tool, "query", "instant", srv.URL, "sum("); err == nil || !strings.Contains(err.Error(), "bad_data") {
		t.Errorf("a broken query: %s %v", out, err)
	}
}

// TestPromtoolChecksTheRules has the rules that come with fairlead read by Debian's Prometheus, which is three years older.
func TestPromtoolChecksTheRules(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fairlead.yaml")
	if err := os.WriteFile(file, metrics.BuiltinRules, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := promtool(t, "check", "rules", "--lint=all", "--lint-fatal", file); !strings.Contains(out, "SUCCESS: 8 rules found") {
		t.Errorf("%s", out)
	}
	unit := filepath.Join(filepath.Dir(file), "unit.yaml")
	if err := os.WriteFile(unit, []byte(fmt.Sprintf(`
rule_files: [%s]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {series: 'fairlead_instance_up{service="shop",environment="production",release="4",instance="1"}', values: '1x4 0x40'}
    alert_rule_test:
      - {eval_time: 3m, alertname: FairleadServiceDown}
      - eval_time: 3m30s
        alertname: FairleadServiceDown
        exp_alerts:
          - exp_labels: {severity: critical, service: shop, environment: production}
            exp_annotations:
              summary: "shop (production) has no instance that is ready"
              description: "Not one of its instances has been ready for 2 minutes. See `+"`fairlead logs shop`"+`."
`, file)), 0o644); err != nil {
		t.Fatal(err)
	}
	promtool(t, "test", "rules", unit)
}

// samples is what both databases hold, as OpenMetrics: numbers that are hard to write, labels that are hard to quote, a
// counter that restarts, a histogram, and a series that ends.
func samples(from int64) string {
	var b strings.Builder
	b.WriteString("# TYPE orders counter\n")
	for i := range int64(120) {
		n := i
		if i >= 60 {
			n = i - 60
		}
		fmt.Fprintf(&b, "orders_total{service=\"shop\"} %d %d\n", n*3, from+15*i)
	}
	for i := range int64(40) {
		fmt.Fprintf(&b, "orders_total{service=\"pay\"} %d %d\n", n2(i), from+15*i)
	}
	b.WriteString("# TYPE odd gauge\n")
	for i, v := range []string{"NaN", "+Inf", "-Inf", "1e-9", "1e+21", "123456789.125", "-0", "0.1"} {
		fmt.Fprintf(&b, "odd{i=\"%d\",q=\"<a> \\\"b\\\" \\\\ ☃ é\"} %s %d.125\n", i, v, from+600)
	}
	b.WriteString("# TYPE wait histogram\n")
	for _, le := range []string{"0.1", "1.0", "5.0", "+Inf"} {
		for i := range int64(120) {
			fmt.Fprintf(&b, "wait_bucket{le=%q} %d %d\n", le, i*int64(len(le)*len(le)), from+15*i)
		}
	}
	b.WriteString("# EOF\n")
	return b.String()
}

func n2(i int64) int64 { return i * i }

// TestTheSameAnswersAsPrometheus has promtool make blocks, and the real Prometheus and the embedded one open a copy each.
func TestTheSameAnswersAsPrometheus(t *testing.T) {
	prometheus := rig.Tool(t, "prometheus", "prometheus")
	dir := t.TempDir()
	// No sample stands exactly at the edge of a range: since version 3 its beginning is not part of it any more.
	from := time.Now().Add(-5*time.Hour).Truncate(time.Hour).Unix() + 7
	text, blocks, copied := filepath.Join(dir, "samples.txt"), filepath.Join(dir, "theirs"), filepath.Join(dir, "ours")
	if err := os.WriteFile(text, []byte(samples(from)), 0o644); err != nil {
		t.Fatal(err)
	}
	promtool(t, "tsdb", "create-blocks-from", "openmetrics", text, blocks)
	if err := os.CopyFS(copied, os.DirFS(blocks)); err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(dir, "rules.yaml")
	if err := os.WriteFile(rules, metrics.BuiltinRules, 0o644); err != nil {
		t.Fatal(err)
	}
	theirs := startPrometheus(t, prometheus, blocks, rules)
	db := open(t, metrics.Options{Dir: copied})
	srv := httptest.NewServer(db.API())
	defer srv.Close()
	end := from + 15*119 + 1
	at := func(expr string, t int64) string {
		return "query?" + url.Values{"query": {expr}, "time": {fmt.Sprint(t)}}.Encode()
	}
	over := func(expr, step string) string {
		return "query_range?" + url.Values{"query": {expr}, "start": {fmt.Sprint(from + 2)}, "end": {fmt.Sprint(end)}, "step": {step}}.Encode()
	}
	same := []string{
		at("orders_total", end), at("orders_total", from+301), at("odd", from+601), at("1 / 3", end), at(`"text <&> é"`, end), at("none", end), at("vector(1)", from),
		at("orders_total[1m]", from+301), at("sum without (service) (rate(orders_total[5m]))", from+901), at("histogram_quantile(0.95, rate(wait_bucket[5m]))", end),
		at("topk(1, orders_total)", from+301), at("label_replace(orders_total, \"x\", \"$1\", \"service\", \"(.).*\")", from+301),
		over("orders_total", "60"), over("rate(orders_total[2m])", "1m30s"), over("odd", "15"), over("none", "60"), over("scalar(sum(orders_total))", "300"),
		over("sum by (service) (increase(orders_total[10m] offset 1m))", "47.5"), over("max_over_time(rate(orders_total[1m])[5m:30s])", "60"),
		"series?match[]=orders_total", `series?match[]=odd&match[]={service="pay"}`, "series?match[]=none",
		"labels", "labels?match[]=orders_total", "label/service/values", "label/__name__/values", "label/none/values", "label/service/values?match[]={service=~\"p.*\"}",
		"query?query=orders_total&time=" + time.Unix(from+300, 0).UTC().Format(time.RFC3339),
		"format_query?query=sum(rate(x%5B5m%5D))by(y)",
	}
	for _, q := range same {
		a, codeA := get(t, theirs, q)
		b, codeB := get(t, srv.URL, q)
		if codeA != 200 || codeB != 200 || !sameJSON(t, a, b) {
			t.Errorf("%s\nprometheus %d %.600s\nembedded   %d %.600s", q, codeA, a, codeB, b)
		}
	}
	for _, q := range []string{ // refused by both, with the same code and type; the words have changed in three years
		"query?query=sum(", "query?query=x&time=yesterday", "query_range?query=x&start=0&end=1&step=0", "query_range?query=x&start=2&end=1&step=1",
		"query_range?query=x&start=0&end=100000&step=1", "query_range?query=x&end=1&step=1", "series", "series?match[]={}", "label/a%20b%ff/values", "query?query=x&timeout=long",
		"query?query=orders_total%2Bon()odd&time=" + fmt.Sprint(from+601),
	} {
		a, codeA := get(t, theirs, q)
		b, codeB := get(t, srv.URL, q)
		if codeA != codeB || codeA == 200 || kind(t, a) != kind(t, b) {
			t.Errorf("%s\nprometheus %d %.300s\nembedded   %d %.300s", q, codeA, a, codeB, b)
		}
	}
	if err := db.Rules(nil); err != nil {
		t.Fatal(err)
	}
	for path, unknown := range map[string][]string{"rules": {"keepFiringFor"}, "alerts": nil, "alertmanagers": nil, "targets": {"droppedTargetCounts"}, "status/buildinfo": nil} {
		a, _ := get(t, theirs, path)
		b, _ := get(t, srv.URL, path)
		if ka, kb := shape(t, a, unknown), shape(t, b, unknown); !reflect.DeepEqual(ka, kb) {
			t.Errorf("%s has another shape:\nprometheus %v\nembedded   %v", path, ka, kb)
		}
	}
}

// sameJSON compares what is said, not how < is quoted, which Debian's Prometheus does in the way of older versions.
func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(json.Unmarshal([]byte(a), &x), json.Unmarshal([]byte(b), &y)); err != nil {
		t.Error(err)
	}
	return reflect.DeepEqual(x, y)
}

func kind(t *testing.T, body string) string {
	t.Helper()
	var e struct{ Status, ErrorType, Error string }
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.Error == "" {
		t.Errorf("not an error: %s", body)
	}
	return e.Status + " " + e.ErrorType
}

// shape lists the keys of an answer with their types, without those that Debian's Prometheus does not know yet.
func shape(t *testing.T, body string, unknown []string) map[string]bool {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	out := map[string]bool{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				skip := strings.HasSuffix(path, "labels") || strings.HasSuffix(path, "annotations")
				for _, u := range unknown {
					skip = skip || k == u
				}
				if !skip {
					walk(path+"."+k, x)
				}
			}
			return
		case []any:
			for _, x := range v {
				walk(path+"[]", x)
			}
		}
		out[fmt.Sprintf("%s %T", path, v)] = true
	}
	walk("", v)
	return out
}

func get(t *testing.T, base, path string) (string, int) {
	t.Helper()
	resp, err := http.Get(base + "/api/v1/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), resp.StatusCode
}

// startPrometheus runs Debian's Prometheus on a folder of blocks until the test ends.
func startPrometheus(t *testing.T, program, data, rules string) string {
	t.Helper()
	addr := rig.Free(t)
	conf := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(conf, []byte("rule_files: ["+rules+"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd := exec.Command(program, "--config.file="+conf, "--storage.tsdb.path="+data, "--web.listen-address="+addr, "--storage.tsdb.retention.time=10y", "--log.level=warn")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	rig.Eventually(t, 30*time.Second, "prometheus answers", func() bool {
		resp, err := http.Get("http://" + addr + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return "http://" + addr
}

// TestRemoteIsARealPrometheus asks Debian's Prometheus through the same interface as the embedded one.
func TestRemoteIsARealPrometheus(t *testing.T) {
	dir := t.TempDir()
	from := time.Now().Add(-5 * time.Hour).Truncate(time.Hour).Unix()
	text, blocks := filepath.Join(dir, "samples.txt"), filepath.Join(dir, "theirs")
	if err := os.WriteFile(text, []byte(samples(from)), 0o644); err != nil {
		t.Fatal(err)
	}
	promtool(t, "tsdb", "create-blocks-from", "openmetrics", text, blocks)
	rules := filepath.Join(dir, "none.yaml")
	if err := os.WriteFile(rules, []byte("groups: []\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	q, err := metrics.Remote(startPrometheus(t, rig.Tool(t, "prometheus", "prometheus"), blocks, rules), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := q.Query(t.Context(), "sum by (service) (orders_total)", time.Unix(from+300, 0))
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	for _, s := range got {
		if want := map[string]float64{"shop": 60, "pay": 400}[s.Labels["service"]]; s.Value != want || s.At.Unix() != from+300 {
			t.Errorf("%+v, want %v", s, want)
		}
	}
	all, err := q.Range(t.Context(), `orders_total{service="shop"}`, metrics.Span{From: time.Unix(from, 0), To: time.Unix(from+60, 0), Step: 15 * time.Second})
	if err != nil || len(all) != 1 || len(all[0].Points) != 5 || all[0].Points[4].Value != 12 {
		t.Errorf("%+v %v", all, err)
	}
}
