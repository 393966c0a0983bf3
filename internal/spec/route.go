package spec

// Route says how traffic reaches the service.
type Route struct {
	Hosts  []string `json:"hosts,omitempty" jsonschema:"host names; all when empty"`
	Listen string   `json:"listen,omitempty" jsonschema:"public address, as :80; default: 127.0.0.1 and the first free port from 8080"`
	TLS    string   `json:"tls,omitempty" jsonschema:"off, auto (from a certificate authority, by ACME), own (from files), local (from an authority of the machine's own, for development) or passthrough (the instances end it, and the edge reads only which of hosts a client asks for); default off"`
	Mode   string   `json:"mode,omitempty" jsonschema:"how connections reach instances: proxy, kernel (handed over with no proxy; Linux, root) or adaptive (kernel, but through the proxy while a rollout is under way); default proxy"`

	Protocol  string `json:"protocol,omitempty" jsonschema:"what clients speak: http; tcp, of which each connection is passed on to an instance as it is; or udp, of which what comes from one port of a client goes to one instance; default http"`
	SendProxy string `json:"send_proxy,omitempty" jsonschema:"protocol: tcp and tls: passthrough: each connection to an instance begins with the PROXY protocol, v1 or v2; default: it does not"`

	HTTP        string      `json:"http,omitempty" jsonschema:"with tls: where plain HTTP is sent on to https, as :80, or off; default :80 where listen is port 443"`
	Certificate Certificate `json:"certificate,omitzero" jsonschema:"tls: own"`
	ACME        ACME        `json:"acme,omitzero" jsonschema:"tls: auto"`
	Clients     string      `json:"clients,omitempty" jsonschema:"a PEM file on the machine: only clients with a certificate of these authorities get in"`
	HTTP3       bool        `json:"http3,omitempty" jsonschema:"with tls: answer over HTTP/3, too, at the UDP port of listen, and tell clients of it (Alt-Svc)"`
	TLSMin      string      `json:"tls_min,omitempty" jsonschema:"the least version of TLS, 1.2 or 1.3; default 1.2"`

	Methods []string `json:"methods,omitempty" jsonschema:"only requests with one of these methods, as [GET, HEAD]: another service may have the others"`
	Header  string   `json:"header,omitempty" jsonschema:"only requests with this header, as X-Tenant or X-Tenant: blue: another service may have the others"`
	Paths   []string `json:"paths,omitempty" jsonschema:"only what lies below one of these, as [/api]: several services on one host; the longest path wins"`
	Strip   bool     `json:"strip,omitempty" jsonschema:"instances do not see the part of the path that paths names; it is in X-Forwarded-Prefix"`
	Headers Headers  `json:"headers,omitzero" jsonschema:"what is changed in requests and answers"`
	Trusted []string `json:"trusted,omitempty" jsonschema:"addresses of proxies in front, as 10.0.0.0/8: what they say of the client in X-Forwarded-For, -Proto and -Host counts"`
	Proxied bool     `json:"proxy_protocol,omitempty" jsonschema:"the proxies under trusted begin each connection with the PROXY protocol, version 1 or 2: who the client is they say there"`

	Preview     Preview     `json:"preview,omitzero" jsonschema:"who sees the newest release that runs, whatever its share of the traffic"`
	Timeouts    Timeouts    `json:"timeouts,omitzero" jsonschema:"how long a request may take, or a connection be silent"`
	Eject       Eject       `json:"eject,omitzero" jsonschema:"when an instance that answers badly is left out for a while; default: only one that takes no connection, for 1s"`
	Hedge       Hedge       `json:"hedge,omitzero" jsonschema:"when a GET, HEAD or OPTIONS that no instance has begun to answer is sent to a second one as well; default: never"`
	Concurrency Concurrency `json:"concurrency,omitzero" jsonschema:"how many requests the instances work on at once, and how many wait; default: no bound"`
	Rate        []RateLimit `json:"rate,omitempty" jsonschema:"how many requests a time somebody may make; all of them hold"`
	Body        Bytes       `json:"body,omitzero" jsonschema:"the longest body that a request may have, as 10MiB; default: no bound"`
	Allow       []string    `json:"allow,omitempty" jsonschema:"addresses and networks whose requests are answered, as 10.0.0.0/8; default: everybody's"`

	Auth        Auth       `json:"auth,omitzero" jsonschema:"who must say who they are before a request is answered; default: nobody"`
	Redirects   []Redirect `json:"redirects,omitempty" jsonschema:"what is elsewhere now; the first that fits counts"`
	Unavailable string     `json:"unavailable,omitempty" jsonschema:"an HTML file beside fairlead.yaml that browsers see while no instance can answer, as after fairlead stop; default: a line of text"`

	AccessLog AccessLog `json:"access_log,omitzero" jsonschema:"a line for each request, or for a sample of them; default: none"`
	Traces    Traces    `json:"traces,omitzero" jsonschema:"spans of requests, by OTLP to a collector; default: none"`

	Compress Compress `json:"compress,omitzero" jsonschema:"answers are compressed for clients that take them so; {} for what is usual; default: as the service sends them"`
	Cache    Cache    `json:"cache,omitzero" jsonschema:"answers are kept in the edge's memory as they allow it, and stand in for a service that is down; default: none are"`

	Faults []Fault `json:"faults,omitempty" jsonschema:"what goes wrong on purpose: for rehearsals, not for production"`
}

