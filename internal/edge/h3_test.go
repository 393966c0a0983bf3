//go:build unix

package edge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/fairlead-dev/fairlead/internal/certs"
)

// quickly is a table with two hosts over HTTP/3, of which one wants clients' certificates where clients is set, and one without.
func quickly(clients string, shop ...string) Table {
	local := certs.Source{Kind: certs.Local}
	route := func(name string, http3 bool, clients string) Route {
		return Route{Service: name, Environment: "prod", Listen: anyPort, Hosts: []string{name + ".localhost"}, HTTP3: http3, TLS: &TLS{Source: local, Clients: clients},
			Backends: []Backend{{Release: 1, Weight: 100, Endpoints: ends(shop...)}}}
	}
	return Table{Routes: []Route{route("shop", true, ""), route("bank", true, clients), route("old", false, "")}}
}

// client3 speaks HTTP/3, trusts the machine's authority and finds every name at the edge.
func (g *rig) client3(change func(*tls.Config)) *http.Client {
	g.t.Helper()
	conf := g.trusting()
	if change != nil {
		change(conf)
	}
	return client3(g.t, g.udp(), conf)
}

// trusting is the configuration of a client that trusts the machine's authority.
func (g *rig) trusting() *tls.Config {
	g.t.Helper()
	root, err := g.s.certs.LocalRoot()
	if err != nil {
		g.t.Fatal(err)
	}
	conf := &tls.Config{RootCAs: x509.NewCertPool()}
	conf.RootCAs.AppendCertsFromPEM(root)
	return conf
}

func client3(t testing.TB, addr net.Addr, conf *tls.Config) *http.Client {
	t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	from := &quic.Transport{Conn: udp}
	tr := &http3.Transport{TLSClientConfig: conf, Dial: func(ctx context.Context, _ string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
		return from.Dial(ctx, addr, c, q)
	}}
	t.Cleanup(func() {
		tr.Close()
		from.Close()
		udp.Close()
	})
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (g *rig) udp() net.Addr {
	g.t.Helper()
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	l := g.s.h3.listeners[anyPort]
	if l == nil {
		g.t.Fatal("nothing takes UDP")
	}
	return l.conn.LocalAddr()
}

func TestHTTP3(t *testing.T) {
	g := startEdge(t, newDirs(t))
	ca, mine := authority(t)
	seen := make(chan http.Header, 10)
	g.set(quickly(ca, serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		fmt.Fprint(w, r.Host, " ", r.ContentLength, " ", r.TransferEncoding)
	})))
	c := g.client3(nil)
	code, proto, body, err := fetch(t, c, "https://shop.localhost/a", "")
	if err != nil || code != 200 || proto != "HTTP/3.0" || body != "shop.localhost 0 []" {
		t.Errorf("%d %s %q %v", code, proto, body, err)
	}
	h := receive(t, seen)
	if h.Get("X-Forwarded-Proto") != "https" || h.Get("X-Forwarded-For") != "127.0.0.1" || len(h.Get("Traceparent")) != 55 {
		t.Errorf("%v", h)
	}
	// The same names by TCP tell of it, with both of its versions of HTTP.
	for _, protos := range [][]string{{"h2"}, {"http/1.1"}} {
		tcp := g.client(func(c *tls.Config) { c.NextProtos = protos })
		tcp.Transport.(*http.Transport).ForceAttemptHTTP2 = protos[0] == "h2"
		for host, want := range map[string]string{"shop": `h3=":0"; ma=86400`, "old": ""} {
			res, err := tcp.Do(request(t, http.MethodGet, "https://"+host+".localhost/", nil))
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if got := res.Header.Get("Alt-Svc"); got != want || res.StatusCode != http.StatusOK {
				t.Errorf("%s by %s: %d %q", host, res.Proto, res.StatusCode, got)
			}
			receive(t, seen)
		}
	}
	if _, _, _, err := fetch(t, c, "https://old.localhost/", ""); err == nil {
		t.Error("a handshake for a host that is not answered over HTTP/3")
	}
	for _, host := range []string{"old.localhost", "bank.localhost"} {
		if code, _, body, err := fetch(t, c, "https://shop.localhost/", host); err != nil || code != http.StatusMisdirectedRequest {
			t.Errorf("%s by the other host's connection: %d %q %v", host, code, body, err)
		}
	}
	if _, _, _, err := fetch(t, c, "https://bank.localhost/", ""); err == nil {
		t.Error("a client without a certificate got in")
	}
	with := g.client3(func(c *tls.Config) { c.Certificates = []tls.Certificate{mine} })
	if code, _, body, err := fetch(t, with, "https://bank.localhost/", ""); err != nil || code != 200 || body != "bank.localhost 0 []" {
		t.Errorf("with a certificate: %d %q %v", code, body, err)
	}
	receive(t, seen)
	g.settled(3)
}

