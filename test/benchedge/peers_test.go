package benchedge

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/certs"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// direct is the peer that is none.
const direct = "direct"

// A peer is somebody who can stand before the backend. Its start returns no address when it cannot do what is asked.
type peer struct {
	name  string
	start func(b *testing.B, w *world, encrypted bool) running
}

// running is a peer at work. The pid's descendants belong to it.
type running struct {
	name, addr string
	pid        int
	handshake  string // what a client that comes again gets; "" for plain HTTP
}

func (r running) url(encrypted bool, path string) string {
	if encrypted {
		return "https://" + r.addr + "/" + path
	}
	return "http://" + r.addr + "/" + path
}

func allPeers(b *testing.B) []peer {
	all := []peer{{direct, func(_ *testing.B, w *world, encrypted bool) running {
		if encrypted {
			return running{addr: w.backend.TLS}
		}
		return running{addr: w.backend.Plain}
	}}, {kernel, startKernel}, {"fairlead", startFairlead}, {"haproxy", startHAProxy}, {"nginx", startNginx}, {"caddy", startCaddy}, {"reverseproxy", startReverseProxy}}
	plain, encrypted := given(b, "PEER"), given(b, "PEER_TLS")
	for name := range encrypted {
		if _, ok := plain[name]; !ok {
			plain[name] = ""
		}
	}
	for _, name := range slices.Sorted(maps.Keys(plain)) {
		all = append(all, peer{name, startGiven(plain[name], encrypted[name])})
	}
	return all
}

// given reads peers of the caller's own: lines of name:command.
func given(b *testing.B, env string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(os.Getenv(env)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, command, ok := strings.Cut(line, ":")
		if !ok || !strings.Contains(command, "{listen}") || !strings.Contains(command, "{backend}") {
			b.Fatalf("%s=%q: name:command, with {listen} and {backend} in the command (and {cert} and {key} in PEER_TLS)", env, line)
		}
		out[name] = command
	}
	return out
}

func startGiven(plain, encrypted string) func(*testing.B, *world, bool) running {
	return func(b *testing.B, w *world, tls bool) running {
		command, addr := plain, freeAddr(b)
		if tls {
			command = encrypted
		}
		if command == "" {
			return running{}
		}
		command = strings.NewReplacer("{listen}", addr, "{backend}", w.backend.Plain, "{cert}", w.cert, "{key}", w.key).Replace(command)
		return running{addr: addr, pid: w.run(b, "peer", exec.Command("/bin/sh", "-c", "exec "+command))}
	}
}

// startFairlead starts a machine's edge and, as its table and its sockets are kept there, the supervisor. The agent is left out: it
// would put its own table in force. Only the edge stands in the figures, as no request meets the others.
func startFairlead(b *testing.B, w *world, encrypted bool) running {
	b.Helper()
	pid, client := newEdge(b, w)
	r := running{addr: freeAddr(b), pid: pid}
	route := edge.Route{Service: "bench", Environment: "production", Listen: r.addr, Backends: []edge.Backend{{Release: 1, Weight: 100,
		Endpoints: []edge.Endpoint{{Instance: 1, Addr: w.backend.Plain}}}}, Guard: protections()}
	if encrypted {
		route.TLS = &edge.TLS{Source: certs.Source{Kind: certs.Own, Cert: w.cert, Key: w.key}}
	}
	if _, err := client.Set(b.Context(), edge.Table{Routes: []edge.Route{route}}); err != nil {
		b.Fatal(err)
	}
	return r
}

// protections are all there are, each at work for every request, with values that no request of the benchmark meets.
func protections() *edge.Guard {
	const many = 1_000_000
	return &edge.Guard{
		Request: time.Minute, Try: 30 * time.Second, Eject: edge.Eject{Failures: 5, For: 10 * time.Second},
		Concurrency: edge.Concurrency{Limit: many, Queue: 100, Wait: 2 * time.Second},
		Rates: []edge.Rate{{Requests: many, Per: time.Second, Burst: many, By: "client"},
			{Requests: many, Per: time.Second, Burst: many, By: edge.ByHeader + "X-Api-Key"}},
		Body: 10 << 20, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8")},
	}
}

