package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Each case is a file behind "service: a", and the place, words and hint of its error.
var refused = []struct{ yaml, place, text, hint string }{
	{"target: {ssh: [web1]}", "1:1", "route.listen: is missing", `{listen: ":80"}`},
	{"route: {listen: ':80'}\ntarget: {ssh: [web1, -oProxyCommand=x]}", "3:22", `"-oProxyCommand=x" is not a host`, "USER@HOST"},
	{"route: {listen: ':80'}\ntarget: {ssh: [web1, web1]}", "3:22", "web1 is there twice", ""},
	{"route: {listen: ':80'}\ntarget: {ssh: [web1], kubernetes: {}}", "3:9", "hosts and a cluster", "an environment of its own"},
	{"release: {fleet: {batch: 2}}", "2:18", "there is only this one", "target: {ssh:"},
	{"route: {listen: ':80'}\ntarget: {ssh: [a, b]}\nrelease: {fleet: {canary: 3}}", "4:27", "3 of 2 hosts cannot be first", ""},
	{"route: {listen: ':80'}\ntarget: {ssh: [a, b]}\nrelease: {fleet: {batch: 0}}", "4:26", "0 is no number of hosts", "25%"},
	{"route: {listen: ':80'}\ntarget: {ssh: [a, b]}\nrelease: {fleet: {pause: 25h}}", "4:26", "25h is not between", ""},
	{"route: {listen: ':80'}\ntarget: {ssh: [a, b]}\nrelease: {fleet: {max_failures: 2}}", "4:33", "2 of 2 hosts cannot fail", ""},
	{"route: {preview: {host: 'a b'}}", "2:25", `"a b" is not a host name`, ""},
	{"route: {preview: {table: {'X Y': [a]}}}", "2:34", `"X Y" is not the name of a header`, ""},
	{"route: {preview: {table: {X-Country: []}}}", "2:38", "no value of X-Country is listed", "[NZ, AU]"},
	{"route: {preview: {clients: [10.0.0.1/8]}}", "2:29", "write 10.0.0.0/8", ""},
	{"route: {mode: kernel, preview: {clients: [10.0.0.0/8]}}", "2:32", "done by who reads requests", ""},
	{"route: {preview: {header: 'X Preview'}}", "2:27", `"X Preview" is not a header`, ""},
	{"route: {faults: [{delay: 1s}]}", "2:18", "share: must be above zero", ""},
	{"route: {faults: [{share: 5%}]}", "2:18", "neither delay nor abort", ""},
	{"route: {faults: [{share: 5%, abort: 200}]}", "2:37", "200 is not a status from 400 to 599", ""},
	{"route: {timeouts: {try: 5}}", "2:25", "5 has no unit: write 5s", ""},
	{"route: {timeouts: {request: 2s, try: 2s}}", "2:38", "2s is not less than the 2s for the whole request", ""},
	{"route: {eject: {failures: 0}}", "2:16", "failures and for must be above zero", "{failures: 5, for: 10s}"},
	{"route: {eject: {for: 0s}}", "2:16", "failures and for must be above zero", ""},
	{"route: {concurrency: {queue: 5}}", "2:22", "limit: at least one request", "{limit: 200, queue: 100, wait: 2s}"},
	{"route: {concurrency: {limit: 0}}", "2:30", "limit: at least one request", ""},
	{"route: {concurrency: {limit: many}}", "2:30", "neither a number of requests nor auto", ""},
	{"route: {concurrency: {limit: 5, queue: -1}}", "2:22", "queue must not be negative", ""},
	{"route: {concurrency: {limit: 5, wait: 0s}}", "2:22", "wait must be above zero", "queue: 0"},
	{"route: {rate: [{limit: 100}]}", "2:24", `"100" is no rate: write 100/s`, ""},
	{"route: {rate: [{limit: 0/s}]}", "2:24", `"0/s" is no rate`, ""},
	{"route: {rate: [{limit: 5/day}]}", "2:24", "30/min or 1000/h", ""},
	{"route: {rate: [{burst: 5}]}", "2:16", `limit: "" is no rate`, ""},
	{"route: {rate: [{limit: 5/s}, {limit: 5/s, burst: 0}]}", "2:50", "0 is not between 1", ""},
	{"route: {rate: [{limit: 5/s, by: ip}]}", "2:33", `"ip" is none of client, route, header:NAME`, ""},
	{"route: {rate: [{limit: 5/s, by: 'header:X: y'}]}", "2:33", "is none of client", ""},
	{"route: {body: 0B}", "2:15", "less than any body has", ""},
	{"route: {body: 10M}", "2:15", "is not an amount of memory", ""},
	{"route: {allow: [10.0.0.0/8, localhost]}", "2:29", `"localhost" is neither an address nor a network`, ""},
	{"route: {allow: [10.0.0.1/8]}", "2:17", "write 10.0.0.0/8, or 10.0.0.1 for it alone", ""},
	{"route: {access_log: {sample: 5}}", "2:30", `"5" is not a share`, ""},
	{"route: {access_log: {sample: 101%}}", "2:30", `"101%" is not a share`, ""},
	{"route: {access_log: {slow: 1}}", "2:28", "1 has no unit: write 1s", ""},
	{"route: {access_log: {size: 1KiB}}", "2:28", "1KiB is too little", ""},
	{"route: {access_log: {header: [A]}}", "2:22", `no key "header" under route.access_log`, `did you mean "headers"?`},
	{"route: {access_log: true}", "2:21", "keys and values is wanted", ""},
	{"route: {access_log: {headers: [A, 'B C']}}", "2:35", `"B C" is not the name of a header`, "[User-Agent, X-Request-Id]"},
	{"route: {access_log: {headers: ['A: b']}}", "2:32", `"A: b" is not the name of a header`, ""},
	{"route: {access_log: {headers: [cookie]}}", "2:32", "cookie is a secret", "remove it"},
	{"route: {access_log: {headers: [SET-COOKIE]}}", "2:32", "is a secret", ""},
	{"route: {access_log: {headers: [A, Authorization]}}", "2:35", "Authorization is a secret", ""},
	{"route: {access_log: {headers: [Proxy-Authorization]}}", "2:32", "Proxy-Authorization is a secret", ""},
	{"route: {access_log: {headers: [Host]}}", "2:32", "as server.address", "remove it"},
	{"route: {access_log: {headers: [X-A, x-a]}}", "2:37", "x-a stands here a second time", ""},
	{"route: {mode: kernel, access_log: {}}", "2:35", "done by who reads requests", "route.mode: proxy"},
	{"route: {mode: adaptive, access_log: {}}", "2:37", "done by who reads requests", ""},
	{"route: {traces: {}}", "2:17", "where to?", "http://127.0.0.1:4318"},
	{"route: {traces: {endpoint: 'localhost:4318'}}", "2:28", `"localhost:4318" is not the address of a collector`, "http://127.0.0.1:4318"},
	{"route: {traces: {endpoint: 'http://'}}", "2:28", "is not the address", ""},
	{"route: {traces: {endpoint: 'http://a/?b'}}", "2:28", "is not the address", ""},
	{"route: {traces: {endpoint: 'http://a#b'}}", "2:28", "is not the address", ""},
	{"route: {traces: {endpoint: 'http://a/v1/traces/'}}", "2:28", "/v1/traces is put behind it anyway", "write http://a"},
	{"route: {traces: {endpoint: 'http://me:secret@a'}}", "2:28", "a password does not belong here", "on the machine"},
	{"route: {traces: {endpoint: 'http://a', sample: 5}}", "2:48", `"5" is not a share`, ""},
	{"route: {traces: {endpoint: 'http://a', ratio: 5%}}", "2:40", `no key "ratio" under route.traces`, ""},
	{"route: {mode: kernel, traces: {endpoint: 'http://a'}}", "2:31", "done by who reads requests", "route.mode: proxy"},
	{"route: {eject: {slower: 1}}", "2:25", "1 times as long as the others is no reason", "slower: 3"},
	{"route: {eject: {slower: 0}}", "2:25", "at least 2 times", ""},
	{"route: {eject: {slower: 2.5}}", "2:25", "", ""},
	{"route: {hedge: {}}", "2:16", "after what time?", "hedge: {after: p95}"},
	{"route: {hedge: {after: 50}}", "2:24", "50 has no unit", "hedge: {after: p95}"},
	{"route: {hedge: {after: p100}}", "2:24", "no percentile from p50 to p99", ""},
	{"route: {hedge: {after: p5}}", "2:24", "no percentile", ""},
	{"route: {hedge: {after: p+95}}", "2:24", "no percentile", ""},
	{"route: {hedge: {after: p}}", "2:24", "no percentile", ""},
	{"route: {hedge: {after: 0s}}", "2:24", "would send everything twice", ""},
	{"route: {hedge: {after: 2s}, timeouts: {try: 2s}}", "2:24", "is not less than what route.timeouts leaves", ""},
	{"route: {hedge: {after: 2s}, timeouts: {request: 1s}}", "2:24", "is not less than", ""},
	{"route: {mode: kernel, hedge: {after: p95}}", "2:30", "done by who reads requests", "route.mode: proxy"},
	{"route: {timeout: 5s}", "2:9", `no key "timeout" under route`, `did you mean "timeouts"?`},
	{"release: {mirror: {share: 10%}}", "2:19", "for must be above zero", ""},
	{"release: {mirror: {share: 0.5%, for: 1m}}", "2:27", "finer than 1 %", ""},
	{"release: {strategy: rolling, mirror: {for: 1m}}", "2:38", "needs both releases side by side", "blue-green or canary"},
	{"release: {hooks: {before: [migrate, up]}}", "2:27", `"migrate" is no program of this service`, "{migrate: ./cmd/migrate}"},
	{"release: {hooks: {after: [/bin/true], timeout: 0s}}", "2:48", "must be above zero", ""},
	{"release: {evidence: {probe: {rate: 5}}}", "2:29", "wants a path and at most 200 requests a second", ""},
	{"release: {evidence: {probe: {http: /, rate: 1000}}}", "2:29", "at most 200", ""},
	{"release: {gates: [{exec: [x], http: /}]}", "2:19", "exactly one of check, compare, promql, http, exec", ""},
	{"release: {gates: [{check: drill(sleep) <= 3d}]}", "2:27", "what can be rehearsed is rollback, switch, crash", ""},
	{"route: {tls: auto}", "2:14", "auto needs route.hosts", ""},
	{"route: {tls: own}", "2:8", "tls: own needs cert and key", "certificate: {cert: "},
	{"route: {tls: yes}", "2:14", `"yes" is none of off, auto, own, local`, ""},
	{"route: {tls: own, certificate: {cert: a.pem, key: /k}}", "2:39", `"a.pem" is not an absolute path`, ""},
	{"route: {certificate: {cert: /a, key: /b}}", "2:22", "belongs to tls: own", ""},
	{"route: {tls: local, acme: {email: a@b.c}}", "2:27", "belongs to tls: auto", ""},
	{"route: {tls: auto, hosts: [a.b], acme: {directory: 'http://x'}}", "2:52", "is not an https address", ""},
	{"route: {tls: auto, hosts: ['*.b.c']}", "2:27", "no certificate for *.b.c", "tls: own"},
	{"route: {http: ':80'}", "2:8", "need route.tls", "tls: auto, own or local"},
	{"route: {tls: local, http: '80'}", "2:27", `"80" is not an address`, ""},
	{"route: {tls: local, tls_min: 1.1}", "2:30", `"1.1" is none of 1.2, 1.3`, ""},
	{"route: {methods: [get]}", "2:19", `"get" is not a method`, ""},
	{"route: {methods: [GET, CONNECT]}", "2:24", `"CONNECT" is not a method`, ""},
	{"route: {methods: [GET, PUT, GET]}", "2:29", "GET is there twice", ""},
	{"route: {header: 'X Y'}", "2:17", `"X Y" is not a header`, ""},
	{"route: {header: 'host: a'}", "2:17", "the host is no header here", "hosts: [shop.example.com]"},
	{"route: {redirects: [{to: /a}]}", "2:21", `"" is not a path`, ""},
	{"route: {redirects: [{from: /a*b, to: /c}]}", "2:28", `"/a*b" is not a path`, ""},
	{"route: {redirects: [{from: /a, to: //evil.example}]}", "2:36", "neither a path nor an address", ""},
	{"route: {redirects: [{from: /a, to: 'ftp://b'}]}", "2:36", "neither a path nor an address", ""},
	{"route: {redirects: [{from: /a, to: /b/*}]}", "2:36", "the * stands for nothing", ""},
	{"route: {redirects: [{from: /a, to: /b}, {from: /c/*, to: /c/d/*}]}", "2:41", "leads back to itself", ""},
	{"route: {redirects: [{from: /a, to: /b, code: 304}]}", "2:46", "304 is none of 301", ""},
	{"route: {auth: {ask: 'http://a/'}, cache: {}}", "2:42", "for who was let in", "remove one"},
	{"route: {auth: {}}", "2:15", "nobody could get in", "users: {alice"},
	{"route: {auth: {users: {alice: secret}}}", "2:31", "not the bcrypt hash", "htpasswd -nB alice"},
	{"route: {auth: {users: {'a:b': secret}}}", "2:23", `"a:b" cannot be a user's name`, ""},
	{"route: {auth: {ask: 127.0.0.1:4180}}", "2:21", "is not an address: write http://127.0.0.1:4180/verify", ""},
	{"route: {auth: {ask: 'http://a/', timeout: 0s}}", "2:43", "must be above zero", ""},
	{"route: {auth: {ask: 'http://a/', headers: [Connection]}}", "2:44", "is not the name of a header that an instance could get", ""},
	{"route: {auth: {users: {alice: $2y$05$abcdefghijklmnopqrstuuXkqMQ3Wp3K3ZDZhJDlqfQ7Vx0bQv0Gm}, headers: [A]}}", "2:15", "headers and timeout belong to ask", ""},
	{"route: {mode: kernel, auth: {ask: 'http://a/'}}", "2:29", "done by who reads requests", "route.mode: proxy"},
	{"route: {tls: passthru, hosts: [a.b]}", "2:14", `"passthru" is none of off, auto, own, local, passthrough`, `did you mean "passthrough"?`},
	{"route: {tls: passthrough, tls_min: 1.3}", "2:8", "the instances have the handshakes", ""},
	{"route: {tls: passthrough, certificate: {cert: /a, key: /b}}", "2:40", "belongs to tls: own", ""},
	{"route: {protocol: udq}", "2:19", `"udq" is none of http, tcp, udp`, `did you mean "udp"?`},
	{"route: {protocol: udp, mode: kernel}", "2:30", "datagrams have none", "leave route.mode out"},
	{"route: {protocol: udp, mode: adaptive}", "2:30", "datagrams have none", ""},
	{"route: {protocol: udp}\nrun: {port: 53}", "3:13", "not for UDP", "PORT"},
	{"route: {protocol: udp, tls: local}", "2:29", "of connections", "DTLS"},
	{"route: {protocol: udp, tls: passthrough}", "2:29", "of connections", ""},
	{"route: {protocol: udp, send_proxy: v2}", "2:36", "of connections", ""},
	{"route: {protocol: udp, trusted: [10.0.0.0/8], proxy_protocol: true}", "2:63", "of connections", "remove it"},
	{"route: {protocol: udp, trusted: [10.0.0.0/8]}", "2:33", "of connections", ""},
	{"route: {protocol: udp, http3: true}", "2:31", "of connections", ""},
	{"route: {protocol: udp, hosts: [a.b]}", "2:31", "names no host", "route.listen of its own"},
	{"route: {protocol: udp, preview: {host: a.b}}", "2:40", "names no host", ""},
	{"route: {protocol: udp, paths: [/a]}", "2:31", "with route.protocol: udp datagrams are passed on as they are", ""},
	{"route: {protocol: udp, body: 1MiB}", "2:30", "by who reads requests", ""},
	{"route: {protocol: udp, timeouts: {try: 1s}}", "2:40", "by who reads requests", ""},
	{"route: {protocol: udp, concurrency: {limit: auto}}", "2:45", "by who reads requests", ""},
	{"route: {protocol: udp, access_log: {slow: 1s}}", "2:43", "by who reads requests", ""},
	{"route: {protocol: udp, rate: [{limit: 1/s, by: 'header:X-A'}]}", "2:48", "by who reads requests", ""},
	{"route: {protocol: udp}\nrelease: {mirror: {for: 1m}}", "3:19", "by who reads requests", ""},
	{"route: {protocol: udp}\nrelease: {sticky: 'cookie:a'}", "3:19", "by who reads requests", ""},
	{"route: {protocol: udp}\nrelease: {evidence: {probe: {http: /}}}", "3:29", "by who reads requests", ""},
	{"run: {probes: {ready: {tcp: true, udp: true}}}", "2:23", "exactly one of http, tcp, udp, exec and grpc is wanted, here are 2", ""},
	{"route: {protocol: tpc}", "2:19", `"tpc" is none of http, tcp, udp`, `did you mean "tcp"?`},
	{"route: {protocol: tcp, send_proxy: v3}", "2:36", `"v3" is none of v1, v2`, ""},
	{"route: {send_proxy: v1}", "2:21", "many clients' requests", "protocol: tcp"},
	{"route: {timeouts: {idle: 1h}}", "2:26", "for connections that are passed on", "tls: passthrough"},
	{"route: {protocol: tcp, hosts: [a.b]}", "2:31", "names no host", "route.listen of its own"},
	{"route: {protocol: tcp, preview: {host: a.b}}", "2:40", "names no host", ""},
	{"route: {protocol: tcp, tls: local, http: ':80'}", "2:42", "is no HTTP", "remove it"},
	{"route: {protocol: tcp, trusted: [10.0.0.0/8]}", "2:33", "in headers", "proxy_protocol: true"},
	{"route: {protocol: tcp, paths: [/a]}", "2:31", "with route.protocol: tcp connections are passed on as they are", "protocol: http"},
	{"route: {tls: passthrough, paths: [/a]}", "2:34", "with route.tls: passthrough connections are passed on as they are", "protocol: http"},
	{"route: {protocol: tcp, headers: {request: {set: {X-A: b}}}}", "2:43", "by who reads requests", ""},
	{"route: {protocol: tcp, headers: {response: {remove: [X-A]}}}", "2:44", "by who reads requests", ""},
	{"route: {tls: passthrough, preview: {header: X-A}}", "2:45", "by who reads requests", ""},
	{"route: {protocol: tcp, methods: [GET]}", "2:33", "by who reads requests", ""},
	{"route: {protocol: tcp, redirects: [{from: /a, to: /b}]}", "2:35", "by who reads requests", ""},
	{"route: {protocol: tcp, preview: {table: {X-A: [b]}}}", "2:41", "by who reads requests", ""},
	{"route: {protocol: tcp, body: 1MiB}", "2:30", "by who reads requests", ""},
	{"route: {protocol: tcp, timeouts: {request: 1s}}", "2:44", "by who reads requests", ""},
	{"route: {protocol: tcp, timeouts: {try: 1s}}", "2:40", "by who reads requests", ""},
	{"route: {protocol: tcp, concurrency: {limit: auto}}", "2:45", "by who reads requests", ""},
	{"route: {protocol: tcp, access_log: {query: true}}", "2:44", "by who reads requests", ""},
	{"route: {protocol: tcp, access_log: {headers: [X-A]}}", "2:46", "by who reads requests", ""},
	{"route: {protocol: tcp, access_log: {slow: 1s}}", "2:43", "by who reads requests", ""},
	{"route: {protocol: tcp, rate: [{limit: 1/s}, {limit: 1/s, by: 'header:X-A'}]}", "2:62", "by who reads requests", ""},
	{"route: {protocol: tcp, faults: [{share: 1%, delay: 1s, header: X-A}]}", "2:64", "by who reads requests", ""},
	{"route: {protocol: tcp}\nrelease: {mirror: {for: 1m}}", "3:19", "by who reads requests", ""},
	{"route: {protocol: tcp}\nrelease: {sticky: 'cookie:a'}", "3:19", "by who reads requests", ""},
	{"route: {protocol: tcp}\nrelease: {evidence: {probe: {http: /}}}", "3:29", "by who reads requests", ""},
	{"route: {mode: kernel, tls: passthrough}", "2:28", "the kernel hands over connections", "route.mode: proxy"},
	{"route: {mode: kernel, protocol: tcp, send_proxy: v2}", "2:50", "the kernel hands over connections", ""},
	{"route: {mode: adaptive, protocol: tcp, timeouts: {idle: 1m}}", "2:50", "the kernel hands over connections", ""},
	{"route: {paths: [api]}", "2:17", `"api" is not a path`, ""},
	{"route: {paths: [/a/../b]}", "2:17", `"/a/../b" is not a path`, ""},
	{"route: {strip: true}", "2:16", "nothing to take off without route.paths", ""},
	{"route: {trusted: [10.0.0.0/33]}", "2:19", "is neither an address nor a network", ""},
	{"route: {http3: true}", "2:16", "HTTP/3 is always encrypted", "write tls: auto"},
	{"route: {tls: local, mode: kernel, http3: true}", "2:42", "the kernel hands", ""},
	{"route: {tls: local, mode: adaptive, http3: true}", "2:44", "the kernel hands", ""},
	{"route: {tls: local, proxy_protocol: true, trusted: [10.0.0.1], http3: true}", "2:71", "no packet of QUIC begins with the PROXY protocol", "leave out one"},
	{"route: {proxy_protocol: true}", "2:25", "whose word counts?", "trusted: [10.0.0.0/8]"},
	{"route: {tls: auto, hosts: ['*.b.c'], acme: {dns: hook}}", "2:50", "is not an absolute path", ""},
	{"route: {mode: kernal}", "2:15", `"kernal" is none of proxy, kernel, adaptive`, `did you mean "kernel"?`},
	{"route: {mode: kernel, hosts: [a.b]}", "2:30", "the kernel hands over connections that nobody reads", "route.mode: proxy"},
	{"route: {mode: adaptive, timeouts: {try: 1s}}", "2:35", "the kernel hands over connections", ""},
	{"route: {mode: kernel}\nrelease: {sticky: 'cookie:a'}", "3:19", "the kernel hands over connections", ""},
	{"run: {port: 70000}", "2:13", "70000 is not a port", ""},
	{"route: {headers: {response: {remove: ['a b']}}}", "2:29", `"a b" is not the name of a header`, ""},
	{"route: {headers: {request: {set: {Host: x}}}}", "2:28", "Host is the edge's own affair", ""},
	{"route: {headers: {request: {set: {X-A: \"a\\nb\"}}}}", "2:40", "a header's value is one line", ""},
	{"runn: {}", "2:1", `no key "runn" at the top`, `did you mean "run"?`},
	{"run: {instnaces: 2}", "2:7", `no key "instnaces" under run`, `"instances"`},
	{"run:\n  limits:\n    Memory: 1GiB", "4:5", `no key "Memory" under run.limits`, `"memory"`},
	{"run: {probes: {ready: {zzzzzzzz: 1}}}", "2:24", "under run.probes.ready", "the keys here are: delay, exec"},
	{"environments: {e: {service: b}}", "2:20", `no key "service" under environments.e`, ""},
	{"service: b", "2:1", "second time", ""},
	{"run: {env: {A: b, A: c}}", "2:19", "run.env.A stands here a second time", ""},
	{"run: []", "2:6", "run: keys and values is wanted, here is a list", ""},
	{"run:", "2:5", "run: keys and values is wanted, here is nothing", ""},
	{"run: {args: --listen}", "2:13", `run.args: a list, as [one, two] is wanted, here is "--listen"`, ""},
	{"run: {args: [a, {b: c}]}", "2:17", "run.args[1]: a single value is wanted, here is keys and values", ""},
	{"run: {env: {A: null}}", "2:16", "run.env.A: a single value", ""},
	{"run: {env: {A: [1]}}", "2:16", "run.env.A: a single value is wanted, here is a list", ""},
	{"run: {instances: two}", "2:18", `a whole number is wanted, here is "two"`, ""},
	{"run: {instances: \"2\"}", "2:18", "a whole number", ""},
	{"run: {instances: 2.0}", "2:18", "a whole number", ""},
	{"run: {instances: 010}", "2:18", "010 is an octal number to some readers", `write 10, or "010" if it is text`},
	{"run: {env: {MODE: -0755}}", "2:19", "-0755 is an octal number", `write -755, or "-0755"`},
	{"run: {env: {N: 00}}", "2:16", "00 is an octal number", `write 0, or "00"`},
	{"run: {instances: 0}", "2:18", "0 is not between 1 and 200", ""},
	{"run: {instances: 201}", "2:18", "201 is not between", ""},
	{"build: {debug: yes}", "2:16", `true or false is wanted, here is "yes"`, ""},
	{"build: {platforms: [linux/amd64, linux]}", "2:34", `"linux" is not GOOS/GOARCH`, ""},
	{"build: {platforms: [linux/arm/v9]}", "2:21", `"9" is no level of arm; Go knows 5, 6, 7`, ""},
	{"build: {platforms: [linux/amd64, linux/amd64]}", "2:34", `stands there twice`, ""},
	{"build: {programs: {worker: ''}}", "2:28", `names no main package`, "./cmd/worker"},
	{"build: {image: {base: 'registry.example.com/base:1'}}", "2:23", `has no digest`, "@sha256:"},
	{"build: {image: {repository: 'Shop:latest'}}", "2:29", `is not HOST/PATH`, ""},
	{"build: {image: {compression: xz}}", "2:30", `"xz" is none of zstd, gzip`, ""},
	{"run: {limits: {memory: 512}}", "2:24", "512 has no unit: write 512MiB", ""},
	{"run: {limits: {memory: 1KiB}}", "2:24", "less than a Go program needs", ""},
	{"run: {limits: {cpu: NaN}}", "2:21", `"NaN" is not a number of cores`, ""},
	{"run: {limits: {files: 3}}", "2:15", "files must be at least 64", ""},
	{"run: {startup_timeout: 30}", "2:24", "30 has no unit: write 30s", ""},
	{"run: {startup_timeout: 0s}", "2:24", "must be above zero", ""},
	{"run: {stop: {drain: -5s}}", "2:21", "-5s is negative", ""},
	{"run: {stop: {signal: TREM}}", "2:22", `"TREM" is none of TERM`, `did you mean "TERM"?`},
	{"run: {logs: {size: 0B}}", "2:20", "too little", ""},
	{"run: {secrets: {A: hunter2}}", "2:20", "a reference, not a value", ""},
	{"run: {secrets: {A: 'vault://x'}}", "2:20", "a reference, not a value", ""},
	{"run: {env: {A: b}, secrets: {A: 'env://A'}}", "2:33", "stands under run.env, too", ""},
	{"run: {env: {PORT: 1}}", "2:19", "run.env.PORT: is not a name", ""},
	{"run: {env: {A B: 1}}", "2:18", "run.env.A B: is not a name", ""},
	{"run: {args: ['{{.Prot}}']}", "2:14", "{{.Prot}} is not known", "did you mean {{.Port}}?"},
	{"run: {args: [a, '{{oh}}']}", "2:17", "{{oh}} is not known", "known are {{.Port}}"},
	{`run: {env: {A: "a\0b"}}`, "2:16", "a zero byte", ""},
	{"run: {probes: {ready: {tcp: false}}}", "2:23", "exactly one of http, tcp, udp, exec and grpc is wanted, here are 0", ""},
	{"run: {probes: {live: {http: /x, grpc: ''}, startup: {}}}", "2:53", "run.probes.startup", ""},
	{"run: {probes: {live: {http: healthz}}}", "2:29", "is not a path", ""},
	{"run: {probes: {live: {http: /, failures: 0}}}", "2:22", "must be above zero", ""},
	{"route: {hosts: [a.de, a..b]}", "2:23", `"a..b" is not a host name`, ""},
	{"route: {listen: 8080}", "2:17", "is not an address", ""},
	{"route: {listen: ':+80'}", "2:17", "is not an address", ""},
	{"route: {listen: ':65536'}", "2:17", "is not an address", ""},
	{"route: {tls: on}", "2:14", `"on" is none of off, auto`, ""},
	{"release: {strategy: bluegreen}", "2:21", "none of recreate", `did you mean "blue-green"?`},
	{"release: {steps: [5%, 5%]}", "2:23", "5% is not more than the step before", ""},
	{"release: {steps: [5]}", "2:19", `"5" is not a share`, ""},
	{"release: {steps: [NaN%]}", "2:19", `"NaN%" is not a share`, ""},
	{"release: {surge: some}", "2:18", "neither a number of instances nor a share", ""},
	{"release: {strategy: rolling, surge: 0, unavailable: 0%}", "2:10", "cannot move", "surge: 1"},
	{"release: {keep: 0}", "2:17", "at least one", ""},
	{"release: {gates: [{check: x, promql: y}]}", "2:19", "here are 2", ""},
	{"release: {gates: [{check: x, else: rolback}]}", "2:36", "none of rollback", `did you mean "rollback"?`},
	{"environments: {E: {}}", "2:19", "an environment's name", ""},
	{"environments: {e: {run: {instances: 999}}, default: {run: {instances: 888}}}", "2:71", "888 is not between", ""},
	{"<<: {run: {}}", "2:1", `no key "<<"`, ""},
	{"run: {args: *x}", "2:13", "unknown anchor 'x'", ""},
	{"run: {args: [a", "3:1", "this is no YAML", ""},
	{"\trun: {}", "2:1", "this is no YAML", ""},
	{"run: {env: {A: '\xff'}}", "2:17", "a byte 0xff", ""},
	{"x: ü\x07", "2:5", "a byte 0x07", ""},
	{"---\nb: c", "2:1", "a second document begins here", "remove the line `---`"},
}

