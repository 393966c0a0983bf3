package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

func (a *app) keysCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "keys",
		Short: "Make and look at signing keys",
		Long: "A pair of keys is two files: NAME.key, encrypted with a passphrase, signs; NAME.pub verifies. cosign takes both.\n" +
			"The passphrase is asked for on the terminal or taken from $FAIRLEAD_KEY_PASSPHRASE.\n" + exitCodes,
		Example: "  fairlead keys new release --expires 365d",
	}
	c.AddCommand(a.keysNewCmd(), a.keysShowCmd())
	return c
}

func (a *app) keysNewCmd() *cobra.Command {
	var expires string
	c := &cobra.Command{
		Use:     "new [NAME]",
		Short:   "Make a pair of keys: NAME.key and NAME.pub",
		Long:    "new makes NAME.key and NAME.pub (release, when no NAME is given). It overwrites nothing.\n" + exitCodes,
		Example: "  fairlead keys new release\n  FAIRLEAD_KEY_PASSPHRASE=... fairlead keys new ci --expires 90d",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			name := "release"
			if len(args) > 0 {
				name = args[0]
			}
			end, err := expiry(expires)
			if err != nil {
				return err
			}
			return a.newKeys(name, end)
		},
	}
	c.Flags().StringVar(&expires, "expires", "", "how long it is valid, as 365d or 720h (default: for ever)")
	return c
}

func expiry(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	var days int
	if n, err := fmt.Sscanf(s, "%dd", &days); err == nil && n == 1 && fmt.Sprintf("%dd", days) == s && days > 0 {
		return time.Now().AddDate(0, 0, days), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return time.Time{}, fail.New(fail.Usage, "--expires", "%q is no duration above zero, as 365d or 720h", s)
	}
	return time.Now().Add(d), nil
}

func (a *app) newKeys(name string, expires time.Time) error {
	private, public := name+".key", name+".pub"
	for _, f := range []string{private, public} {
		if _, err := os.Stat(f); err == nil {
			return fail.New(fail.Usage, "", "%s is there already", f).Hinted("choose another name, or move it away: what it signed is verified with it")
		}
	}
	pass := []byte(a.Getenv("FAIRLEAD_KEY_PASSPHRASE"))
	if len(pass) == 0 {
		var err error
		if pass, err = a.passphrase("New passphrase for " + private + ": "); err != nil {
			return err
		}
		again, err := a.passphrase("Once more: ")
		if err != nil {
			return err
		}
		if !bytes.Equal(pass, again) {
			return fail.New(fail.Usage, "", "the two passphrases differ").Hinted("type the same one twice")
		}
	}
	k, err := sign.New(expires)
	if err != nil {
		return err
	}
	sealed, err := k.Seal(pass)
	if err != nil {
		return err
	}
	pem, err := k.PEM()
	if err != nil {
		return err
	}
	if err := exclusive(private, sealed, 0o600); err != nil {
		return err
	}
	if err := exclusive(public, pem, 0o644); err != nil {
		os.Remove(private)
		return err
	}
	return a.print(keyInfo(private, k.Public), func(w io.Writer) {
		fmt.Fprintf(w, "%s  %s\n%s  may be given to everybody who verifies\n", private, k.ID, public)
	})
}

// exclusive writes a file that must not be there.
func exclusive(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

func (a *app) keysShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE",
		Short:   "Tell a key's ID and when it expires",
		Long:    "show reads a public or a private key's file; it needs no passphrase.\n" + exitCodes,
		Example: "  fairlead keys show release.pub",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return fail.New(fail.Usage, "", "%w", err)
			}
			p, err := sign.ParsePublic(b)
			if err != nil && filepath.Ext(args[0]) == ".key" {
				if p.ID, err = sign.Sealed(b); p.ID == "" && err == nil {
					err = fail.New(fail.Usage, "", "the file does not tell its ID").Hinted("look at the public key's file")
				}
			}
			if err != nil {
				return err
			}
			return a.print(keyInfo(args[0], p), func(w io.Writer) {
				fmt.Fprintln(w, p.ID)
				if !p.Expires.IsZero() {
					fmt.Fprintln(w, "expires", p.Expires.Format(time.DateOnly))
				}
			})
		},
	}
}

func keyInfo(file string, p sign.Public) any {
	return struct {
		Type    string    `json:"type"`
		File    string    `json:"file"`
		ID      string    `json:"id"`
		Expires time.Time `json:"expires,omitzero"`
	}{"key", file, p.ID, p.Expires}
}
