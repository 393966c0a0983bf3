//go:build unix

package edge

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/certs"
	"github.com/fairlead-dev/fairlead/internal/home"
)

// tlsService is an instance that ends TLS itself, by an authority of its own, and says its name and the one that it was asked for.
func tlsService(t *testing.T, name string) (addr string, roots *x509.CertPool) {
	t.Helper()
	store := certs.Open(certs.Options{Dir: t.TempDir(), Log: quiet()})
	t.Cleanup(store.Close)
	root, err := store.LocalRoot()
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	conf := &tls.Config{NextProtos: []string{"own/1"}, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return store.Get(certs.Source{Kind: certs.Local}, h)
	}}
	return tcpService(t, func(c *net.TCPConn) {
		s := tls.Server(c, conf)
		if s.Handshake() != nil {
			return
		}
		fmt.Fprintf(s, "%s for %s\n", name, s.ConnectionState().ServerName)
		io.Copy(s, s)
		s.Close()
	}), roots
}

// handshake begins a connection by TLS.
func (g *rig) handshake(conf *tls.Config) (*raw, *tls.Conn, error) {
	g.t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", g.addr(), conf)
	if err != nil {
		return nil, nil, err
	}
	g.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return &raw{g.t, c, bufio.NewReader(c)}, c, nil
}

// roots are those of the machine's own authority.
func (g *rig) roots() *x509.CertPool {
	g.t.Helper()
	root, err := g.s.certs.LocalRoot()
	if err != nil {
		g.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	return pool
}

// shared is a table in which a service of HTTP, one of TCP and two that end TLS themselves share an address.
func shared(t *testing.T, own, wild string) Table {
	t.Helper()
	local := &TLS{Source: certs.Source{Kind: certs.Local}}
	at := func(service, host, addr string, s *Stream, conf *TLS) Route {
		r := route1(service, anyPort, addr, host)
		r.Stream, r.TLS = s, conf
		return r
	}
	return Table{Routes: []Route{
		at("shop", "shop.localhost", serveOn(t, says("shop")), nil, local),
		at("lines", "lines.localhost", tcpService(t, named("lines")), &Stream{}, local),
		at("own", "own.localhost", own, &Stream{Passthrough: true}, nil),
		at("wild", "*.wild.localhost", wild, &Stream{Passthrough: true}, nil),
	}}
}

func TestPassthrough(t *testing.T) {
	g := startEdge(t, newDirs(t))
	own, ownRoots := tlsService(t, "own")
	wild, wildRoots := tlsService(t, "wild")
	g.set(shared(t, own, wild))
	for name, c := range map[string]struct {
		roots *x509.CertPool
		want  string
	}{
		"own.localhost": {ownRoots, "own for own.localhost"}, "OWN.localhost": {ownRoots, "own for OWN.localhost"},
		"a.wild.localhost": {wildRoots, "wild for a.wild.localhost"}, "b.a.wild.localhost": {wildRoots, "wild for b.a.wild.localhost"},
		"lines.localhost": {g.roots(), "lines"},
	} {
		for _, least := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			conn, _, err := g.handshake(&tls.Config{RootCAs: c.roots, ServerName: name, MaxVersion: least})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			big := noise(1 << 20)
			go func() {
				conn.Write(big)
				conn.Conn.(*tls.Conn).CloseWrite()
			}()
			if got := conn.line(); got != c.want {
				t.Errorf("%s: %q, want %q", name, got, c.want)
			}
			if got := conn.rest(); got != string(big) {
				t.Errorf("%s: %d bytes came back", name, len(got))
			}
		}
	}
	if code, _, body, err := fetch(t, g.client(nil), "https://shop.localhost/", ""); err != nil || code != 200 || body != "shop" {
		t.Errorf("%d %q %v", code, body, err)
	}
	for _, host := range []string{"own.localhost", "lines.localhost"} {
		if code, _, _, err := fetch(t, g.client(nil), "https://shop.localhost/", host); err != nil || code != http.StatusMisdirectedRequest {
			t.Errorf("a request for %s by another host's connection: %d %v", host, code, err)
		}
	}
}

