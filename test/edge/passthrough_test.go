//go:build unix

package edge_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/certs"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// route is one to an instance, for hosts.
func route(service, listen, instance string, hosts ...string) edge.Route {
	r := shop(listen, instance)
	r.Service, r.Hosts = service, hosts
	return r
}

// overTLS serves HTTP and HTTP/2 with certificates of the instance's own authority, whose root is returned.
func overTLS(t *testing.T, name string) (addr string, root []byte) {
	t.Helper()
	store := certs.Open(certs.Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(store.Close)
	root, err := store.LocalRoot()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s %s", name, r.Proto, r.Host) }), //nolint:gosec // of a test
		TLSConfig: &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return store.Get(certs.Source{Kind: certs.Local}, h)
		}}}
	go srv.ServeTLS(l, "", "")
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String(), root
}

// runs runs a program with an input for at most a few seconds and returns all that it says.
func runs(t *testing.T, input, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	t.Logf("%s: %v", filepath.Base(name), err)
	return string(out)
}

// OpenSSL's client and curl have their handshakes with the instance whose host they ask for, and see its own certificate; who asks for
// nobody gets an alert.
func TestPassthroughOfOpenSSLAndCurl(t *testing.T) {
	openssl, curl := rig.Tool(t, "openssl", "openssl"), rig.Tool(t, "curl", "curl")
	one, oneRoot := overTLS(t, "one")
	two, twoRoot := overTLS(t, "two")
	port := rig.FreePorts(t, 1)[0]
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	a, b, ended := route("one", listen, one, "one.localhost"), route("two", listen, two, "*.two.localhost"), route("ended", listen, serve(t, http.NotFound), "ended.localhost")
	a.Stream, b.Stream = &edge.Stream{Passthrough: true}, &edge.Stream{Passthrough: true}
	ended.TLS = &edge.TLS{Source: certs.Source{Kind: certs.Local}}
	startEdge(t, edge.Table{Routes: []edge.Route{a, b, ended}})
	dir := t.TempDir()
	for host, c := range map[string]struct {
		root []byte
		want string
	}{"one.localhost": {oneRoot, "one HTTP/2.0 one.localhost"}, "a.two.localhost": {twoRoot, "two HTTP/2.0 a.two.localhost"}} {
		roots := filepath.Join(dir, host+".pem")
		if err := os.WriteFile(roots, c.root, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, version := range []string{"-tls1_2", "-tls1_3"} {
			out := runs(t, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", openssl, "s_client", "-connect", listen, "-servername", host, "-CAfile", roots,
				"-verify_return_error", "-verify_hostname", host, "-ign_eof", "-showcerts", version)
			if !strings.Contains(out, "Verify return code: 0 (ok)") || !strings.Contains(out, strings.Fields(c.want)[0]+" HTTP/1.1 x") {
				t.Errorf("%s: %s", host, out)
			}
			if begin := strings.Index(out, "-----BEGIN CERTIFICATE"); begin < 0 || !signedBy(t, []byte(out[begin:]), c.root, host) {
				t.Errorf("%s: it is not the instance's own certificate", host)
			}
		}
		out := runs(t, "", curl, "-sS", "--cacert", roots, "--resolve", fmt.Sprintf("%s:%d:127.0.0.1", host, port), fmt.Sprintf("https://%s:%d/", host, port))
		if want := strings.Replace(c.want, host, fmt.Sprintf("%s:%d", host, port), 1); out != want {
			t.Errorf("%q, want %q", out, want)
		}
	}
	for _, args := range [][]string{{"-servername", "nobody.localhost"}, {"-noservername"}} {
		if out := runs(t, "", openssl, append([]string{"s_client", "-connect", listen}, args...)...); !strings.Contains(out, "alert unrecognized name") && !strings.Contains(out, "alert number 112") {
			t.Errorf("%v: %s", args, out)
		}
	}
}

// signedBy reports whether the first certificate of a text is of an authority and for a host.
func signedBy(t *testing.T, text, root []byte, host string) bool {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	_, err = c.Verify(x509.VerifyOptions{Roots: pool, DNSName: host})
	return err == nil
}

// A certificate is obtained by TLS-ALPN-01 for one host of an address where another host's handshakes are passed on.
func TestACMEBesidePassthrough(t *testing.T) {
	p := rig.FreePorts(t, 2)
	ca := newAuthority(t, p[0], p[1], time.Hour)
	listen := fmt.Sprintf("127.0.0.1:%d", p[1])
	own, root := overTLS(t, "own")
	ours, theirs := route("ours", listen, serve(t, http.NotFound), host), route("theirs", listen, own, "own.localhost")
	ours.TLS = &edge.TLS{Source: certs.Source{Kind: certs.Auto, Directory: ca.directory, Email: "ann@fairlead.test", Roots: ca.roots}}
	theirs.Stream = &edge.Stream{Passthrough: true}
	startEdge(t, edge.Table{Routes: []edge.Route{ours, theirs}})
	rig.Eventually(t, patience, "a certificate", func() bool { s, err := ca.serial(p[1]); return err == nil && s != "" })
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	c, err := tls.Dial("tcp", listen, &tls.Config{RootCAs: pool, ServerName: "own.localhost"})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// HAProxy as an instance takes the client's address from what the edge says of it, in both versions, and the name from the second.
func TestSendProxyToHAProxy(t *testing.T) {
	tool := rig.Tool(t, "haproxy", "haproxy")
	p := rig.FreePorts(t, 2)
	instance, listen := fmt.Sprintf("127.0.0.1:%d", p[0]), fmt.Sprintf("127.0.0.1:%d", p[1])
	conf := fmt.Sprintf(`defaults
	mode http
	timeout client 5s
	timeout server 5s
	timeout connect 5s
frontend in
	bind %s accept-proxy
	http-request return status 200 content-type text/plain lf-string "%%[src]:%%[src_port] to %%[dst]:%%[dst_port] for %%[fc_pp_authority]"
`, instance)
	start(t, tool, "-db", "-f", write(t, t.TempDir(), "haproxy.cfg", conf))
	rig.Eventually(t, patience, "HAProxy", func() bool {
		c, err := net.Dial("tcp", instance)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	for _, version := range []int{1, 2} {
		for _, encrypted := range []bool{false, true} {
			t.Run(fmt.Sprintf("v%d encrypted=%v", version, encrypted), func(t *testing.T) {
				r := route("shop", listen, instance)
				r.Stream = &edge.Stream{Introduce: version}
				authority := ""
				if encrypted {
					r.Hosts, r.TLS = []string{name}, &edge.TLS{Source: certs.Source{Kind: certs.Local}}
				}
				if encrypted && version == 2 {
					authority = name
				}
				startEdge(t, edge.Table{Routes: []edge.Route{r}})
				c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}).Dial("tcp", listen)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				want := fmt.Sprintf("%s to %s for %s", c.LocalAddr(), listen, authority)
				if encrypted {
					c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: name}) //nolint:gosec // what it says is what counts here
				}
				c.SetDeadline(time.Now().Add(patience))
				io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if b, err := io.ReadAll(res.Body); err != nil || string(b) != want {
					t.Errorf("%q %v, want %q", b, err, want)
				}
			})
		}
	}
}

