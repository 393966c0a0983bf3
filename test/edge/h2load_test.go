//go:build unix

package edge_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// h2load drives many requests over few connections that are kept: every one is answered, well, and by the instance.
func TestH2Load(t *testing.T) {
	tool := rig.Tool(t, "h2load", "nghttp2-client")
	var got atomic.Int64
	body := strings.Repeat("a body of more than a packet ", 100)
	b := inBoth(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		sent, err := io.ReadAll(r.Body)
		if err != nil || r.Method == http.MethodPost && string(sent) != body {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		got.Add(1)
		w.Write(sent)
	}))
	file := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		requests int
		args     []string
	}{
		{"GET by HTTP/1.1", 20_000, []string{"--h1", "-m", "1"}},
		{"GET by HTTP/1.1, ten at once on a connection", 20_000, []string{"--h1", "-m", "10"}},
		{"GET by HTTP/2", 20_000, []string{"-m", "10"}},
		{"POST by HTTP/1.1", 5000, []string{"--h1", "-m", "1", "-d", file}},
		{"POST by HTTP/2", 5000, []string{"-m", "10", "-d", file}},
	} {
		for _, url := range []string{"http://" + b.plain + "/", "https://" + b.secure + "/"} {
			scheme, _, _ := strings.Cut(url, ":")
			t.Run(c.name+" over "+scheme, func(t *testing.T) {
				before := got.Load()
				n := strconv.Itoa(c.requests)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				out, err := exec.CommandContext(ctx, tool, append([]string{"-n", n, "-c", "50", "-T", "60", "-N", "60"}, append(c.args, url)...)...).CombinedOutput()
				text := string(out)
				want := []string{
					fmt.Sprintf("requests: %[1]s total, %[1]s started, %[1]s done, %[1]s succeeded, 0 failed, 0 errored, 0 timeout", n),
					fmt.Sprintf("status codes: %s 2xx, 0 3xx, 0 4xx, 0 5xx", n),
				}
				if err != nil || !strings.Contains(text, want[0]) || !strings.Contains(text, want[1]) {
					t.Errorf("%v\n%s", err, text)
				}
				protocol := "h2"
				if strings.Contains(c.name, "1.1") {
					protocol = "http/1.1"
				}
				if m := regexp.MustCompile(`Application protocol: (\S+)`).FindStringSubmatch(text); m == nil || !strings.HasPrefix(m[1], protocol) {
					t.Errorf("it spoke %v, not %s", m, protocol)
				}
				t.Log(regexp.MustCompile(`finished in .*`).FindString(text))
				if n := got.Load() - before; n != int64(c.requests) {
					t.Errorf("%d requests reached the instance", n)
				}
			})
		}
	}
}
