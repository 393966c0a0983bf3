package supervise

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

// prober asks addr as an instance whose folder is the test's.
func testProber(t *testing.T, addr string) *prober {
	t.Helper()
	dir, err := os.MkdirTemp("", "probe") // t.TempDir lies in a folder that the service's user cannot pass
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	in := newInstance(&Supervisor{}, Program{Service: "s", Environment: "e", Release: 1, Dir: dir}, 1)
	if os.Geteuid() == 0 {
		if err := os.Chown(in.prog.Dir, 71234, 71234); err != nil {
			t.Fatal(err)
		}
	}
	in.pub.Port = 4321
	return &prober{in: in, addr: addr}
}

func host(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }

// healthServer answers grpc.health.v1 over h2c the way grpc-go does.
func healthServer(t *testing.T, status byte) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) < 5 || r.URL.Path != "/grpc.health.v1.Health/Check" {
			t.Errorf("%s %x %v", r.URL.Path, body, err)
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		if string(body[5:]) == "\x0a\x07unknown" {
			w.WriteHeader(http.StatusOK)
			w.Header().Set("Grpc-Status", "5")
			w.Header().Set("Grpc-Message", "unknown service")
			return
		}
		w.Write([]byte{0, 0, 0, 0, 2, 1 << 3, status})
		w.Header().Set("Grpc-Status", "0")
	}))
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	s.Config.Protocols = p
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func TestProbes(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
		case "/moved":
			http.Redirect(w, r, "/nowhere", http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(web.Close)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	receiver, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { receiver.Close() })
	whole, unknown := "", "unknown"
	for name, tc := range map[string]struct {
		addr  string
		probe spec.Probe
		want  string // in the error; "" for yes
	}{
		"http":           {host(web), spec.Probe{HTTP: "/ok"}, ""},
		"http redirect":  {host(web), spec.Probe{HTTP: "/moved"}, ""},
		"http 503":       {host(web), spec.Probe{HTTP: "/no"}, "GET /no answered 503"},
		"http slow":      {host(web), spec.Probe{HTTP: "/slow"}, "no answer within 300ms"},
		"http nobody":    {gone.Addr().String(), spec.Probe{HTTP: "/"}, "refused"},
		"tcp":            {host(web), spec.Probe{TCP: true}, ""},
		"tcp nobody":     {gone.Addr().String(), spec.Probe{TCP: true}, "refused"},
		"udp":            {receiver.LocalAddr().String(), spec.Probe{UDP: true}, ""},
		"udp nobody":     {host(web), spec.Probe{UDP: true}, "nobody receives"},
		"exec":           {"", spec.Probe{Exec: []string{"/bin/sh", "-c", `test "$PORT" = {{.Port}} && test "$FAIRLEAD_SERVICE" = s`}}, ""},
		"exec fails":     {"", spec.Probe{Exec: []string{"/bin/sh", "-c", "echo starting; echo no database; exit 3"}}, "exit status 3 no database"},
		"exec missing":   {"", spec.Probe{Exec: []string{"/no/such/program"}}, "no such file"},
		"exec hangs":     {"", spec.Probe{Exec: []string{"/bin/sh", "-c", "sleep 100 & wait"}}, "no answer within 300ms"},
		"grpc":           {host(healthServer(t, 1)), spec.Probe{GRPC: &whole}, ""},
		"grpc not yet":   {host(healthServer(t, 2)), spec.Probe{GRPC: &whole}, "not serving"},
		"grpc unknown":   {host(healthServer(t, 1)), spec.Probe{GRPC: &unknown}, "unknown service"},
		"grpc of http/1": {host(web), spec.Probe{GRPC: &whole}, "no answer in gRPC"},
		"grpc of nobody": {gone.Addr().String(), spec.Probe{GRPC: &whole}, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.probe.Timeout = spec.Duration(300 * time.Millisecond)
			if tc.want == "" {
				tc.probe.Timeout = spec.Duration(10 * time.Second)
			}
			err := testProber(t, tc.addr).ask(t.Context(), tc.probe)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// A probe that is cut off by its owner is not a probe that timed out.
func TestProbeCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := testProber(t, "127.0.0.1:1").ask(ctx, spec.Probe{TCP: true, Timeout: spec.Duration(time.Second)})
	if err == nil || strings.Contains(err.Error(), "no answer within") || errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}
