package spec

import (
	"net"
	"path/filepath"
	"strings"
)

// checkTLS holds what route says of certificates together.
func (d *decoder) checkTLS(r Route) error {
	if err := d.oneOf("route.tls", r.TLS, "off", "auto", "own", "local", passthrough); err != nil {
		return err
	}
	c := r.Certificate
	switch {
	case r.TLS == "own" && (c.Cert == "" || c.Key == ""):
		return d.at("route.certificate", "tls: own needs cert and key").Hinted("write certificate: {cert: /etc/ssl/shop.pem, key: /etc/ssl/shop.key}")
	case r.TLS != "own" && c != (Certificate{}):
		return d.at("route.certificate", "belongs to tls: own")
	case r.TLS != "auto" && r.ACME != (ACME{}):
		return d.at("route.acme", "belongs to tls: auto")
	case r.TLS == "auto" && len(r.Hosts) == 0:
		return d.at("route.tls", "auto needs route.hosts: a certificate is for names")
	case r.TLS == "off" && (r.Clients != "" || r.HTTP != "" || r.TLSMin != ""):
		return d.at("route", "clients, http and tls_min need route.tls").Hinted("write tls: auto, own or local")
	case r.TLS == passthrough && (r.Clients != "" || r.TLSMin != ""):
		return d.at("route", "with tls: passthrough the instances have the handshakes: clients and tls_min are their affair")
	case r.ACME.Directory != "" && !strings.HasPrefix(r.ACME.Directory, "https://"):
		return d.at("route.acme.directory", "%q is not an https address", r.ACME.Directory)
	}
	for i, h := range r.Hosts {
		if r.TLS == "auto" && strings.HasPrefix(h, "*.") && r.ACME.DNS == "" {
			return d.at("route.hosts", "no certificate for %s can be had by HTTP-01 or TLS-ALPN-01", r.Hosts[i]).Hinted("set DNS records by a command, acme: {dns: /usr/local/bin/dns-hook}; or name the hosts; or use files, tls: own")
		}
	}
	for _, f := range []struct{ path, file string }{
		{"route.certificate.cert", c.Cert}, {"route.certificate.key", c.Key}, {"route.clients", r.Clients}, {"route.acme.roots", r.ACME.Roots},
		{"route.acme.dns", r.ACME.DNS},
	} {
		if f.file != "" && !filepath.IsAbs(f.file) {
			return d.at(f.path, "%q is not an absolute path: the file is on the machine, not beside fairlead.yaml", f.file)
		}
	}
	if r.HTTP != "" && r.HTTP != "off" {
		if _, port, err := net.SplitHostPort(r.HTTP); err != nil || port == "" {
			return d.at("route.http", "%q is not an address: write \":80\", or off", r.HTTP)
		}
	}
	if r.TLSMin != "" {
		return d.oneOf("route.tls_min", r.TLSMin, "1.2", "1.3")
	}
	return nil
}
