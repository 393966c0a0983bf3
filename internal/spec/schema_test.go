package spec

import (
	"encoding/json"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v4"
)

// example is section 10 of the design.
const example = `
service: shop
build:
  main: ./cmd/shop
  platforms: [linux/amd64, linux/arm64]
run:
  args: ["--listen", "127.0.0.1:{{.Port}}"]
  instances: 2
  env: {LOG_LEVEL: info}
  secrets: {DB_PASSWORD: sops://secrets.yaml#db.password}
  limits: {memory: 512MiB, cpu: 1.5, files: 65536}
  probes:
    ready: {http: /ready, interval: 2s, timeout: 1s, failures: 3}
    live: {http: /healthz, interval: 10s, timeout: 5s, failures: 3, delay: 15s}
  stop: {signal: TERM, drain: 30s}
route:
  hosts: [shop.example.com]
  listen: ":443"
  tls: auto
release:
  strategy: canary
  steps: [5%, 25%, 100%]
  gates:
    - {check: "errors <= 1%", else: rollback}
    - {check: "p95 <= 500ms", else: rollback}
    - {check: "cpu <= 90%", else: pause}
    - {compare: [errors, latency], false_alarm: 1%}
    - {promql: 'rate(orders_failed_total{release="$canary"}[1m]) < 0.1'}
environments:
  staging: {target: {ssh: [deploy@web1.example.com, deploy@web2.example.com]}}
  production:
    target: {kubernetes: {context: prod, namespace: shop}}
    run: {instances: 6}
`

func schema(t *testing.T) *jsonschema.Resolved {
	t.Helper()
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	r, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// asJSON is the file as an editor hands it to the schema.
func asJSON(t *testing.T, text string) any {
	t.Helper()
	var v, out any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSchemaAndReaderAccept(t *testing.T) {
	r := schema(t)
	for _, text := range []string{
		example, "service: a", "service: a\nrun: {limits: {cpu: 2}}\nrelease: {surge: 1, unavailable: 25%}",
		"service: a\nrun: {startup_timeout: 1m30s, stop: {drain: 250ms}, logs: {age: 7d, size: 1 GB}, probes: {ready: {grpc: ''}}}",
		"service: a\nrelease: {warm: 1.5h, watch: 0s}", "service: a\nenvironments: {e: {}}",
		"service: a\nroute: {timeouts: {request: 30s, try: 2s}, eject: {slower: 3}, rate: [{limit: 100/s}], body: 10MiB, allow: [10.0.0.0/8]}",
		"service: a\nroute: {access_log: {}}", "service: a\nroute: {access_log: {sample: 0.1%, slow: 250ms, query: true, headers: [User-Agent], size: 1GiB, age: 30d}}",
		"service: a\nroute: {tls: own, certificate: {cert: /a, key: /b}}", "service: a\nroute: {tls: passthrough, hosts: [a.b], send_proxy: v2, timeouts: {idle: 10m}, access_log: {}}",
		"service: a\nroute: {protocol: tcp, mode: kernel}", "service: a\nroute: {protocol: tcp, rate: [{limit: 5/s}], concurrency: {limit: 9}, eject: {}, allow: [10.0.0.1], faults: [{share: 1%, abort: 503}]}\nrelease: {sticky: client}",
		"service: a\nroute: {hedge: {after: p95}}", "service: a\nroute: {hedge: {after: 50ms}}",
		"service: a\nroute: {traces: {endpoint: 'http://127.0.0.1:4318'}}", "service: a\nroute: {traces: {endpoint: 'https://otel.example.com/in', sample: 0.1%}}",
		"service: a\nroute: {compress: {}, cache: {}}", "service: a\nroute: {compress: {types: [text/*], min: 2KiB}, cache: {size: 1GiB, object: 1MiB, default: 10s, stale_if_error: 1d, across_releases: true}}",
		"service: a\nroute: {concurrency: {limit: auto}}", "service: a\nroute: {concurrency: {limit: 5, queue: 0}}",
	} {
		if err := r.Validate(asJSON(t, text)); err != nil {
			t.Errorf("the schema refuses %q: %v", text, err)
		}
		for _, env := range []string{"", "staging", "production"} {
			if _, err := Parse("f", []byte(text), "/srv", env); err != nil && (env == "" || text == example) {
				t.Errorf("the reader refuses %q in %q: %v", text, env, err)
			}
		}
	}
}

func TestSchemaAndReaderRefuse(t *testing.T) {
	r := schema(t)
	for _, text := range []string{
		"run: {}", "service: A", "service: 5", "service: a\nrunn: {}", "service: a\nrun: {limits: {mem: 1GiB}}", "service: a\nrun: []", "service: a\nrun: null",
		"service: a\nrun: {args: x}", "service: a\nrun: {args: null}", "service: a\nrun: {args: [[a]]}", "service: a\nrun: {instances: two}", "service: a\nrun: {instances: 1.5}",
		"service: a\nrun: {env: {A: null}}", "service: a\nrun: {env: {A: [b]}}", "service: a\nrun: {secrets: {A: hunter2}}", "service: a\nrun: {probes: {ready: null}}",
		"service: a\nrun: {startup_timeout: 30}", "service: a\nrun: {startup_timeout: 30 s}", "service: a\nrun: {limits: {memory: 512}}", "service: a\nrun: {limits: {memory: 512M}}",
		"service: a\nrun: {limits: {cpu: [1]}}", "service: a\nrelease: {steps: [5]}", "service: a\nrelease: {steps: 5%}", "service: a\nrelease: {surge: -1%}", "service: a\nrelease: {surge: 1.5}",
		"service: a\nrelease: {strategy: big-bang}", "service: a\nroute: {tls: maybe}", "service: a\nroute: {concurrency: {limit: some}}", "service: a\nroute: {rate: {limit: 5/s}}", "service: a\nroute: {mode: x}", "service: a\nroute: {protocol: sctp}", "service: a\nroute: {protocol: tcp, send_proxy: v3}", "service: a\nbuild: {debug: 1}",
		"service: a\nenvironments: {e: {service: b}}", "service: a\nenvironments: {e: null}", "service: a\nrelease: {gates: [{chek: x}]}", "service: a\ntarget: {ssh: host}",
		"service: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
	} {
		if err := r.Validate(asJSON(t, text)); err == nil {
			t.Errorf("the schema accepts %q", text)
		}
		if _, err := Parse("f", []byte(text), "/srv", ""); err == nil {
			t.Errorf("the reader accepts %q", text)
		}
	}
}
