package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

func (a *app) certsCmd() *cobra.Command {
	var root bool
	c := &cobra.Command{
		Use:   "certs",
		Short: "Show the certificates that this machine serves with, and when they end",
		Long: "certs lists the certificates of all routes with TLS: where they come from, when they end, and why one is missing or was not\n" +
			"renewed. With --root it prints the authority of `tls: local` in PEM, for a browser or a client that shall trust it.\n" + exitCodes,
		Example: "  fairlead certs\n  fairlead certs --root > root.pem && curl --cacert root.pem https://shop.localhost:8443",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			found, err := c.Certificates(cmd.Context())
			if err != nil {
				return err
			}
			if root {
				if found.LocalRoot == "" {
					return fail.New(fail.NotFound, "", "no service on this machine has `tls: local`").Hinted("set route.tls to local and deploy")
				}
				return a.print(map[string]string{"root": found.LocalRoot}, func(w io.Writer) { fmt.Fprint(w, found.LocalRoot) })
			}
			return a.print(found, func(w io.Writer) {
				t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				for _, x := range found.All {
					ends := "-"
					if !x.NotAfter.IsZero() {
						ends = fmt.Sprintf("%s (in %d days)", x.NotAfter.Format(time.DateOnly), int(time.Until(x.NotAfter).Hours()/24))
					}
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", strings.Join(x.Names, ", "), x.Kind, x.Issuer, ends, x.Error)
				}
				t.Flush()
			})
		},
	}
	c.Flags().BoolVar(&root, "root", false, "print the machine's own authority")
	return c
}
