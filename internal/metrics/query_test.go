package metrics

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// TestQueriersAgree asks the database itself and the same database over HTTP.
func TestQueriersAgree(t *testing.T) {
	db := open(t, Options{})
	db.write(t, 61, time.Second, func(i int, r *Round) {
		for _, s := range []string{"shop", "pay"} {
			r.Counter("requests_total", float64(i*(len(s))), "service", s, "odd", `<"\`+"\n\t☃>")
		}
		r.Gauge("nan", math.NaN())
		r.Gauge("inf", math.Inf(-1))
		r.Gauge("tiny", 1e-9)
	})
	srv := httptest.NewServer(db.API())
	defer srv.Close()
	client := srv.Client()
	defer client.CloseIdleConnections()
	far, err := Remote(srv.URL+"/", client)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().Truncate(time.Millisecond)
	for _, expr := range []string{"requests_total", "sum(rate(requests_total[30s]))", "1+1", "nan", "inf", "tiny", "none", "time()"} {
		a, err := db.Query(t.Context(), expr, at)
		b, err2 := far.Query(t.Context(), expr, at)
		if err = errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if expr != "none" && len(a) == 0 || !reflect.DeepEqual(printable(a), printable(b)) {
			t.Errorf("%s: %v and %v", expr, a, b)
		}
		span := Span{at.Add(-time.Minute), at, 7 * time.Second}
		x, err := db.Range(t.Context(), expr, span)
		y, err2 := far.Range(t.Context(), expr, span)
		if err = errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if expr != "none" && len(x) == 0 || fmt.Sprint(x) != fmt.Sprint(y) {
			t.Errorf("%s: %v and %v", expr, x, y)
		}
	}
	for _, q := range []Querier{db, far} {
		for _, expr := range []string{"sum(", "nosuchfunction(x)", `"text"`, "requests_total[1m]"} {
			if _, err := q.Query(t.Context(), expr, at); fail.KindOf(err) != fail.Usage {
				t.Errorf("%T %s: %v", q, expr, err)
			}
		}
		for _, s := range []Span{{at, at.Add(-1), time.Second}, {at, at, 0}, {at.Add(-time.Hour), at, time.Millisecond}} {
			if _, err := q.Range(t.Context(), "1", s); fail.KindOf(err) != fail.Usage {
				t.Errorf("%T %v: %v", q, s, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := q.Query(ctx, "requests_total", at); fail.KindOf(err) != fail.Unavailable {
			t.Errorf("%T with a context that is over: %v", q, err)
		}
	}
}

// printable makes NaN equal to itself.
func printable(all []Sample) []string {
	var out []string
	for _, s := range all {
		out = append(out, fmt.Sprint(s.Labels, s.At.UnixMilli(), s.Value))
	}
	return out
}

func TestQueryLimits(t *testing.T) {
	db := open(t, Options{MaxSamples: 1000})
	db.write(t, 2, time.Second, func(_ int, r *Round) {
		for i := range 1200 {
			r.Gauge("wide", 1, "i", fmt.Sprint(i))
		}
	})
	_, err := db.Query(t.Context(), "wide", time.Now())
	if fail.KindOf(err) != fail.Unavailable || !strings.Contains(err.Error(), "too many samples") {
		t.Errorf("too many samples: %v", err)
	}
	db = open(t, Options{QueryTimeout: 50 * time.Millisecond})
	for range maxQueries { // others that do not end
		if _, err := db.slots.Insert(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.Query(t.Context(), "1", time.Now()); fail.KindOf(err) != fail.Unavailable {
		t.Errorf("behind %d others: %v", maxQueries, err)
	}
}

func TestRemoteThatIsNone(t *testing.T) {
	for _, bad := range []string{"", "prometheus:9090", "ftp://x", "http://"} {
		if _, err := Remote(bad, nil); fail.KindOf(err) != fail.Usage {
			t.Errorf("%q: %v", bad, err)
		}
	}
	answer := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
	q, err := Remote(strings.Replace(srv.URL, "http://", "http://u:secret@", 1), srv.Client())
	if err != nil {
		t.Fatal(err)
	}
	for _, answer = range []string{
		"", "<html>", `{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"x"]}]}}`,
		`{"status":"success","data":{"resultType":"vector","result":3}}`, `{"status":"error","errorType":"internal","error":"disk"}`,
	} {
		if _, err := q.Query(t.Context(), "up", time.Now()); fail.KindOf(err) != fail.Unavailable || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", answer, err)
		}
	}
	srv.Close()
	if _, err := q.Query(t.Context(), "up", time.Now()); fail.KindOf(err) != fail.Unavailable || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody there: %v", err)
	}
}
