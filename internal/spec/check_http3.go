package spec

// checkHTTP3 holds that what is asked for with route.http3 goes together with it.
func (d *decoder) checkHTTP3(r Route) error {
	const at = "route.http3"
	switch {
	case !r.HTTP3:
		return nil
	case r.TLS == "off":
		return d.at(at, "HTTP/3 is always encrypted").Hinted("write tls: auto, own or local")
	case r.Mode != "proxy":
		return d.at(at, "with route.mode: %s the kernel hands TCP connections over, and QUIC has none", r.Mode).Hinted("leave route.mode out: the edge answers HTTP/3 itself")
	case r.Proxied:
		return d.at(at, "no packet of QUIC begins with the PROXY protocol").Hinted("leave out one of http3 and proxy_protocol: a balancer of UDP must keep the clients' addresses")
	}
	return nil
}