func TestHTTP3Bodies(t *testing.T) {
	g := startEdge(t, newDirs(t))
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB: more than the windows
	g.set(quickly("", serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			w.Write(big)
		case "/echo":
			io.Copy(w, r.Body)
		case "/trailers":
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "body")
			w.(http.Flusher).Flush()
			w.Header().Set("X-Sum", r.Trailer.Get("X-Check"))
		case "/head":
			w.Header().Set("X-Here", "yes")
			w.(http.Flusher).Flush()
		case "/close":
			w.Header().Set("Connection", "close")
			io.WriteString(w, "closed")
		}
	})))
	c := g.client3(nil)
	const base = "https://shop.localhost"
	if code, _, body, err := fetch(t, c, base+"/big", ""); err != nil || code != 200 || sha256.Sum256([]byte(body)) != sha256.Sum256(big) {
		t.Errorf("%d, %d bytes, %v", code, len(body), err)
	}
	post := func(path string, body io.Reader, trailer http.Header) (*http.Response, string) {
		t.Helper()
		r := request(t, http.MethodPost, base+path, body)
		r.Trailer = trailer
		return do(t, c, r)
	}
	if _, got := post("/echo", bytes.NewReader(big), nil); got != string(big) {
		t.Errorf("%d bytes came back", len(got))
	}
	if _, got := post("/echo", io.MultiReader(strings.NewReader("of no "), strings.NewReader("known length")), nil); got != "of no known length" {
		t.Errorf("%q", got)
	}
	if res, got := post("/trailers", io.MultiReader(strings.NewReader("x")), http.Header{"X-Check": {"sum"}}); got != "body" || res.Trailer.Get("X-Sum") != "sum" {
		t.Errorf("%q %v", got, res.Trailer)
	}
	if res, _ := do(t, c, request(t, http.MethodHead, base+"/head", nil)); res.Header.Get("X-Here") != "yes" || res.ContentLength != -1 {
		t.Errorf("%v %d", res.Header, res.ContentLength)
	}
	if res, got := do(t, c, request(t, http.MethodGet, base+"/close", nil)); got != "closed" || res.Header.Get("Connection") != "" {
		t.Errorf("%q %v", got, res.Header)
	}
	var all sync.WaitGroup
	for i := range 2 * maxStreams {
		all.Go(func() {
			want := fmt.Sprint("stream ", i)
			if _, got := do(t, c, request(t, http.MethodPost, base+"/echo", strings.NewReader(want))); got != want {
				t.Errorf("%q", got)
			}
		})
	}
	all.Wait()
	if got := g.settled(6 + 2*maxStreams); got.Failed+got.Aborted+got.Refused != 0 {
		t.Errorf("%+v", got)
	}
}

// A client that sends nothing until it is answered is answered.
func TestHTTP3BothWays(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(quickly("", serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush()
		io.Copy(w, r.Body)
	})))
	for _, method := range []string{http.MethodPost, http.MethodGet} {
		in, out := io.Pipe()
		res, err := g.client3(nil).Do(request(t, method, "https://shop.localhost/", in))
		if err != nil {
			t.Fatal(err)
		}
		out.Write([]byte("now"))
		out.Close()
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != "now" {
			t.Errorf("%s: %q %v", method, b, err)
		}
		res.Body.Close()
	}
}

