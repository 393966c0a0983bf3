package spec

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	defaultEjectFailures = 5
	defaultEjectFor      = Duration(10 * time.Second)
	defaultQueue         = 100
	defaultQueueWait     = Duration(2 * time.Second)
)

// Timeouts bound how long a request may take; what is 0 is not bounded.
type Timeouts struct {
	Request Duration `json:"request,omitzero" jsonschema:"from a request's arrival to the end of its answer; default: no bound"`
	Try     Duration `json:"try,omitzero" jsonschema:"from handing it to an instance to the beginning of the answer; default: no bound"`
	Idle    Duration `json:"idle,omitzero" jsonschema:"protocol: tcp and tls: passthrough: how long nothing may go over a connection; 0s for ever; default 1h; protocol: udp: over a flow; default 2m, and 10s at port 53"`
}

// Eject leaves an instance out for a while; the other instances of its release take its share.
type Eject struct {
	Failures int      `json:"failures,omitempty" jsonschema:"5xx answers and requests it did not answer, in a row; default 5"`
	For      Duration `json:"for,omitzero" jsonschema:"the first time; up to ten times that when it goes on; default 10s"`
	Slower   int      `json:"slower,omitempty" jsonschema:"one that usually takes as many times as long as the others to begin an answer; 2 or more; default: how long it takes does not matter"`
}

// Concurrency bounds the requests that the instances work on at once, all together.
type Concurrency struct {
	Limit Limit    `json:"limit" jsonschema:"requests under way, or auto to find out how many are good for the service"`
	Queue int      `json:"queue,omitempty" jsonschema:"how many more may wait their turn; default 100"`
	Wait  Duration `json:"wait,omitzero" jsonschema:"for how long; default 2s"`
}

// RateLimit bounds how many requests a time somebody may make.
type RateLimit struct {
	Limit string `json:"limit" jsonschema:"as 100/s, 30/min or 1000/h"`
	Burst int    `json:"burst,omitempty" jsonschema:"how many may come at once; default: what comes in a second, at least 1"`
	By    string `json:"by,omitempty" jsonschema:"whose requests are counted together: client (an address, of IPv6 its /64), route (all) or header:NAME; default client"`
}

var rateUnits = []struct {
	name string
	span time.Duration
}{{"s", time.Second}, {"min", time.Minute}, {"h", time.Hour}}

// maxRate is more than one machine can answer in a second, and still a whole number of nanoseconds for each request.
const maxRate = 1_000_000

// ParseRate reads "100/s": n requests in each span. The error says how it is written.
func ParseRate(s string) (n int, span time.Duration, err error) {
	num, unit, _ := strings.Cut(s, "/")
	n, err = strconv.Atoi(strings.TrimSpace(num))
	for _, u := range rateUnits {
		if err == nil && n > 0 && n <= maxRate && strings.TrimSpace(unit) == u.name {
			return n, u.span, nil
		}
	}
	return 0, 0, fmt.Errorf("%q is no rate: write 100/s, 30/min or 1000/h", s)
}

// ParseNetwork reads one address, or all that have a beginning in common: 192.0.2.7, 10.0.0.0/8, 2001:db8::/32. The error
// says how it is written.
func ParseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network: write 192.0.2.7 or 10.0.0.0/8", s)
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, fmt.Errorf("%s is an address within a network: write %s, or %s for it alone", s, m, p.Addr())
	}
	return p, nil
}

// Limit is a number of requests, or [Auto].
type Limit int

// Auto is a limit that the edge finds out.
const Auto Limit = -1

// String writes the limit as it stands in the file.
func (l Limit) String() string {
	if l == Auto {
		return "auto"
	}
	return strconv.Itoa(int(l))
}

func (l *Limit) parse(s string) error {
	if s == "auto" {
		*l = Auto
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return fmt.Errorf("%q is neither a number of requests nor auto", s)
	}
	*l = Limit(n)
	return nil
}

// MarshalJSON implements [json.Marshaler].
func (l Limit) MarshalJSON() ([]byte, error) { return marshalText(l) }

// UnmarshalJSON implements [json.Unmarshaler].
func (l *Limit) UnmarshalJSON(b []byte) error { return unmarshalText(b, l) }

// guardDefaults fills in what a protection that is asked for leaves open.
func (d *decoder) guardDefaults(r *Route) {
	if d.places["route.eject"] != nil {
		def(d, "route.eject.failures", &r.Eject.Failures, defaultEjectFailures)
		def(d, "route.eject.for", &r.Eject.For, defaultEjectFor)
	}
	if d.places["route.concurrency"] != nil {
		def(d, "route.concurrency.queue", &r.Concurrency.Queue, defaultQueue)
		def(d, "route.concurrency.wait", &r.Concurrency.Wait, defaultQueueWait)
	}
	for i := range r.Rate {
		l := &r.Rate[i]
		path := fmt.Sprintf("route.rate[%d]", i)
		def(d, path+".by", &l.By, "client")
		if n, span, err := ParseRate(l.Limit); err == nil {
			def(d, path+".burst", &l.Burst, max(n/int(span/time.Second), 1))
		}
	}
}

// checkGuard holds the protections of a route to what can be done.
func (d *decoder) checkGuard(r Route) error {
	if t := r.Timeouts; t.Request != 0 && t.Try >= t.Request {
		return d.at("route.timeouts.try", "%s is not less than the %s for the whole request: no instance could be late", t.Try, t.Request)
	}
	if d.places["route.eject"] != nil && (r.Eject.Failures < 1 || r.Eject.For <= 0) {
		return d.at("route.eject", "failures and for must be above zero").Hinted("write eject: {failures: 5, for: 10s}, or nothing")
	}
	if n := r.Eject.Slower; d.places["route.eject.slower"] != nil && n < 2 {
		return d.at("route.eject.slower", "%d times as long as the others is no reason: at least 2 times", n).Hinted("write eject: {slower: 3}, or remove it")
	}
	switch c := r.Concurrency; {
	case d.places["route.concurrency"] == nil:
	case c.Limit == 0:
		return d.at("route.concurrency.limit", "at least one request must be let through").Hinted("write concurrency: {limit: 200, queue: 100, wait: 2s}")
	case c.Queue < 0 || c.Queue > 0 && c.Wait <= 0:
		return d.at("route.concurrency", "queue must not be negative, and wait must be above zero for those in it").Hinted("write queue: 0 for no waiting")
	}
	for i, l := range r.Rate {
		if err := d.checkRate(fmt.Sprintf("route.rate[%d]", i), l); err != nil {
			return err
		}
	}
	if d.places["route.body"] != nil && r.Body < 1 {
		return d.at("route.body", "%s is less than any body has: write 10MiB", r.Body)
	}
	for i, a := range r.Allow {
		if _, err := ParseNetwork(a); err != nil {
			return d.at(fmt.Sprintf("route.allow[%d]", i), "%v", err)
		}
	}
	return nil
}

func (d *decoder) checkRate(path string, l RateLimit) error {
	if _, _, err := ParseRate(l.Limit); err != nil {
		return d.at(path+".limit", "%v", err)
	}
	if l.Burst < 1 || l.Burst > maxRate {
		return d.at(path+".burst", "%d is not between 1, for no two at once, and %d", l.Burst, maxRate)
	}
	name, header := strings.CutPrefix(l.By, "header:")
	if l.By != "client" && l.By != "route" && !(header && headerForm.MatchString(name) && !strings.Contains(name, ":")) {
		return d.at(path+".by", "%q is none of client, route, header:NAME", l.By)
	}
	return nil
}
