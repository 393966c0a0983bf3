//go:build unix

package edge_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// moment is how long an attacked proxy may take for what it should do at once. It is waited out only where one is silent.
const moment = 5 * time.Second

// startEdge runs an edge with a table of its own until the test ends, and returns the folder that it keeps its things in.
func startEdge(t testing.TB, table edge.Table) (dir string) {
	t.Helper()
	// The name is short since the path of a unix socket may not have more than about 100 bytes.
	dir, err := os.MkdirTemp("", "ea")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, end, err := openEdge(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	if _, err := s.Set(table); err != nil {
		t.Fatal(err)
	}
	return dir
}

// openEdge starts an edge that keeps its things in dir.
func openEdge(dir string) (*edge.Server, func(), error) {
	d := home.Dirs{State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r")}
	if err := d.Make(); err != nil {
		return nil, nil, err
	}
	lock, err := keeper.Hold(d, home.Edge)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := edge.Start(ctx, edge.Options{Dirs: d, Version: "test", Log: slog.New(slog.DiscardHandler), Lock: lock})
	if err != nil {
		cancel()
		return nil, nil, errors.Join(err, lock.Close())
	}
	return s, func() {
		cancel()
		s.Shut(0)
		lock.Close()
	}, nil
}

// shop is a route on which one instance gets every host's requests.
func shop(listen, instance string) edge.Route {
	return edge.Route{Service: "shop", Environment: "prod", Listen: listen,
		Backends: []edge.Backend{{Release: 1, Weight: 100, Endpoints: []edge.Endpoint{{Instance: 1, Addr: instance}}}}}
}

// front is a proxy under attack, and the instance behind it.
type front struct {
	addr string
	rec  *recorder
}

// ours is an edge of ours as a front.
func ours(t testing.TB) front {
	t.Helper()
	f := front{fmt.Sprintf("127.0.0.1:%d", rig.FreePorts(t, 1)[0]), newRecorder(t)}
	startEdge(t, edge.Table{Routes: []edge.Route{shop(f.addr, f.rec.addr)}})
	return f
}

// verdict is what became of an attack.
type verdict struct {
	statuses []int
	answered []string // the requests that the instance said its answers are for
	silent   bool     // neither an answer nor the end of the connection came
	arrivals []arrival
	other    error // what kept an innocent client on a connection of its own from its answer
}

// whole returns the requests that arrived to the end.
func (v verdict) whole() (out []string) {
	for _, a := range v.arrivals {
		if a.whole {
			out = append(out, a.what())
		}
	}
	return out
}

// accepted reports whether the first request of the attack got through.
func (v verdict) accepted(id string) bool {
	return slices.ContainsFunc(v.arrivals, func(a arrival) bool { return a.whole && strings.Contains(a.line, "/c"+id) })
}

// attack sends what the case says, with an innocent request behind it in the same write, and then lets another client ask.
func (f front) attack(t testing.TB, c attack, id string) verdict {
	t.Helper()
	v, from := verdict{}, f.rec.len()
	after := "GET /after" + id
	conn := dial(t, f.addr)
	send := strings.ReplaceAll(c.send, "~", id)
	if !c.alone {
		send += after + " HTTP/1.1\r\nHost: a\r\n\r\n"
	}
	// An error here means that the proxy has had enough already: then it shows in what is read.
	if _, err := io.WriteString(conn, send); err == nil && c.alone {
		conn.(*net.TCPConn).CloseWrite()
	}
	last := func(line string) bool { return strings.HasSuffix(line, after) }
	for r := bufio.NewReader(conn); !slices.ContainsFunc(v.answered, last); {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			v.silent = errors.Is(err, os.ErrDeadlineExceeded)
			break
		}
		if res.StatusCode < 200 {
			continue
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			v.silent = errors.Is(err, os.ErrDeadlineExceeded)
			break
		}
		v.statuses = append(v.statuses, res.StatusCode)
		if got := res.Header.Get("X-Got"); got != "" {
			v.answered = append(v.answered, got)
		}
	}
	conn.Close()
	v.other = f.innocent(t, "GET /other"+id)
	for _, a := range f.rec.since(from) {
		// What an attack before this one began may come only now: it is found by its number.
		if n := number.FindStringSubmatch(a.line); a.line != "GET /other"+id && (n == nil || n[1] == id) {
			v.arrivals = append(v.arrivals, a)
		}
	}
	return v
}

// number is the mark of a case in the requests it is made of.
var number = regexp.MustCompile(`/(?:c|after|hidden)(\d{3})`)

// innocent is a client that never did anything wrong and wants its own answer.
func (f front) innocent(t testing.TB, line string) error {
	t.Helper()
	conn := dial(t, f.addr)
	defer conn.Close()
	if _, err := io.WriteString(conn, line+" HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if got := res.Header.Get("X-Got"); res.StatusCode != http.StatusOK || got != line {
		return fmt.Errorf("%s was answered %s for %q", line, res.Status, got)
	}
	return nil
}

// dial opens a connection on which nothing takes longer than a moment.
func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(moment)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// judge reports what of a verdict breaks the promise: the instance sees nothing that the client did not send, and what it sees
// can be read in one way only.
func judge(c attack, id string, v verdict) (wrong []string) {
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	var want []string
	for _, r := range c.reads {
		want = append(want, strings.ReplaceAll(r, "~", id))
	}
	got := v.whole()
	allowed := want
	if !c.closes && !c.alone {
		allowed = append(slices.Clone(want), "GET /after"+id+"|")
	}
	if len(got) > len(allowed) || !slices.Equal(got, allowed[:len(got)]) {
		complain("these arrived: %q, where %q may", short(got), short(allowed))
	}
	if c.valid && len(got) < len(want) {
		complain("only these arrived: %q of %q", short(got), short(want))
	}
	for _, a := range v.arrivals {
		switch {
		case a.wrong != "":
			complain("a head that can be read in two ways arrived: %s", a.wrong)
		case !a.whole && !c.broken:
			complain("the beginning of a request arrived: %.200q", a.head)
		case a.host != c.wantHost() && c.host != anyHost && !strings.HasPrefix(a.line, "GET /after"):
			complain("it arrived for the host %q, want %q", a.host, c.wantHost())
		}
		if t := strings.ToLower("\n" + a.trailer); strings.Contains(t, "\ncontent-length") || strings.Contains(t, "\ntransfer-encoding") || strings.Contains(t, "\nhost") || strings.Contains(t, " :") {
			complain("this trailer arrived: %q", a.trailer)
		}
	}
	if len(v.answered) > len(got) {
		complain("%d answers to %d requests", len(v.answered), len(got))
	}
	for i, line := range v.answered {
		if i < len(got) && !strings.HasPrefix(got[i], line+"|") {
			complain("answer %d is for %q", i, line)
		}
	}
	for _, s := range v.statuses {
		if s != 200 && s/100 != 4 && s != 501 && s != 505 {
			complain("answered %d", s)
		}
	}
	if v.silent {
		complain("no answer and no end within %s", moment)
	}
	if v.other != nil {
		complain("another client: %v", v.other)
	}
	return wrong
}

func short(s []string) (out []string) {
	for _, x := range s {
		out = append(out, x[:min(len(x), 120)])
	}
	return out
}

// Nobody smuggles a request past the edge.
func TestAttackSmuggling(t *testing.T) {
	f := ours(t)
	all := corpus()
	if len(all) < 100 {
		t.Fatalf("only %d attacks", len(all))
	}
	var forwarded int
	for i, c := range all {
		id := fmt.Sprintf("%03d", i)
		v := f.attack(t, c, id)
		wrong := judge(c, id, v)
		if v.accepted(id) {
			forwarded++
		}
		if len(wrong) > 0 {
			t.Errorf("%s: %s\nstatuses %v", c.name, strings.Join(wrong, "\n  "), v.statuses)
		}
	}
	// Nothing may turn up late, either.
	for i, c := range all {
		v := verdict{}
		for _, a := range f.rec.since(0) {
			if n := number.FindStringSubmatch(a.line); n != nil && n[1] == fmt.Sprintf("%03d", i) {
				v.arrivals = append(v.arrivals, a)
			}
		}
		if c.valid = false; len(judge(c, fmt.Sprintf("%03d", i), v)) > 0 {
			t.Errorf("%s: in the end there were %q", c.name, short(v.whole()))
		}
	}
	t.Logf("%d attacks, of which %d reached the instance in their one reading and %d were refused", len(all), forwarded, len(all)-forwarded)
}