func TestHTTP3Refuses(t *testing.T) {
	g := startEdge(t, newDirs(t))
	slow := make(chan bool)
	table := quickly("", serveOn(t, func(w http.ResponseWriter, r *http.Request) { <-slow }))
	table.Routes[0].Guard = &Guard{Body: 10}
	g.set(table)
	defer close(slow)
	c := g.client3(nil)
	r := request(t, http.MethodGet, "https://shop.localhost/", nil)
	r.Header.Set("X-Long", strings.Repeat("x", maxHeader))
	if res, err := c.Do(r); err != nil {
		var limit *http3.Error
		if !errors.As(err, &limit) && !strings.Contains(err.Error(), "exceed") { // the client knows the bound by itself
			t.Error(err)
		}
	} else if res.Body.Close(); res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Error(res.Status)
	}
	if res, _ := do(t, c, request(t, http.MethodPost, "https://shop.localhost/", strings.NewReader(strings.Repeat("x", 11)))); res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Error(res.Status)
	}
	if res, _ := do(t, c, request(t, http.MethodConnect, "https://shop.localhost/", nil)); res.StatusCode != http.StatusNotImplemented {
		t.Error(res.Status)
	}
	if got := g.settled(1); got.Refused != 1 {
		t.Errorf("%+v", got)
	}
	// Who goes away is counted as that.
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		res, err := c.Do(request(t, http.MethodGet, "https://shop.localhost/", nil).WithContext(ctx))
		if err == nil {
			res.Body.Close()
		}
		ended <- err
	}()
	eventually(t, func() bool { return g.s.stats.Open("shop", "prod", 0, 0) == 1 })
	cancel()
	if err := receive(t, ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := g.settled(2); got.Aborted != 1 || got.Failed != 0 {
		t.Errorf("%+v", got)
	}
}

// A handshake knows no path: one of a host's routes is enough for it.
func TestHTTP3OfSomePaths(t *testing.T) {
	g := startEdge(t, newDirs(t))
	table := quickly("", serveOn(t, says("x")))
	rest := table.Routes[0]
	rest.Service, rest.HTTP3 = "rest", false
	table.Routes[0].Paths = []string{"/api"}
	table.Routes[2].Hosts = []string{"*.b.localhost"}
	table.Routes[1].Hosts = []string{"*.c.b.localhost"}
	table.Routes = append(table.Routes, rest)
	g.set(table)
	c := g.client3(nil)
	for url, want := range map[string]int{"shop.localhost/api/a": http.StatusOK, "shop.localhost/": http.StatusMisdirectedRequest, "a.c.b.localhost/": http.StatusOK, "a.b.localhost/": 0} {
		if code, _, _, err := fetch(t, c, "https://"+url, ""); code != want || want != 0 && err != nil {
			t.Errorf("%s: %d %v", url, code, err)
		}
	}
}

// Who never ends the headers of a request is not waited for longer than who asks for nothing.
func TestHTTP3SlowHeaders(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(quickly("", serveOn(t, says("x"))))
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	conf := g.trusting()
	conf.ServerName, conf.NextProtos = "shop.localhost", []string{http3.NextProtoH3}
	conn, err := (&quic.Transport{Conn: udp}).Dial(t.Context(), g.udp(), conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	str, err := conn.OpenStreamSync(t.Context())
	if err == nil {
		_, err = str.Write([]byte{1, 100, 0, 0}) // of a HEADERS frame
	}
	if err != nil {
		t.Fatal(err)
	}
	l := g.s.h3.listeners[anyPort]
	var c *quicConn
	eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for c = range l.conns {
		}
		return c != nil
	})
	if c.checkIdle(); conn.Context().Err() != nil {
		t.Error("it ended at once")
	}
	c.last.Add(-int64(idleTimeout))
	c.checkIdle()
	receive(t, conn.Context().Done())
	eventually(t, func() bool { return g.s.conns.Load() == 0 })
}

// An edge that is stopped answers what it was asked, whole, and says goodbye.
func TestHTTP3Stop(t *testing.T) {
	g := startEdge(t, newDirs(t))
	began, wait := make(chan bool), make(chan bool)
	g.set(quickly("", serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
		began <- true
		<-wait
		w.Write(make([]byte, 1<<20))
	})))
	got := make(chan error)
	go func() {
		res, err := g.client3(nil).Get("https://shop.localhost/")
		if err == nil {
			var n int64
			if n, err = io.Copy(io.Discard, res.Body); n != 1<<20 {
				err = fmt.Errorf("%d bytes: %w", n, err)
			}
			res.Body.Close()
		}
		got <- err
	}()
	receive(t, began)
	ended := make(chan bool)
	go func() {
		g.s.Shut(patience)
		close(ended)
	}()
	eventually(t, g.s.leaving.Load)
	close(wait)
	if err := receive(t, got); err != nil {
		t.Error(err)
	}
	receive(t, ended)
	if n := g.s.conns.Load(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestHTTP3AccessLog(t *testing.T) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	table := quickly("", serveOn(t, says("x")))
	table.Routes[0].Access = &everyRequest
	g.set(table)
	if code, _, _, err := fetch(t, g.client3(nil), "https://shop.localhost/a", ""); code != 200 || err != nil {
		t.Fatal(code, err)
	}
	line := w.last(1)
	if line["network.protocol.version"] != "3" || line["tls.protocol.version"] != "1.3" || line["url.path"] != "/a" || line["client.address"] != "127.0.0.1" {
		t.Error(line)
	}
}