// alertOf is the alert that ended a handshake; 0 for none.
func alertOf(err error) byte {
	var a tls.AlertError
	if errors.As(err, &a) {
		return byte(a)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" && strings.Contains(op.Err.Error(), "unrecognized name") {
		return alertUnrecognized
	}
	return 0
}

// Who asks for nobody hears that, and who names nobody is for the service without hosts.
func TestPassthroughForNobody(t *testing.T) {
	g := startEdge(t, newDirs(t))
	own, _ := tlsService(t, "own")
	wild, _ := tlsService(t, "wild")
	table := shared(t, own, wild)
	g.set(table)
	for _, name := range []string{"nobody.localhost", "wild.localhost", ""} {
		if _, _, err := g.handshake(&tls.Config{InsecureSkipVerify: true, ServerName: name}); alertOf(err) != alertUnrecognized {
			t.Errorf("%q: %v", name, err)
		}
	}
	for what, want := range map[string]string{"GET / HTTP/1.1\r\n\r\n": "", "\x16\x03\x01\x00\x04\x02\x00\x00\x00": string(alert(alertDecode))} {
		c := dialRaw(t, g.addr())
		c.send(what)
		if b, _ := io.ReadAll(c.r); string(b) != want {
			t.Errorf("%q is answered %q", what, b)
		}
	}
	all, _ := tlsService(t, "all")
	rest := route1("all", anyPort, all)
	rest.Stream = &Stream{Passthrough: true}
	table.Routes = append(table.Routes, rest)
	g.set(table)
	for _, name := range []string{"nobody.localhost", ""} {
		c, _, err := g.handshake(&tls.Config{InsecureSkipVerify: true, ServerName: name})
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if got := c.line(); got != "all for "+name {
			t.Errorf("%q", got)
		}
	}
	eventually(t, func() bool { return g.s.conns.Load() == g.s.serving.Load() }) // nothing else is left
}

