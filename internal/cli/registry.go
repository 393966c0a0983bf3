package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/deploy"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/registry"
)

func (a *app) registry() registry.Options {
	return registry.Options{PlainHTTP: a.plain, InsecureTLS: a.loose, Events: a.ui.event}
}

// passphrase asks on the terminal, without showing what is typed.
func (a *app) passphrase(prompt string) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, fail.New(fail.Usage, "", "a passphrase is needed, and there is no terminal to ask on").Hinted("set FAIRLEAD_KEY_PASSPHRASE, from a secret of your CI")
	}
	defer tty.Close()
	a.ui.pause()
	fmt.Fprint(tty, prompt)
	p, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	return p, err
}

func (a *app) pushCmd() *cobra.Command {
	var o deploy.PushOptions
	c := &cobra.Command{
		Use:   "push [REF]",
		Short: "Send the artifact to a registry",
		Long: "push builds what changed and sends the artifact, with SBOMs, provenance and signature as OCI 1.1 referrers, to REF or to\n" +
			"build.image.repository. Without a tag in REF it is called, where they apply, vX.Y.Z and X.Y (a clean checkout of that tag),\n" +
			"sha-COMMIT, and latest (the newest version that is no pre-release). Layers that are there are not sent; what broke off goes on.\n" +
			"Credentials are those of `docker login`.\n" + exitCodes,
		Example: "  fairlead push registry.example.com/team/shop\n  fairlead push localhost:5000/shop:dev --plain-http",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deploy(o.Dir)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				o.Ref = args[0]
			}
			p, err := d.Push(cmd.Context(), o)
			a.ui.end(err)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"type": "pushed", "pushed": p}, func(w io.Writer) { fmt.Fprintln(w, p.Repository+"@"+p.Digest) })
		},
	}
	c.Flags().StringVarP(&o.Dir, "folder", "C", ".", "the service's folder")
	c.Flags().StringVar(&o.Layout, "layout", "", "send what this image layout holds instead of building")
	c.Flags().StringArrayVar(&o.Tags, "tag", nil, "call it this instead; may be repeated")
	return a.withRegistry(a.withEnv(c))
}

func (a *app) pullCmd() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "pull REF",
		Short: "Fetch an artifact from a registry into an image layout",
		Long: "pull fetches an image index with all platforms and what vouches for it, and checks every digest. What broke off goes on with\n" +
			"the same command.\n" + exitCodes,
		Example: "  fairlead pull registry.example.com/team/shop:v1.2.3 -o shop",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deploy(".")
			if err != nil {
				return err
			}
			root, err := d.Pull(cmd.Context(), args[0], out)
			a.ui.end(err)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"type": "pulled", "digest": root.Digest.String(), "layout": out}, func(w io.Writer) { fmt.Fprintln(w, root.Digest) })
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "the image layout to write to (default: a new folder with the repository's name)")
	return a.withRegistry(c)
}

func (a *app) verifyCmd() *cobra.Command {
	var o deploy.VerifyOptions
	c := &cobra.Command{
		Use:   "verify [REF|LAYOUT]",
		Short: "Check digests, signature and policy of an artifact",
		Long: "verify reads an artifact from a registry or an image layout, checks every digest down to the files in the layers, and looks\n" +
			"for a signature by one of the keys. Without an argument it looks at the last build of the service in this folder.\n" + exitCodes,
		Example: "  fairlead verify --key release.pub registry.example.com/team/shop:v1.2.3\n  fairlead verify --policy policy.yaml image",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deploy(".")
			if err != nil {
				return err
			}
			if len(args) > 0 {
				o.What = args[0]
			}
			v, err := d.Verify(cmd.Context(), o)
			if v != nil && err == nil {
				return a.print(map[string]any{"type": "verified", "verified": v}, func(w io.Writer) { writeVerified(w, v, o) })
			}
			return err
		},
	}
	c.Flags().StringArrayVar(&o.Keys, "key", nil, "an allowed public key's file; may be repeated. With one the artifact must be signed")
	c.Flags().StringVar(&o.Policy, "policy", "", "a policy file, as `fairlead agent policy` takes")
	c.Flags().StringArrayVar(&o.Forbid, "forbid", nil, "a module that must not be in it, as PATH or PATH@<VERSION; may be repeated")
	return a.withRegistry(c)
}

func writeVerified(w io.Writer, v *bundle.Verified, o deploy.VerifyOptions) {
	fmt.Fprintf(w, "%s\n  %s %s for %s\n  %d blobs, %.1f MB, each has its digest\n", v.Digest, v.Name, v.Version, strings.Join(v.Platforms, ", "), v.Blobs, float64(v.Bytes)/1e6)
	switch {
	case v.SignedBy != "":
		fmt.Fprintf(w, "  signed with %s at %s\n", v.SignedBy[:min(len(v.SignedBy), 19)], v.SignedAt.Format(time.RFC3339))
		if v.Source != "" {
			fmt.Fprintf(w, "  built from %s\n", v.Source)
		}
	case len(o.Keys) == 0 && o.Policy == "":
		fmt.Fprintln(w, "  signatures were not looked at: give --key")
	}
	fmt.Fprintf(w, "  %d modules in the SBOM\n", v.Modules)
}