// A route may begin and cease to be answered over HTTP/3 at any time.
func TestHTTP3ComesAndGoes(t *testing.T) {
	g := startEdge(t, newDirs(t))
	table := quickly("", serveOn(t, echo))
	g.set(table)
	at := g.udp()
	c := g.client3(nil)
	if code, _, _, err := fetch(t, c, "https://shop.localhost/", ""); code != 200 || err != nil {
		t.Fatal(code, err)
	}
	off := table
	off.Routes = append([]Route(nil), table.Routes...)
	off.Routes[0].HTTP3, off.Routes[1].HTTP3 = false, false
	g.set(off)
	if code, _, _, err := fetch(t, c, "https://shop.localhost/", ""); code == 200 && err == nil {
		t.Error("it is still answered")
	}
	g.set(table) // while the port is kept for who is still there
	if g.udp().String() != at.String() {
		t.Error("it is another port")
	}
	if code, _, _, err := fetch(t, g.client3(nil), "https://shop.localhost/", ""); code != 200 || err != nil {
		t.Error(code, err)
	}
	g.set(off)
	c.CloseIdleConnections()
	eventually(t, func() bool {
		g.s.mu.Lock()
		defer g.s.mu.Unlock()
		return len(g.s.h3.listeners) == 0
	})
	eventually(t, func() bool { // the port is free
		l, err := net.ListenPacket("udp", at.String())
		if err == nil {
			l.Close()
		}
		return err == nil
	})
}

func TestHTTP3IsChecked(t *testing.T) {
	for name, change := range map[string]func(*Route){
		"plain":      func(r *Route) { r.TLS = nil },
		"kernel":     func(r *Route) { r.Mode = "kernel" },
		"introduced": func(r *Route) { r.Introduced = true },
	} {
		table := quickly("")
		table.Routes = table.Routes[:1]
		if err := table.Check(); err != nil {
			t.Fatal(err)
		}
		change(&table.Routes[0])
		if err := table.Check(); err == nil || !strings.Contains(err.Error(), "HTTP/3") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The key is made once, kept from others' eyes, and made anew where it is no key.
func TestQUICKey(t *testing.T) {
	d := newDirs(t)
	first, err := openKeys(d.QUICKey())
	if err != nil {
		t.Fatal(err)
	}
	again, err := openKeys(d.QUICKey())
	if err != nil || first.reset != again.reset || first.token != again.token {
		t.Error("the next edge has another key", err)
	}
	if fi, err := os.Stat(d.QUICKey()); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(fi, err)
	}
	if err := os.WriteFile(d.QUICKey(), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if k, err := openKeys(d.QUICKey()); err != nil || k.reset == first.reset {
		t.Error(err)
	}
}

// Handshakes beyond the bound prove their addresses first, and succeed all the same.
func TestHTTP3AddressIsVerified(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(quickly("", serveOn(t, echo)))
	g.s.h3.knocking.Add(verifyAbove + 1)
	c := g.client3(nil)
	if code, _, _, err := fetch(t, c, "https://shop.localhost/", ""); code != 200 || err != nil {
		t.Error(code, err)
	}
	g.s.h3.knocking.Add(maxKnocking)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := g.client3(nil).Do(request(t, http.MethodGet, "https://shop.localhost/", nil).WithContext(ctx))
	if err == nil {
		res.Body.Close()
		t.Error("there is no bound")
	}
	var refused *quic.TransportError
	if !errors.As(err, &refused) || refused.ErrorCode != quic.ConnectionRefused {
		t.Error(err)
	}
}