func TestRefused(t *testing.T) {
	for _, c := range refused {
		t.Run(c.yaml, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte("service: a\n"+c.yaml+"\n"), "/srv", "")
			checkError(t, err, "f.yaml:"+c.place, c.text, c.hint)
		})
	}
}

func checkError(t *testing.T, err error, place, text, hint string) {
	t.Helper()
	e, ok := errors.AsType[*fail.Error](err)
	if !ok || e.Kind != fail.Usage {
		t.Fatalf("%v (%T) is no usage error", err, err)
	}
	if e.Place != place || !strings.Contains(e.Err.Error(), text) || !strings.Contains(e.Hint, hint) {
		t.Errorf("%s: %v (%s)\nwant %s: %s (%s)", e.Place, e.Err, e.Hint, place, text, hint)
	}
}

func TestRefusedAsAWhole(t *testing.T) {
	for _, c := range []struct{ yaml, env, place, text, hint string }{
		{"", "", "f:1:1", "the file is empty", "service: NAME"},
		{"\n# nothing\n", "", "f:1:1", "the file is empty", "service: NAME"},
		{"- a", "", "f:1:1", "the file: keys and values is wanted, here is a list", ""},
		{"# c\nrun: {}", "", "f:1:1", "service: is missing", "service: NAME"},
		{"service: Shop", "", "f:1:10", `"Shop" is not a name`, ""},
		{"service: " + strings.Repeat("a", 41), "", "f:1:10", "at most 40", ""},
		{"service: a\nenvironments: {staging: {}}", "stagign", "f:2:15", `no environment "stagign"`, `did you mean "staging"?`},
		{"service: a", "zzzzz", "f:1:1", `no environment "zzzzz"`, "the file has: default"},
	} {
		_, err := Parse("f", []byte(c.yaml), "/srv", c.env)
		checkError(t, err, c.place, c.text, c.hint)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(dir, "")
	checkError(t, err, "", "there is no "+filepath.Join(dir, FileName), "fairlead init")
	path := filepath.Join(dir, FileName)
	if err := os.WriteFile(path, []byte("service: shop"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, path} {
		if s, err := Load(p, ""); err != nil || s.Dir != dir || s.Service != "shop" {
			t.Errorf("%+v %v", s, err)
		}
	}
	if err := os.Truncate(path, maxFile+1); err != nil {
		t.Fatal(err)
	}
	_, err = Load(dir, "")
	checkError(t, err, "", "a spec has at most", "")
}

// TestBombs holds that a small file cannot become large: bounded in time and in memory.
func TestBombs(t *testing.T) {
	var laughs strings.Builder
	laughs.WriteString("service: a\nenvironments:\n  e0: &e0 {run: {env: {A: b}}}\n")
	for i := range 5000 {
		fmt.Fprintf(&laughs, "  f%d: *e0\n", i)
	}
	list := "[" + strings.Repeat("x,", 10000) + "]"
	for name, text := range map[string]string{
		"aliases":        laughs.String(),
		"a list, often":  "service: a\nrun: {args: &a " + list + "}\nenvironments:\n" + "  e: {run: {args: *a}, build: {tags: *a, flags: *a}}\n",
		"a cycle":        "service: a\nrun: &r {probes: {ready: *r}}",
		"a list in list": "service: a\nrun: {args: &a [*a, *a]}",
		"nested aliases": "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\nservice: *c",
		"deep":           "service: " + strings.Repeat("[", 500000),
		"deep in blocks": "service: " + strings.Repeat("- ", 500000),
		"a long key":     strings.Repeat("x", 1<<20-10) + ": y",
		"many keys":      "service: a\nrun:\n  env:\n" + strings.Repeat("    ? x\n", 100000),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := Parse("f", []byte(text), "/srv", "")
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if fail.KindOf(err) != fail.Usage {
				t.Errorf("%.200v", err)
			}
			if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 15*time.Second || mb > 500 {
				t.Errorf("took %s and %d MB", took, mb)
			}
		})
	}
}

