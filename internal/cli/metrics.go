package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

func (a *app) metricsCmd() *cobra.Command {
	listen := ""
	c := &cobra.Command{
		Use:   "metrics",
		Short: "Print the edge's counters, or serve this machine's metrics as a Prometheus",
		Long: "metrics prints requests, failures, retries and latency histograms by service, release and instance, in Prometheus's text format.\n\n" +
			"The agent keeps them, what instances use, and the services' own metrics (run.metrics) for 15 days. It has no open port: --listen\n" +
			"serves Prometheus's HTTP API on a loopback address until it is interrupted, for Grafana and promtool.\n" + exitCodes,
		Example: "  fairlead metrics | grep fairlead_edge_requests_total\n  fairlead metrics --listen 127.0.0.1:9090",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			if listen != "" {
				return a.servePrometheus(cmd.Context(), c, listen)
			}
			r, err := c.Metrics(cmd.Context())
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(a.Stdout, r)
			return err
		},
	}
	c.Flags().StringVar(&listen, "listen", "", "serve Prometheus's HTTP API on this loopback `ADDRESS`")
	return c
}

// servePrometheus passes the parts of the agent's socket that Prometheus has, and that only read, on to an address.
func (a *app) servePrometheus(ctx context.Context, c *api.Client, listen string) error {
	host, _, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fail.New(fail.Usage, "--listen", "%q is not a loopback address", listen).Hinted("write --listen 127.0.0.1:9090; for others, put a proxy that asks who they are in front of it")
	}
	if _, err := c.Info(ctx); err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fail.New(fail.Usage, "--listen", "%w", err)
	}
	pass := &httputil.ReverseProxy{Transport: c.Transport(), Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", "agent"
	}}
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.Path; !strings.HasPrefix(p, "/api/v1/") && !strings.HasPrefix(p, "/-/") && p != "/metrics" {
			http.NotFound(w, r)
			return
		}
		pass.ServeHTTP(w, r)
	})}
	fmt.Fprintf(a.Stderr, "Prometheus's API is at http://%s until you press Ctrl-C\n", l.Addr())
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}
