package cli

import (
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/logs"
)

func TestAccessLine(t *testing.T) {
	const head = `{"time":"2026-01-02T03:04:05.123456789Z","level":"info","service":"shop","environment":"prod","release":3,"instance":2,"stream":"access",`
	for line, want := range map[string]string{
		`"outcome":"served","client.address":"192.0.2.7","http.request.method":"GET","server.address":"shop.example.com","server.port":8443,"url.path":"/a","url.query":"b=c",` +
			`"http.response.status_code":200,"http.server.request.duration":0.001234,"user_agent.original":"curl\u001b/8","http.request.header.x-id":["r\u001b1","r2"],"weight":20}`: `200    1.2ms GET shop.example.com:8443/a?b=c 3.2 192.0.2.7 "curl\x1b/8" x-id=r\u001b1","r2 x20`,
		`"outcome":"failed","error.type":"try_timeout","client.address":"::1","http.request.method":"POST","server.address":"a","url.path":"/\u001b[31m",` +
			`"http.response.status_code":504,"http.server.request.duration":12.345678,"weight":1}`: `504   12.35s POST a/\x1b[31m 3.2 ::1 failed (try_timeout)`,
		`"outcome":"served","error.type":"503","client.address":"::1","http.request.method":"GET","server.address":"a","url.path":"/",` +
			`"http.response.status_code":200,"http.server.request.duration":0.000012,"cache":"stale","weight":1}`: `200     12µs GET a/ 3.2 ::1 stale (503)`,
		`"outcome":"aborted","error.type":"client_gone","client.address":"::1","http.request.method":"GET","server.address":"a","url.path":"/",` +
			`"http.server.request.duration":0.000012,"weight":1}`: `---     12µs GET a/ 3.2 ::1 aborted (client_gone)`,
		`"outcome":"served","error.type":"idle_timeout","client.address":"::1","network.transport":"tcp","server.address":"db.example.com","bytes_sent":1536,"bytes_received":1023,` +
			`"duration":3600.5,"connected":0.000123,"weight":1}`: `tcp 1h0m0.5s out 1.5KiB in 1023B db.example.com 3.2 ::1 (idle_timeout)`,
		`"outcome":"served","client.address":"::1","network.transport":"udp","bytes_sent":100,"bytes_received":40,"duration":0.0004,"connected":0.000123,"weight":1}`:             `udp    400µs out 100B in 40B - 3.2 ::1`,
		`"outcome":"failed","error.type":"no_answer","client.address":"::1","network.transport":"tcp","bytes_sent":0,"bytes_received":2199023255552,"duration":0.001,"weight":1}`: `tcp      1ms out 0B in 2.0TiB - 3.2 ::1 failed (no_answer)`,
	} {
		var r logs.Record
		if err := r.UnmarshalJSON([]byte(head + line)); err != nil {
			t.Fatal(err)
		}
		_, got, _ := strings.Cut(accessLine(r, newStyles(false, func(string) string { return "" })), ".123 ")
		if got != want {
			t.Errorf("%q, want\n%q", got, want)
		}
	}
}