// A challenge of a certificate authority is answered for the names that the edge has certificates for, and by the instance for its own.
func TestPassthroughOfChallenges(t *testing.T) {
	g := startEdge(t, newDirs(t))
	own, ownRoots := tlsService(t, "own")
	g.set(shared(t, own, own))
	for name, roots := range map[string]*x509.CertPool{"shop.localhost": g.roots(), "lines.localhost": g.roots()} {
		_, c, err := g.handshake(&tls.Config{RootCAs: roots, ServerName: name, NextProtos: []string{alpnChallenge}})
		if err != nil || c.ConnectionState().NegotiatedProtocol != alpnChallenge {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if _, _, err := g.handshake(&tls.Config{RootCAs: ownRoots, ServerName: "own.localhost", NextProtos: []string{alpnChallenge}}); err == nil || strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("the instance knows no such protocol: %v", err)
	}
	if n := g.s.stats.Open("lines", "prod", 0, 0); n != 0 {
		t.Errorf("%d challenges are with an instance", n)
	}
}

// A protocol that the edge does not know is confirmed to who speaks no other, and the instance is told.
func TestPassedProtocols(t *testing.T) {
	g := startEdge(t, newDirs(t))
	heads := make(chan string, 1)
	instance := tcpService(t, func(c *net.TCPConn) {
		b := make([]byte, 512)
		n, _ := c.Read(b)
		heads <- string(b[:n])
	})
	r := route1("shop", anyPort, instance, "shop.localhost")
	r.TLS, r.Stream = &TLS{Source: certs.Source{Kind: certs.Local}}, &Stream{Introduce: 2}
	pass := route1("pass", anyPort, instance, "pass.localhost")
	pass.Stream = &Stream{Passthrough: true, Introduce: 2}
	g.set(Table{Routes: []Route{r, pass}})
	for offered, want := range map[string]string{"": "", "postgresql": "postgresql", "h2,http/1.1": ""} {
		protocols := slices.DeleteFunc(strings.Split(offered, ","), func(s string) bool { return s == "" })
		conf := &tls.Config{RootCAs: g.roots(), ServerName: "shop.localhost", NextProtos: protocols}
		_, c, err := g.handshake(conf)
		if err != nil || c.ConnectionState().NegotiatedProtocol != want {
			t.Fatalf("%q: %v", offered, err)
		}
		told := func(name string) {
			t.Helper()
			details := string(appendDetail(appendDetail(nil, 1, want), 2, name))
			if got := receive(t, heads); len(got) < headOfSecond+12+len(details) || got[headOfSecond+12:][:len(details)] != details || name == "pass.localhost" && got[headOfSecond+12+len(details)] != recordHandshake {
				t.Errorf("%q: the instance is told %q", offered, got)
			}
		}
		told("shop.localhost")
		conf.ServerName = "pass.localhost"
		g.handshake(conf) // in vain: the instance hangs up
		told("pass.localhost")
	}
}

// A client's certificate is asked for where the connection is passed on, too; plain HTTP is sent on to who ends TLS himself.
func TestPassedWithCertificates(t *testing.T) {
	g := startEdge(t, newDirs(t))
	ca, mine := authority(t)
	r := route1("lines", anyPort, tcpService(t, named("lines")), "lines.localhost")
	r.TLS, r.Stream = &TLS{Source: certs.Source{Kind: certs.Local}, Clients: ca}, &Stream{}
	own, _ := tlsService(t, "own")
	pass := route1("own", anyPort, own, "own.localhost")
	pass.Stream, pass.Redirect = &Stream{Passthrough: true}, "127.0.0.1:00"
	g.set(Table{Routes: []Route{r, pass}})
	conf := &tls.Config{RootCAs: g.roots(), ServerName: "lines.localhost"}
	if c, _, err := g.handshake(conf); err == nil { // in TLS 1.3 the client hears of it when it reads
		if b, err := io.ReadAll(c.r); err == nil || len(b) > 0 {
			t.Errorf("%q without a certificate", b)
		}
	}
	conf.Certificates = []tls.Certificate{mine}
	c, _, err := g.handshake(conf)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.line(); got != "lines" {
		t.Errorf("%q", got)
	}
	req := request(t, http.MethodGet, "http://"+g.addrOf("127.0.0.1:00")+"/a", nil)
	req.Host = "own.localhost"
	if res, _ := do(t, client(t), req); res.StatusCode != http.StatusPermanentRedirect || res.Header.Get("Location") != "https://own.localhost:0/a" {
		t.Errorf("%s %s", res.Status, res.Header.Get("Location"))
	}
}

// A hello in pieces, one that never comes whole, and one behind the word of a proxy.
func TestPassthroughInPieces(t *testing.T) {
	g := startEdge(t, newDirs(t))
	log := g.logs()
	heard := make(chan string, 1)
	table := logged(everyRequest, tcpService(t, func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		heard <- string(b)
	}))
	table.Routes[0].Stream, table.Routes[0].Hosts = &Stream{Passthrough: true}, []string{"shop.localhost"}
	g.set(table)
	hello := string(inRecords(helloOf(t, &tls.Config{ServerName: "shop.localhost"}), 90))
	c := dialRaw(t, g.addr())
	for i := range len(hello) {
		c.send(hello[i : i+1])
	}
	c.send("what follows")
	c.closeWrite()
	if got := receive(t, heard); got != hello+"what follows" {
		t.Errorf("%d bytes, and not %d", len(got), len(hello)+12)
	}
	if l := log.last(1); l["server.address"] != "shop.localhost" || l["bytes_received"] != float64(len(hello)+12) || l["tls.protocol.version"] != nil {
		t.Errorf("%v", l)
	}
	half := dialRaw(t, g.addr())
	half.send(hello[:300])
	half.closeWrite()
	if b, err := io.ReadAll(half.r); err != nil || len(b) > 0 {
		t.Errorf("%q %v", b, err)
	}
}

