package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
)

func (a *app) metricsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "metrics",
		Short: "Print the edge's counters in Prometheus's text format",
		Long: "metrics prints requests, failures, retries and latency histograms by service, release and instance. The same text is\n" +
			"served under /metrics on the agent's and the edge's unix sockets.\n" + exitCodes,
		Example: "  fairlead metrics | grep fairlead_edge_requests_total",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.dirs()
			if err != nil {
				return err
			}
			r, err := api.Dial(d).Metrics(cmd.Context())
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(a.Stdout, r)
			return err
		},
	}
}
