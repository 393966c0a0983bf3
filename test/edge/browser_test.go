//go:build unix

package edge_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// browserTime is how long the browser may take for its start, the page and its end.
const browserTime = 90 * time.Second

// page asks its service by everything that a browser has, and writes what it saw where the test finds it. The browser prints a
// page when all of it is loaded: the image keeps that open until the script is done.
const page = `<!doctype html><title>shop</title><img src="/gate"><pre id="seen"></pre><script>
const seen = {}, step = (name, f) => f().then(v => seen[name] = v, e => seen[name] = "failed: " + e)
const all = [
	step("get", async () => (await fetch("/get?a=b;c&d")).text()),
	step("post", async () => (await fetch("/post", {method: "POST", body: "x".repeat(100000)})).text()),
	step("status", async () => String((await fetch("/missing")).status)),
	step("events", () => new Promise((ok, no) => {
		const e = new EventSource("/events"), got = []
		e.onmessage = m => { got.push(m.lastEventId + m.data); if (got.length == 3) { e.close(); ok(got.join(" ")) } else fetch("/next", {method: "POST"}) }
		e.onerror = () => no("the stream broke off")
	})),
	step("socket", () => new Promise((ok, no) => {
		const ws = new WebSocket(location.origin.replace("http", "ws") + "/ws"), got = []
		ws.onmessage = m => { got.push(String(m.data.length > 20 ? m.data.length : m.data)); if (got.length == 2) ws.send("y".repeat(60000)); if (got.length == 3) ws.close() }
		ws.onopen = () => ws.send("hello")
		ws.onerror = () => no("the socket broke off")
		ws.onclose = e => ok(got.join(" ") + (e.wasClean ? " clean" : " broken"))
	})),
]
Promise.all(all).then(async () => {
	seen.protocols = [...new Set(["navigation", "resource"].flatMap(k => performance.getEntriesByType(k)).map(e => e.nextHopProtocol))].join(" ")
	document.getElementById("seen").textContent = JSON.stringify(seen)
	await fetch("/open", {method: "POST"})
})
</script>`

// shopForBrowsers serves the page. Each event is sent when the page has told of the one before.
func shopForBrowsers() http.HandlerFunc {
	var once sync.Once
	open, next := make(chan bool), make(chan bool, 10)
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(w, page)
		case "/get":
			io.WriteString(w, r.URL.RawQuery+" for "+r.Host)
		case "/post":
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err)
		case "/ws":
			echo(w, r)
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "id: %d\ndata: event\n\n", i)
				http.NewResponseController(w).Flush()
				select {
				case <-next:
				case <-r.Context().Done():
					return
				}
			}
		case "/next":
			next <- true
		case "/open":
			once.Do(func() { close(open) })
		case "/gate":
			select {
			case <-open:
			case <-r.Context().Done():
			}
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}
}

// browse opens an address in a browser and returns what the page is in the end.
func browse(t *testing.T, browser, url, dir string, flags ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), browserTime)
	defer cancel()
	// As root it has no sandbox; the rest keeps it from asking anybody but us.
	cmd := exec.CommandContext(ctx, browser, append(flags, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir="+filepath.Join(dir, "profile"), "--dump-dom", url)...)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	// It has many processes: they end together.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	err := cmd.Run()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // a straggler would write into the folder while it is removed
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s\n%s", browser, url, err, log.String(), out.String())
	}
	return out.String()
}

// A browser loads a page through the edge and uses all it has, over TLS with HTTP/3, with HTTP/2, and without.
func TestBrowser(t *testing.T) {
	browser, certutil := rig.Tool(t, "chromium", "chromium"), rig.Tool(t, "certutil", "libnss3-tools")
	port := func(addr string) string {
		_, p, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, protocol := range []string{"h3", "h2", "http/1.1"} {
		t.Run(protocol, func(t *testing.T) {
			b := inBoth(t, serve(t, shopForBrowsers()))
			scheme, host := "https", name+":"+port(b.secure)
			if protocol == "http/1.1" {
				scheme, host = "http", name+":"+port(b.plain)
			}
			dir := t.TempDir()
			trust(t, certutil, dir, b.root)
			flags := []string{"--disable-quic"}
			if protocol == "h3" { // from the first request on, not only when an answer told of it; for QUIC an authority of ours counts only so
				flags = []string{"--enable-quic", "--origin-to-force-quic-on=" + host, "--ignore-certificate-errors-spki-list=" + b.pin(t),
					"--host-resolver-rules=MAP " + name + " 127.0.0.1, MAP * ~NOTFOUND"}
			}
			dom := browse(t, browser, scheme+"://"+host+"/", dir, flags...)
			_, text, _ := strings.Cut(dom, `<pre id="seen">`)
			text, _, _ = strings.Cut(text, "</pre>")
			var seen map[string]string
			if err := json.Unmarshal([]byte(html.UnescapeString(text)), &seen); err != nil {
				t.Fatalf("%v in\n%s", err, dom)
			}
			for k, want := range map[string]string{"get": "a=b;c&d for " + host, "post": "100000 <nil>", "status": "404", "events": "0event 1event 2event",
				"socket": "welcome hello 60000 clean", "protocols": protocol} {
				if seen[k] != want {
					t.Errorf("%s: %q, want %q", k, seen[k], want)
				}
			}
		})
	}
	// That the certificate was verified is seen where nobody trusts it.
	t.Run("a browser that does not trust the authority", func(t *testing.T) {
		b := inBoth(t, serve(t, shopForBrowsers()))
		if dom := browse(t, browser, "https://"+name+":"+port(b.secure)+"/", t.TempDir(), "--disable-quic"); strings.Contains(dom, `id="seen"`) {
			t.Errorf("it took the page:\n%s", dom)
		}
	})
}

// trust makes an authority one of those that browsers of a home folder go by.
func trust(t *testing.T, certutil, home string, root []byte) {
	t.Helper()
	db, file := filepath.Join(home, ".pki", "nssdb"), filepath.Join(home, "root.pem")
	if err := os.MkdirAll(db, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, root, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-N", "--empty-password"}, {"-A", "-n", "fairlead", "-t", "C,,", "-i", file}} {
		if _, err := rig.Command(t, home, nil, certutil, append([]string{"-d", "sql:" + db}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
}

// pin is the fingerprint of the key by which the edge proves that it is itself.
func (b both) pin(t *testing.T) string {
	t.Helper()
	c, err := tls.Dial("tcp", b.secure, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sum := sha256.Sum256(c.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}