// newEdge starts an edge with an empty table.
func newEdge(b *testing.B, w *world) (pid int, client *edge.Client) {
	b.Helper()
	cli := rig.CLI(b)
	dir, err := os.MkdirTemp("", "fl") // short, for the sockets' sake
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	getenv := func(string) string { return dir }
	dirs, err := home.Find(getenv)
	if err == nil {
		err = dirs.Make()
	}
	if err == nil {
		err = keeper.SetStopping(dirs) // so that nobody starts the agent
	}
	if err != nil {
		b.Fatal(err)
	}
	daemon := func(role string) int {
		cmd := exec.Command(cli, "daemon", role)
		cmd.Env = append(os.Environ(), "FAIRLEAD_DIR="+dir)
		n := w.run(b, "fairlead-"+role, cmd)
		rig.Eventually(b, 15*time.Second, role+" runs", func() bool {
			_, err := os.Stat(dirs.Sock(role))
			return err == nil
		})
		return n
	}
	daemon(home.Supervisor)
	pid, client = daemon(home.Edge), edge.NewClient(dirs.Sock(home.Edge))
	info, err := client.Info(b.Context())
	if err != nil || info.PID != pid {
		b.Fatalf("the edge is process %d, and not %d: %v", info.PID, pid, err)
	}
	return pid, client
}

func startReverseProxy(b *testing.B, w *world, encrypted bool) running {
	b.Helper()
	r := running{addr: freeAddr(b)}
	args := []string{"-listen", r.addr, "-backend", w.backend.Plain}
	if encrypted {
		args = append(args, "-cert", w.cert, "-key", w.key)
	}
	r.pid = w.run(b, "reverseproxy", exec.Command(w.build(b, "reverseproxy"), args...))
	return r
}

// The peers' settings are what their manuals advise for speed where that costs nobody anything: as many threads as cores,
// connections kept to the backend, no access log, idle clients kept.

const haproxyConf = `global
  maxconn 11000
  no strict-limits
defaults
  mode http
  timeout connect 2s
  timeout client 300s
  timeout server 60s
  timeout http-keep-alive 300s
  option forwardfor
  http-reuse always
frontend front
  bind %s%s
  default_backend back
backend back
  server one %s pool-max-conn 512
`

func startHAProxy(b *testing.B, w *world, encrypted bool) running {
	b.Helper()
	r, secure := running{addr: freeAddr(b)}, ""
	if encrypted {
		secure = " ssl crt " + w.pem
	}
	conf := w.file(b, "haproxy.cfg", fmt.Appendf(nil, haproxyConf, r.addr, secure, w.backend.Plain))
	r.pid = w.run(b, "haproxy", exec.Command(rig.Tool(b, "haproxy", "haproxy"), "-db", "-f", conf))
	return r
}

const nginxConf = `daemon off;
user root;
worker_processes auto;
pid nginx.pid;
events { worker_connections 16000; }
http {
  access_log off;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  proxy_max_temp_file_size 0;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  upstream back { server %s; keepalive 128; keepalive_requests 1000000000; }
  server {
    listen %s%s backlog=4096;
    %s
    location / {
      proxy_pass http://back;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
    }
  }
}
`

func startNginx(b *testing.B, w *world, encrypted bool) running {
	b.Helper()
	r, ssl, files := running{addr: freeAddr(b)}, "", ""
	if encrypted {
		ssl, files = " ssl", fmt.Sprintf("ssl_certificate %s; ssl_certificate_key %s; ssl_protocols TLSv1.2 TLSv1.3;", w.cert, w.key) // of its own Debian's knows no 1.3
	}
	conf := w.file(b, "nginx.conf", fmt.Appendf(nil, nginxConf, w.backend.Plain, r.addr, ssl, files))
	r.pid = w.run(b, "nginx", exec.Command(rig.Tool(b, "nginx", "nginx"), "-p", w.dir, "-e", "stderr", "-c", conf))
	return r
}

const caddyConf = `{
  admin off
  auto_https off
  persist_config off
  servers {
    protocols h1 h2
  }
  log {
    level ERROR
  }
}
%s {
  %s
  reverse_proxy %s {
    transport http {
      keepalive_idle_conns 1024
      keepalive_idle_conns_per_host 512
      compression off
    }
  }
}
`

func startCaddy(b *testing.B, w *world, encrypted bool) running {
	b.Helper()
	r, files := running{addr: freeAddr(b)}, ""
	_, port, _ := strings.Cut(r.addr, ":")
	site := "http://:" + port
	if encrypted {
		site, files = "https://:"+port, fmt.Sprintf("tls %s %s", w.cert, w.key)
	}
	conf := w.file(b, "Caddyfile", fmt.Appendf(nil, caddyConf, site, "bind 127.0.0.1\n  "+files, w.backend.Plain))
	cmd := exec.Command(rig.GoTool(b, "github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9"), "run", "--adapter", "caddyfile", "--config", conf)
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+filepath.Join(w.dir, "caddy"), "XDG_CONFIG_HOME="+filepath.Join(w.dir, "caddy"))
	r.pid = w.run(b, "caddy", cmd)
	return r
}