// Who asks for the newest release by its own name gets it, whatever its share.
func TestPassedPreview(t *testing.T) {
	g := startEdge(t, newDirs(t))
	old, _ := tlsService(t, "old")
	next, _ := tlsService(t, "next")
	r := route1("shop", anyPort, old, "shop.localhost")
	r.Stream, r.Preview.Host = &Stream{Passthrough: true}, "next.localhost"
	r.Backends = append(r.Backends, Backend{Release: 2, Endpoints: ends(next)})
	g.set(Table{Routes: []Route{r}})
	for name, want := range map[string]string{"shop.localhost": "old for shop.localhost", "next.localhost": "next for next.localhost"} {
		c, _, err := g.handshake(&tls.Config{InsecureSkipVerify: true, ServerName: name})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.line(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// talk has one connection after the other with a host, each of some lines, until it is stopped; it returns how many there were and how
// many went wrong.
func (g *rig) talk(addr, name string) (stop func() (n, failed int)) {
	done, ended := make(chan bool), make(chan bool)
	var n, failed int
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			n++
			if err := converse(addr, name); err != nil {
				g.t.Logf("%s: %v", name, err)
				failed++
			}
		}
	}()
	return func() (int, int) {
		close(done)
		<-ended
		return n, failed
	}
}

func converse(addr, name string) error {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: name})
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(c)
	if _, err := r.ReadString('\n'); err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	for i := range 20 {
		fmt.Fprintln(c, i)
		if got, err := r.ReadString('\n'); err != nil || got != fmt.Sprintln(i) {
			return fmt.Errorf("line %d: %q %w", i, got, err)
		}
	}
	return nil
}

// Connections of all kinds begin and go on while tables change, and while one edge takes over from another.
func TestTakeOverOfStreams(t *testing.T) {
	g := startEdge(t, newDirs(t))
	own, _ := tlsService(t, "own")
	wild, _ := tlsService(t, "wild")
	table := shared(t, own, wild)
	g.set(table)
	addr, admin := g.addr(), NewClient(g.dirs.Sock(home.Edge))
	var stops []func() (int, int)
	var kept []*raw
	for _, name := range []string{"own.localhost", "a.wild.localhost", "lines.localhost"} {
		stops = append(stops, g.talk(addr, name), g.talk(addr, name))
		c, _, err := g.handshake(&tls.Config{InsecureSkipVerify: true, ServerName: name})
		if err != nil {
			t.Fatal(err)
		}
		c.line()
		kept = append(kept, c)
	}
	requests := func() (n uint64) {
		for _, r := range g.s.stats.Read() {
			if r.Release == 0 {
				n += r.Counts.Requests
			}
		}
		return n
	}
	change := func() {
		for i := range 10 {
			before := requests()
			eventually(t, func() bool { return requests() > before+5 })
			table.Routes[2].Backends[0].Release, table.Routes[1].Backends[0].Release = i+2, i+2 // the same instances, by another name
			if _, err := admin.Set(t.Context(), table); err != nil {
				t.Fatal(err)
			}
		}
	}
	change()
	_, lines, _ := g.successor("serve")
	if line := receive(t, lines); line != "serving" {
		t.Fatal(line)
	}
	change()
	for _, c := range kept {
		c.send("still there\n")
		if got := c.line(); got != "still there" {
			t.Errorf("%q", got)
		}
	}
	select {
	case <-g.s.Done():
		t.Error("the replaced edge ended with connections open")
	default:
	}
	for _, c := range kept {
		c.Close()
	}
	receive(t, g.s.Done())
	total := len(kept)
	for _, stop := range stops {
		n, failed := stop()
		total += n
		if failed != 0 {
			t.Errorf("%d of %d connections failed", failed, n)
		}
	}
	eventually(t, func() bool { return requests() == uint64(total) })
	for _, r := range g.s.stats.Read() {
		// Some are aborted: who closes when the instance's goodbye has come already, and was not read, resets the connection.
		if r.Counts.Failed+r.Counts.Refused != 0 {
			t.Errorf("%+v", r)
		}
	}
}
