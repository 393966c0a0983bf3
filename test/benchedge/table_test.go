package benchedge

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// row is a peer's figures in one shape.
type row struct {
	name, handshake string
	sample
}

func (r row) text(base float64) string {
	return fmt.Sprintf("%s: %.0f/s, × %.2f, p50 %s, p99 %s, %.2f s CPU, %.1f MB", r.name, r.rate, r.rate/base, ms(r.p50), ms(r.p99), r.cpu, r.memory)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1e3) }

// held is what idle connections cost everybody.
type held struct {
	conns int
	rows  []idleRow
}

// table collects what docs/edge-table.md says.
type table struct {
	duration time.Duration
	shapes   []string
	idle     map[string]held // by scheme
	beside   float64         // share of the machine that other work took
}

func (t *table) add(s shape, rows []row) {
	base := rows[0].rate
	more, line := "", ""
	if s.tls {
		more, line = " TLS |", "---|"
	}
	text := "### " + s.title() + "\n\n| | requests/s | × direct | p50 / p99, ms | CPU s for 100,000 | memory, MB |" + more + "\n|---|---|---|---|---|---|" + line + "\n"
	for _, r := range rows {
		cpu, memory, name := fmt.Sprintf("%.2f", r.cpu), fmt.Sprintf("%.0f", r.memory), r.name
		if r.name == direct || r.name == kernel {
			cpu, memory = "-", "-"
		}
		switch r.name {
		case "fairlead":
			name = "**fairlead**"
		case kernel:
			name = "**fairlead, by the kernel**"
		}
		text += fmt.Sprintf("| %s | %.0f | %.2f | %s / %s | %s | %s |", name, r.rate, r.rate/base, ms(r.p50), ms(r.p99), cpu, memory)
		if s.tls {
			text += " " + r.handshake + " |"
		}
		text += "\n"
	}
	t.shapes = append(t.shapes, text)
}

func (s shape) title() string {
	conn, size, how := "Keep-alive", "1 KB", "plain"
	if s.close {
		conn = "A connection for each request"
	}
	if s.size == "100k" {
		size = "100 KB"
	}
	if s.tls {
		how = "TLS"
	}
	return conn + ", " + size + ", " + how + " (`" + s.String() + "`)"
}

// page is the part of docs/edge-table.md that BenchmarkEdge writes.
func (t *table) page() string {
	text := fmt.Sprintf(head, rounds, t.duration, connections, machine(), 100*t.beside) + "\n" + strings.Join(t.shapes, "\n")
	plain, encrypted := t.idle["plain"], t.idle["tls"]
	if len(plain.rows)+len(encrypted.rows) == 0 {
		return text
	}
	n := max(plain.conns, encrypted.conns)
	note := ""
	if n < manyIdle {
		note = fmt.Sprintf("The limit of open files here allows no %d. ", manyIdle)
	}
	text += fmt.Sprintf(idleHead, n, note)
	cells := map[string][2]string{}
	var names []string
	for i, h := range []held{plain, encrypted} {
		for _, r := range h.rows {
			c, ok := cells[r.name]
			if !ok {
				names = append(names, r.name)
			}
			c[i] = fmt.Sprintf("%.0f → %.0f MB (%.1f kB)", r.base, r.whole, r.perConn(h.conns))
			cells[r.name] = c
		}
	}
	for _, name := range names {
		text += fmt.Sprintf("| %s | %s | %s |\n", name, cells[name][0], cells[name][1])
	}
	return text
}

const head = `# The edge beside other proxies

Written by ` + "`make bench-edge`" + ` (test/benchedge). Do not edit. Times drift with the machine; ratios hold better.

wrk with two threads, on loopback, everything on one machine: client, proxy and backend share its cores. Medians of %d rounds of %v each, all
peers in turns within a round, %d connections, one backend (a Go server with fixed bodies) for all. With TLS all serve the same
ECDSA P-256 certificate (fairlead: ` + "`tls: own`" + `), for direct the backend does. wrk comes back with its last session, and the column TLS says
whether a client that does may resume it, and which version it speaks. A proxy may then beat direct, whose TLS is Go's. No request failed.

- **fairlead, by the kernel** is ` + "`route.mode: kernel`" + `: the backend itself takes the connections, and no process stands between.
- **CPU** is that of all processes of the proxy, by /proc; of fairlead the edge's only, as no request meets the others.
- **Memory** is resident, while the load is on; what several processes share counts once.
- haproxy and nginx are Debian's, caddy is 2.11.9; "reverseproxy" is the standard library's, untuned but for the number of connections it
  keeps to the backend. All have as many threads as cores and no access log. fairlead counts each request in its histograms, and
  has every protection of docs/guide/edge.md on, with values that no request of this meets.

Measured on %s. Other work ran beside it and took about %.0f %% of the machine;
the more it was, the less a single rate says, while the CPU column holds better.

## Requests
`

const idleHead = `
## Memory at %d idle keep-alive connections

Each had one request; a new process for each row. %sFrom → to, and what one connection costs.

| | plain | TLS |
|---|---|---|
`

// The parts of the page, each written by one benchmark.
const (
	edgePart = iota
	scalePart
	parts
)

const seam = "\n<!-- make bench-edge, next part -->\n\n"

// write prints a part of the page and puts it into the file named by TABLE, beside the other part that is there. Figures that were got
// with failures are not kept.
func write(b *testing.B, part int, text string) {
	if b.Failed() {
		text = strings.ReplaceAll(text, "No request failed", "**Requests failed**")
	}
	fmt.Print(text)
	path := os.Getenv("TABLE")
	if path == "" || b.Failed() {
		return
	}
	all := make([]string, parts)
	if old, err := os.ReadFile(path); err == nil {
		copy(all, strings.SplitN(string(old), seam, parts))
	}
	all[part] = strings.TrimSuffix(text, "\n") + "\n"
	if err := os.WriteFile(path, []byte(strings.Join(all, seam)), 0o644); err != nil {
		b.Fatal(err)
	}
}
