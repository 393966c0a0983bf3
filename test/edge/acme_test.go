// Package edge_test holds the edge against real counterparts: an ACME server, curl.
package edge_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
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
	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// patience is how long an order may take: it waits for the ACME server's own pauses.
const patience = time.Minute

// host is served in the tests; the ACME server's resolver says that every name is this machine.
const host = "shop.fairlead.test"

// authority is a running ACME server, Pebble.
type authority struct {
	directory string
	roots     string         // file by which the directory is verified
	issued    *x509.CertPool // what its certificates are verified by
	dns       string         // address at which its resolver is told of records
}

// newAuthority starts Pebble, which looks for challenges at two ports, and whose certificates hold for so long.
func newAuthority(t *testing.T, httpPort, tlsPort int, validity time.Duration) authority {
	t.Helper()
	dir := t.TempDir()
	pebble := rig.GoTool(t, "github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1")
	dns := rig.GoTool(t, "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv@v2.10.1")
	p := rig.FreePorts(t, 4)
	store := certs.Open(certs.Options{Dir: filepath.Join(dir, "certs"), Log: slog.New(slog.DiscardHandler)})
	a := authority{directory: fmt.Sprintf("https://127.0.0.1:%d/dir", p[0]), roots: filepath.Join(dir, "roots.pem"), dns: fmt.Sprintf("http://127.0.0.1:%d", p[3])}
	root, err := store.LocalRoot()
	if err != nil {
		t.Fatal(err)
	}
	own, err := store.Get(certs.Source{Kind: certs.Local}, &tls.ClientHelloInfo{ServerName: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	conf, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", p[0]), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", p[1]),
		"certificate": filepath.Join(dir, "cert.pem"), "privateKey": filepath.Join(dir, "key.pem"), "httpPort": httpPort, "tlsPort": tlsPort,
		"retryAfter": map[string]int{"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa",
		"profiles": map[string]any{"default": map[string]any{"description": "the only one", "validityPeriod": int(validity.Seconds())}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for file, b := range map[string][]byte{"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]}),
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), "roots.pem": root, "conf.json": conf} {
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	start(t, dns, "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-dnsserver", fmt.Sprintf("127.0.0.1:%d", p[2]),
		"-management", fmt.Sprintf("127.0.0.1:%d", p[3]), "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "")
	start(t, pebble, "-config", filepath.Join(dir, "conf.json"), "-dnsserver", fmt.Sprintf("127.0.0.1:%d", p[2]))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer c.CloseIdleConnections()
	rig.Eventually(t, patience, "the ACME server", func() bool {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/roots/0", p[1]), nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(r)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		a.issued = x509.NewCertPool()
		return err == nil && a.issued.AppendCertsFromPEM(b)
	})
	return a
}

// start runs a program until the test ends.
func start(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &out, append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=10")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(name), out.String()[max(0, out.Len()-4000):])
		}
	})
}

// serial is the number of the certificate with which port answers, verified by the authority.
func (a authority) serial(port int) (string, error) {
	d := tls.Dialer{Config: &tls.Config{RootCAs: a.issued, ServerName: host}}
	c, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

// shopDir is the smallest example, as a service shop.
func shopDir(t *testing.T, spec string) string {
	t.Helper()
	dir := rig.Service(t, "examples/hello", "shop", spec)
	rig.Write(t, filepath.Join(dir, "go.mod"), "module example.com/shop\n\ngo 1.26\n")
	return dir
}

// A service gets its certificate by itself, by either challenge, and curl takes it; plain HTTP is sent on.
func TestACME(t *testing.T) {
	for _, how := range []string{"http-01", "tls-alpn-01"} {
		t.Run(how, func(t *testing.T) {
			p := rig.FreePorts(t, 2)
			ca := newAuthority(t, p[0], p[1], time.Hour)
			m := rig.NewMachine(t)
			plain := fmt.Sprintf("127.0.0.1:%d", p[0])
			if how == "tls-alpn-01" {
				plain = "off"
			}
			spec := fmt.Sprintf("service: shop\nroute:\n  hosts: [%s]\n  listen: 127.0.0.1:%d\n  http: %q\n  tls: auto\n  acme: {directory: %q, email: ann@fairlead.test, roots: %s}\nrelease: {watch: 100ms}\n",
				host, p[1], plain, ca.directory, ca.roots)
			url := m.Up(t, shopDir(t, spec)).URL
			if want := fmt.Sprintf("https://%s:%d", host, p[1]); url != want {
				t.Errorf("the receipt says %s, want %s", url, want)
			}
			var err error
			rig.Eventually(t, patience, "a certificate", func() bool {
				_, err = ca.serial(p[1])
				return err == nil
			})
			out, stderr, code := m.Run(t, "certs", "--json")
			if code != 0 || !strings.Contains(out, host) || !strings.Contains(out, "Pebble") {
				t.Errorf("certs: %d %s%s", code, out, stderr)
			}
			curl(t, ca, p, how == "http-01")
		})
	}
}

// curl asks with a client that is not ours.
func curl(t *testing.T, ca authority, p []int, plain bool) {
	t.Helper()
	tool := rig.Tool(t, "curl", "curl")
	root := filepath.Join(t.TempDir(), "issued.pem")
	c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p[1]), &tls.Config{RootCAs: ca.issued, ServerName: host})
	if err != nil {
		t.Fatal(err)
	}
	chain := c.ConnectionState().VerifiedChains[0]
	c.Close()
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[len(chain)-1].Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"-sS", "--max-time", "10", "--cacert", root, "--resolve", fmt.Sprintf("%s:%d:127.0.0.1", host, p[1]), "-o", "/dev/null", "-w", "%{http_code} %{http_version} %{url_effective}"}
	url := fmt.Sprintf("https://%s:%d/", host, p[1])
	if plain {
		args = append(args, "-L", "--resolve", fmt.Sprintf("%s:%d:127.0.0.1", host, p[0]))
		url = fmt.Sprintf("http://%s:%d/", host, p[0])
	}
	out, err := rig.Command(t, "", nil, tool, append(args, url)...)
	if want := fmt.Sprintf("200 2 https://%s:%d/", host, p[1]); err != nil || strings.TrimSpace(out) != want {
		t.Errorf("curl %s: %q %v, want %q", url, out, err, want)
	}
}