// Two clients of a NATS server talk to each other through the edge, whose server speaks first.
func TestNATSOverTCP(t *testing.T) {
	tool := rig.GoTool(t, "github.com/nats-io/nats-server/v2@v2.15.2")
	p := rig.FreePorts(t, 2)
	start(t, tool, "-a", "127.0.0.1", "-p", fmt.Sprint(p[0]))
	listen := fmt.Sprintf("127.0.0.1:%d", p[1])
	r := route("nats", listen, fmt.Sprintf("127.0.0.1:%d", p[0]))
	r.Stream = &edge.Stream{Idle: time.Minute}
	startEdge(t, edge.Table{Routes: []edge.Route{r}}) // the first client is held until the server listens
	dial := func() (net.Conn, func(string)) {
		c, err := net.Dial("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		in := bufio.NewReader(c)
		expect := func(prefix string) {
			t.Helper()
			if s, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(s, prefix) {
				t.Fatalf("%q %v, want %q", s, err, prefix)
			}
		}
		expect("INFO {")
		io.WriteString(c, "CONNECT {\"verbose\":false}\r\nPING\r\n")
		expect("PONG\r\n")
		return c, expect
	}
	listener, heard := dial()
	speaker, _ := dial()
	io.WriteString(listener, "SUB shop.> 1\r\nPING\r\n")
	heard("PONG\r\n")
	for i := range 100 {
		text := strings.Repeat("x", 1+i*1000)
		fmt.Fprintf(speaker, "PUB shop.orders %d\r\n%s\r\n", len(text), text)
		heard(fmt.Sprintf("MSG shop.orders 1 %d\r\n", len(text)))
		heard(text + "\r\n")
	}
}