// Headers are changed on the way.
type Headers struct {
	Request  HeaderChange `json:"request,omitzero"`
	Response HeaderChange `json:"response,omitzero"`
}

// HeaderChange sets headers, in place of what they were, and removes others.
type HeaderChange struct {
	Set    map[string]string `json:"set,omitempty" jsonschema:"as {Strict-Transport-Security: max-age=31536000}"`
	Remove []string          `json:"remove,omitempty" jsonschema:"as [Server]"`
}

// Certificate is in PEM files on the machine. They are read again when they change.
type Certificate struct {
	Cert string `json:"cert,omitempty" jsonschema:"the chain, the server's own certificate first"`
	Key  string `json:"key,omitempty" jsonschema:"its private key"`
}

// ACME is where certificates come from.
type ACME struct {
	Directory string `json:"directory,omitempty" jsonschema:"the address of an ACME directory; default: Let's Encrypt's"`
	Email     string `json:"email,omitempty" jsonschema:"whom the authority may write to"`
	DNS       string `json:"dns,omitempty" jsonschema:"a command on the machine that sets DNS records: certificates for *.example.com, and for machines that nobody reaches, by DNS-01"`
	Roots     string `json:"roots,omitempty" jsonschema:"a PEM file on the machine by which the directory itself is verified; default: the system's roots"`
}

// Preview lets some see a release before it has traffic.
type Preview struct {
	Host   string `json:"host,omitempty" jsonschema:"a host name of its own, as next.shop.example.com"`
	Header string `json:"header,omitempty" jsonschema:"requests with this header, as X-Preview or X-Preview: yes"`

	Table   map[string][]string `json:"table,omitempty" jsonschema:"headers, and the values of each with which a request belongs to it, as {CF-IPCountry: [NZ, AU], X-Plan: [beta]}"`
	Clients []string            `json:"clients,omitempty" jsonschema:"addresses and networks of clients, as [10.0.0.0/8]"`
}

// On reports whether anybody sees it.
func (p Preview) On() bool {
	return p.Host != "" || p.Header != "" || len(p.Table) > 0 || len(p.Clients) > 0
}

// Fault is something that goes wrong on purpose.
type Fault struct {
	Share  Percent  `json:"share" jsonschema:"of the requests that match"`
	Delay  Duration `json:"delay,omitzero" jsonschema:"before the request is handed to an instance"`
	Abort  int      `json:"abort,omitempty" jsonschema:"a status from 400 to 599 that is answered in place of the instance"`
	Header string   `json:"header,omitempty" jsonschema:"only requests with this header, as X-Chaos or X-Chaos: yes"`
}
