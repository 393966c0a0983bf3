package edge

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Redirection is where something is now. A path that ends in "*" stands for all that begin as it does, and a "*" at the end of To
// for the rest of it.
type Redirection struct {
	From string `json:"from"` // a path
	To   string `json:"to"`   // a path or an address
	Code int    `json:"code"` // 301, 302, 303, 307 or 308
}

func (m Redirection) check(route string) error {
	if _, err := url.Parse(m.To); err != nil || !strings.HasPrefix(m.From, "/") || m.To == "" || m.Code < 301 || m.Code > 308 {
		return fail.New(fail.Internal, "routing table", "%s: %+v leads nowhere", route, m)
	}
	return nil
}

// leads returns where a request finds what it asks for, "" where it is not this that it asks for.
func (m Redirection) leads(u *url.URL) string {
	asked, to := u.EscapedPath(), m.To
	if from, open := strings.CutSuffix(m.From, "*"); open {
		rest, ok := strings.CutPrefix(asked, from)
		if !ok {
			return ""
		}
		if head, ok := strings.CutSuffix(to, "*"); ok {
			if strings.HasSuffix(head, "/") {
				rest = strings.TrimLeft(rest, `/\`) // "//evil.example" would be another host
			}
			to = head + rest
		}
	} else if asked != m.From {
		return ""
	}
	if u.RawQuery != "" && !strings.Contains(to, "?") {
		to += "?" + u.RawQuery
	}
	return to
}

// moved answers a request for what is elsewhere, and reports whether it was that.
func (rt *route) moved(w http.ResponseWriter, r *http.Request) bool {
	for _, m := range rt.Moved {
		if to := m.leads(r.URL); to != "" {
			w.Header().Set("Location", to)
			http.Error(w, "this is now at "+to, m.Code)
			return true
		}
	}
	return false
}

// page answers with the route's own page where a person asks, and reports whether it did.
func (rt *route) page(w http.ResponseWriter, accept string, code int) bool {
	if rt.Page == "" || !strings.Contains(accept, "text/html") {
		return false
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	w.Write([]byte(rt.Page))
	return true
}