// A certificate is renewed in time, while it is served.
func TestRenewal(t *testing.T) {
	p := rig.FreePorts(t, 2)
	ca := newAuthority(t, p[0], p[1], 30*time.Second)
	store := certs.Open(certs.Options{Dir: filepath.Join(t.TempDir(), "certs"), Log: slog.New(slog.DiscardHandler), Every: 500 * time.Millisecond})
	t.Cleanup(store.Close)
	src := certs.Source{Kind: certs.Auto, Directory: ca.directory, Roots: ca.roots}
	for port, serve := range map[int]func(*http.Server, net.Listener) error{
		p[0]: (*http.Server).Serve,
		p[1]: func(s *http.Server, l net.Listener) error {
			s.TLSConfig = &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return store.Get(src, h) }}
			return s.ServeTLS(l, "", "")
		},
	} {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{ReadHeaderTimeout: time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !store.Challenge(w, r) {
				w.WriteHeader(http.StatusNotFound)
			}
		})}
		go serve(s, l)
		t.Cleanup(func() { s.Close() })
	}
	store.Follow([]certs.Wanted{{Names: []string{host}, HTTPPort: p[0], Source: src}})
	var first string
	rig.Eventually(t, patience, "a certificate", func() bool {
		s, err := ca.serial(p[1])
		first = s
		return err == nil
	})
	rig.Eventually(t, patience, "another one", func() bool {
		now, err := ca.serial(p[1])
		if err != nil {
			t.Fatalf("there was no valid certificate for a moment: %v", err)
		}
		return now != first
	})
	if l := store.List(); len(l) != 1 || l[0].Error != "" || time.Until(l[0].NotAfter) < 10*time.Second {
		t.Errorf("%+v", l)
	}
}
