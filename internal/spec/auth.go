package spec

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Auth says who is let in.
type Auth struct {
	Users   map[string]string `json:"users,omitempty" jsonschema:"names and the bcrypt hashes of their passwords, as htpasswd -nB writes them; the instances find the name in X-Forwarded-User"`
	Ask     string            `json:"ask,omitempty" jsonschema:"the address of a service that is asked about each request, as http://127.0.0.1:4180/verify: 2xx lets it in, and every other answer is the client's"`
	Headers []string          `json:"headers,omitempty" jsonschema:"of that service's answer that the instances get, as [X-User]"`
	Timeout Duration          `json:"timeout,omitzero" jsonschema:"that it may take; default 5s"`
}

// On reports whether anybody must say who he is.
func (a Auth) On() bool { return len(a.Users) > 0 || a.Ask != "" }

const defaultAsk = Duration(5 * time.Second)

func (d *decoder) authDefaults(a *Auth) {
	if a.Ask != "" {
		def(d, "route.auth.timeout", &a.Timeout, defaultAsk)
	}
}

// checkAuth holds what is said of who is let in to what can be asked.
func (d *decoder) checkAuth(a Auth) error {
	if d.places["route.auth"] == nil {
		return nil
	}
	if d.places["route.cache"] != nil {
		return d.at("route.cache", "what is kept of answers is for everybody, and with route.auth they are for who was let in").Hinted("remove one of them")
	}
	if !a.On() {
		return d.at("route.auth", "neither users nor ask: nobody could get in").Hinted("write auth: {users: {alice: $2y$10$...}}, or auth: {ask: http://127.0.0.1:4180/verify}")
	}
	for _, name := range sortedKeys(a.Users) {
		if name == "" || strings.ContainsAny(name, ":\r\n") {
			return d.at("route.auth.users", "%q cannot be a user's name", name)
		}
		if _, err := bcrypt.Cost([]byte(a.Users[name])); err != nil {
			return d.at("route.auth.users."+name, "this is not the bcrypt hash of a password").Hinted("write what `htpasswd -nB %s` prints behind the colon; never the password itself", name)
		}
	}
	if a.Ask == "" {
		if len(a.Headers) > 0 || a.Timeout != 0 {
			return d.at("route.auth", "headers and timeout belong to ask")
		}
		return nil
	}
	if u, err := url.Parse(a.Ask); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return d.at("route.auth.ask", "%q is not an address: write http://127.0.0.1:4180/verify", a.Ask)
	}
	if a.Timeout <= 0 {
		return d.at("route.auth.timeout", "must be above zero")
	}
	for i, h := range a.Headers {
		if !headerForm.MatchString(h) || strings.Contains(h, ":") || slices.ContainsFunc(hop, func(o string) bool { return strings.EqualFold(o, h) }) {
			return d.at(fmt.Sprintf("route.auth.headers[%d]", i), "%q is not the name of a header that an instance could get", h)
		}
	}
	return nil
}

// Redirect is where something is now.
type Redirect struct {
	From string `json:"from" jsonschema:"a path; /old/* for all below it"`
	To   string `json:"to" jsonschema:"a path or an address; a * at its end stands for what the * of from stood for"`
	Code int    `json:"code,omitempty" jsonschema:"301 or 308 for ever, 302, 303 or 307 for now; default 302"`
}

func (d *decoder) redirectDefaults(all []Redirect) {
	for i := range all {
		def(d, fmt.Sprintf("route.redirects[%d].code", i), &all[i].Code, 302)
	}
}

// checkRedirects holds redirections to paths that lead somewhere else.
func (d *decoder) checkRedirects(all []Redirect) error {
	for i, r := range all {
		at := fmt.Sprintf("route.redirects[%d]", i)
		from, open := strings.CutSuffix(r.From, "*")
		to, rest := strings.CutSuffix(r.To, "*")
		u, err := url.Parse(to)
		switch {
		case !strings.HasPrefix(from, "/") || strings.ContainsAny(from, "?#* "):
			return d.at(at+".from", "%q is not a path: write /old, or /old/*", r.From)
		case err != nil || to == "" || strings.ContainsAny(to, "* \r\n") || strings.HasPrefix(to, "//") || !strings.HasPrefix(to, "/") && (u.Scheme != "http" && u.Scheme != "https" || u.Host == ""):
			return d.at(at+".to", "%q is neither a path nor an address: write /new, or https://new.example.com/*", r.To)
		case rest && !open:
			return d.at(at+".to", "the * stands for nothing, as from has none")
		case r.To == r.From, open && rest && strings.HasPrefix(to, from):
			return d.at(at, "leads back to itself")
		case !slices.Contains([]int{301, 302, 303, 307, 308}, r.Code):
			return d.at(at+".code", "%d is none of 301, 302, 303, 307, 308", r.Code)
		}
	}
	return nil
}
