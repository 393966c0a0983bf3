//go:build unix

package edge_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// Where both nginx and HAProxy refuse a request, the edge has no better reason to take it than they.
func TestAttackDifferential(t *testing.T) {
	fronts := map[string]front{"edge": ours(t), "nginx": nginx(t), "haproxy": haproxy(t)}
	for name, f := range fronts {
		rig.Eventually(t, moment, name, func() bool {
			c, err := net.Dial("tcp", f.addr)
			if err != nil {
				return false
			}
			c.Close()
			return true
		})
		if err := f.innocent(t, "GET /first"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	took := map[string]int{}
	for i, c := range corpus() {
		id := fmt.Sprintf("%03d", i)
		accepted := map[string]bool{}
		for name, f := range fronts {
			if accepted[name] = f.attack(t, c, id).accepted(id); accepted[name] {
				took[name]++
			}
		}
		lax := accepted["edge"] && !accepted["nginx"] && !accepted["haproxy"]
		switch {
		case lax:
			t.Errorf("%s: the edge takes what nginx and HAProxy refuse", c.name)
		case !accepted["edge"] && accepted["nginx"] && accepted["haproxy"]:
			t.Logf("stricter than both: %s", c.name)
		}
	}
	t.Logf("taken: %v", took)
}

// nginx is one that passes everything to a recorder, with the edge's limits.
func nginx(t *testing.T) front {
	t.Helper()
	tool := rig.Tool(t, "nginx", "nginx-light")
	f := front{fmt.Sprintf("127.0.0.1:%d", rig.FreePorts(t, 1)[0]), newRecorder(t)}
	dir := t.TempDir()
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 512; }
http {
	access_log off; client_header_timeout 2s; client_body_timeout 2s; lingering_timeout 1s; large_client_header_buffers 4 64k;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	upstream instance { server %[2]s; keepalive 8; }
	server {
		listen %[3]s;
		location / { proxy_pass http://instance; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_buffer_size 64k; proxy_buffers 4 64k; proxy_busy_buffers_size 128k; }
	}
}
`, dir, f.rec.addr, f.addr)
	start(t, tool, "-p", dir, "-e", filepath.Join(dir, "early.log"), "-c", write(t, dir, "nginx.conf", conf))
	return f
}

// haproxy is one that passes everything to a recorder, with the edge's limits.
func haproxy(t *testing.T) front {
	t.Helper()
	tool := rig.Tool(t, "haproxy", "haproxy")
	f := front{fmt.Sprintf("127.0.0.1:%d", rig.FreePorts(t, 1)[0]), newRecorder(t)}
	conf := fmt.Sprintf(`global
	maxconn 512
	tune.bufsize 66560
defaults
	mode http
	timeout client 2s
	timeout server 2s
	timeout connect 2s
	timeout http-request 2s
frontend in
	bind %s
	default_backend instance
backend instance
	http-reuse always
	server one %s
`, f.addr, f.rec.addr)
	start(t, tool, "-db", "-f", write(t, t.TempDir(), "haproxy.cfg", conf))
	return f
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(strings.TrimLeft(text, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
