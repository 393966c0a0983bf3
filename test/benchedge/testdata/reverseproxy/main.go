// Reverseproxy is what the standard library gives by itself: the least that a proxy in Go costs when nobody tunes it. Only the
// number of connections kept to the backend is raised, since its default of two would measure connecting.
package main

import (
	"crypto/tls"
	"flag"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
)

func main() {
	addr := flag.String("listen", "", "`host:port`")
	backend := flag.String("backend", "", "`host:port`")
	cert := flag.String("cert", "", "PEM `file`; plain HTTP without it")
	key := flag.String("key", "", "its key's `file`")
	flag.Parse()
	to := &url.URL{Scheme: "http", Host: *backend}
	srv := &http.Server{Addr: *addr, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12}, Handler: &httputil.ReverseProxy{
		Transport: &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
	}}
	if *cert != "" {
		log.Fatal(srv.ListenAndServeTLS(*cert, *key))
	}
	log.Fatal(srv.ListenAndServe())
}
