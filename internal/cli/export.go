package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/deploy"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

func (a *app) exportCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "export",
		Short: "Write what other tools take",
		Long: "export builds what changed and writes it for other tools: `image` for docker, podman and skopeo, `binary` for a plain copy,\n" +
			"`dockerfile` for those who go on without fairlead. Without -o it writes to standard output.\n" + exitCodes,
		Example: "  fairlead export image | docker load\n  fairlead export dockerfile -o Dockerfile",
	}
	c.AddCommand(
		a.exporter("image [FOLDER]", "A tar file that `docker load`, `podman load` and `skopeo copy oci-archive:` take", "  fairlead export image -o shop.tar && podman load -i shop.tar", deploy.Deploy.ExportImage),
		a.exporter("binary [FOLDER]", "The program itself", "  fairlead export binary --platform linux/arm64 -o shop", deploy.Deploy.ExportBinary),
		a.exporter("dockerfile [FOLDER]", "A multi-stage Dockerfile that builds the same program", "  fairlead export dockerfile -o Dockerfile && docker build .", deploy.Deploy.ExportDockerfile),
	)
	return c
}

// exporter is one format.
func (a *app) exporter(use, short, example string, write func(deploy.Deploy, context.Context, deploy.ExportOptions, io.Writer) error) *cobra.Command {
	var o deploy.ExportOptions
	var out string
	c := &cobra.Command{
		Use: use, Short: short, Long: short + ".\n" + exitCodes, Example: example, Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deploy(folder(args))
			if err != nil {
				return err
			}
			if out == "" && isTerminal(a.Stdout) && cmd.Name() != "dockerfile" {
				return fail.New(fail.Usage, "", "a terminal cannot show it").Hinted("name a file, -o FILE, or pipe it: `fairlead export image | docker load`")
			}
			mode := os.FileMode(0o644)
			if cmd.Name() == "binary" {
				mode = 0o755
			}
			err = a.toFile(out, mode, func(w io.Writer) error { return write(d, cmd.Context(), o, w) })
			a.ui.end(err)
			return err
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "the file to write")
	if c.Name() != "dockerfile" {
		c.Flags().StringVar(&o.Platform, "platform", "", "of which platform (default: this machine's, or the only one)")
	}
	return a.withEnv(c)
}

// toFile gives write a file that is there only when it is whole, or standard output for "".
func (a *app) toFile(path string, mode os.FileMode, write func(io.Writer) error) error {
	if path == "" {
		return write(a.Stdout)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".export-*")
	if err != nil {
		return fail.New(fail.Usage, "write "+path, "%w", err)
	}
	defer os.Remove(f.Name())
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if fi, err := os.Stat(path); err == nil {
		mode = fi.Mode().Perm()
	}
	if err := os.Chmod(f.Name(), mode); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