var position = regexp.MustCompile(`^f:(\d+):(\d+)$`)

func FuzzParse(f *testing.F) {
	f.Add("service: a\n" + example)
	f.Add("service: a\nenvironments: {e: &e {run: {env: {A: 1}}}, default: *e}")
	for _, c := range refused {
		f.Add("service: a\n" + c.yaml)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse("f", []byte(text), "/srv", "")
		if err != nil {
			e := fail.As(err)
			m := position.FindStringSubmatch(e.Place)
			if e.Kind != fail.Usage || m == nil {
				t.Fatalf("%q gives %q at %q", text, err, e.Place)
			}
			// The parser reports a file that ends too soon at the line behind it; it also ends lines at NEL, LS and PS.
			lines := 2 + len(regexp.MustCompile("\r\n|[\r\n\u0085\u2028\u2029]").FindAllString(text, -1))
			if n, _ := strconv.Atoi(m[1]); n < 1 || n > lines {
				t.Fatalf("%q gives line %d of %d: %v", text, n, lines, err)
			}
			return
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var wire Spec
		if err := json.Unmarshal(b, &wire); err != nil {
			t.Fatalf("%q is resolved to %s: %v", text, b, err)
		}
		if again, err := json.Marshal(wire); err != nil || string(again) != string(b) {
			t.Fatalf("%s\nis read back as\n%s (%v)", b, again, err)
		}
	})
}
