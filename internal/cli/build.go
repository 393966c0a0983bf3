package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/deploy"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

func (a *app) buildCmd() *cobra.Command {
	var o deploy.BuildOptions
	var check bool
	c := &cobra.Command{
		Use:   "build [FOLDER]",
		Short: "Make the artifact: programs, images, SBOM, provenance, signature",
		Long: "build makes static programs for every platform of the spec and puts them into an OCI image layout: an index with an image a\n" +
			"platform, SBOMs in CycloneDX and SPDX, SLSA provenance and, with build.sign, a signature. It prints the digest of the index.\n" +
			"The same source and toolchain give the same digest in any folder, for any user, on any day; --check builds a second time in\n" +
			"a temporary folder and says what differs and why. What did not change is not made again.\n" + exitCodes,
		Example: "  fairlead build\n  fairlead build --platform linux/amd64 --platform linux/arm64/v8.0\n  fairlead build -o image && skopeo inspect oci:image\n  fairlead build --check",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deploy(folder(args))
			if err != nil {
				return err
			}
			if check {
				return a.checkBuild(cmd, d, o)
			}
			m, err := d.Build(cmd.Context(), o)
			a.ui.end(err)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"type": "artifact", "artifact": m.Bundle, "layout": m.Layout.Dir}, func(w io.Writer) { fmt.Fprintln(w, m.Index.Digest) })
		},
	}
	c.Flags().StringArrayVar(&o.Platforms, "platform", nil, "build for this platform instead of the spec's; may be repeated")
	c.Flags().BoolVar(&o.Race, "race", false, "with the race detector, for tests on this machine")
	c.Flags().StringVarP(&o.Output, "output", "o", "", "also write the image layout to this new folder")
	c.Flags().BoolVar(&check, "check", false, "build again in a temporary folder and compare")
	return a.withRegistry(a.withEnv(c))
}

func (a *app) checkBuild(cmd *cobra.Command, d deploy.Deploy, o deploy.BuildOptions) error {
	r, err := d.CheckBuild(cmd.Context(), o)
	a.ui.end(err)
	if err != nil {
		return err
	}
	err = a.print(map[string]any{"type": "reproducible", "check": r}, func(w io.Writer) {
		s := newStyles(isTerminal(w), a.Getenv)
		if r.Same {
			fmt.Fprintf(w, "%s  %s\n", s.good("reproducible"), r.Digest)
			return
		}
		fmt.Fprintf(w, "%s  %s here, %s in %s\n", s.bad("different"), r.Digest, r.Other, "another folder")
		for _, x := range r.Differences {
			fmt.Fprintf(w, "  %s: %s\n", s.bold(x.File), x.What)
			for _, c := range x.Causes {
				fmt.Fprintf(w, "    %s\n", c)
			}
		}
	})
	if err == nil && !r.Same {
		err = fail.New(fail.Build, "", "two builds of the same source differ").Hinted("%s", r.Hint())
	}
	return err
}

// withRegistry adds the flags of what speaks to registries.
func (a *app) withRegistry(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&a.plain, "plain-http", false, "speak to a registry on this machine without TLS")
	c.Flags().BoolVar(&a.loose, "insecure-tls", false, "take whatever certificate a registry shows")
	return c
}
