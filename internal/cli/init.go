package cli

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/build"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// The files of a new service. Their names end in .txt so that the go command does not take them for ours.
//
//go:embed all:template
var template embed.FS

func (a *app) initCmd() *cobra.Command {
	var fresh string
	c := &cobra.Command{
		Use:   "init [FOLDER]",
		Short: "Adopt the Go module in a folder, or make a new service",
		Long: "init finds the module's main packages and writes the smallest fairlead.yaml that works. With --new NAME it makes a small\n" +
			"service that does the right things: health endpoints, JSON logs, graceful stop, its port from PORT. It overwrites nothing.\n" + exitCodes,
		Example: "  fairlead init\n  fairlead init --new shop && cd shop && fairlead up",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if fresh != "" {
				return a.newService(cmd.Context(), filepath.Join(folder(args), fresh), fresh)
			}
			return a.adopt(cmd.Context(), folder(args))
		},
	}
	c.Flags().StringVar(&fresh, "new", "", "make a new service of this name in a folder of this name")
	return c
}

// adopt writes a fairlead.yaml for the module that dir stands in.
func (a *app) adopt(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, spec.FileName)
	if _, err := os.Lstat(path); err == nil {
		return fail.New(fail.Usage, "", "%s is there already", path).Hinted("run `fairlead check`, or remove the file first")
	}
	if mod, err := exec.CommandContext(ctx, "go", "-C", dir, "env", "GOMOD").Output(); err == nil && strings.TrimSpace(string(mod)) == os.DevNull {
		return fail.New(fail.Usage, "", "%s is not in a Go module", dir).Hinted("run `go mod init NAME` there, or make a new service: `fairlead init --new NAME`")
	}
	mains, err := build.MainPackages(ctx, build.Params{Dir: dir}, "./...")
	if err != nil {
		return err
	}
	if len(mains) == 0 {
		return fail.New(fail.Usage, "", "there is no main package in %s", dir).Hinted("run this in a Go module with a `package main`, or make one: `fairlead init --new NAME`")
	}
	text, note := adoptedSpec(dir, mains)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	return a.print(map[string]string{"type": "init", "file": path}, func(w io.Writer) {
		fmt.Fprintf(w, "%s:\n%s", path, indent(text))
		if note != "" {
			fmt.Fprintln(w, note)
		}
		fmt.Fprintln(w, "next: `fairlead check`, then `fairlead up`")
	})
}

func adoptedSpec(dir string, mains []build.Package) (text, note string) {
	pick := mains[0]
	for _, m := range mains {
		if m.Dir == dir {
			pick = m
		}
	}
	name := serviceName(filepath.Base(pick.Dir))
	if pick.Dir == dir && pick.Module != nil {
		name = serviceName(moduleBase(pick.Module.Path))
	}
	text = "service: " + name + "\n"
	if len(mains) == 1 || pick.Dir == dir {
		return text, ""
	}
	rel, err := filepath.Rel(dir, pick.Dir)
	if err != nil {
		rel = pick.Dir
	}
	text += "build:\n  main: ./" + filepath.ToSlash(rel) + "\n"
	var others []string
	for _, m := range mains[1:] {
		if rel, err := filepath.Rel(dir, m.Dir); err == nil {
			others = append(others, "./"+filepath.ToSlash(rel))
		}
	}
	return text, "other main packages: " + strings.Join(others, ", ")
}

var (
	majorVersion = regexp.MustCompile(`^v[0-9]+$`)
	notName      = regexp.MustCompile(`[^a-z0-9]+`)
)

// moduleBase is the last part of a module path that is not a major version.
func moduleBase(path string) string {
	parts := strings.Split(path, "/")
	last := parts[len(parts)-1]
	if len(parts) > 1 && majorVersion.MatchString(last) {
		last = parts[len(parts)-2]
	}
	return last
}

func serviceName(s string) string {
	s = strings.Trim(notName.ReplaceAllString(strings.ToLower(s), "-"), "-")
	if s == "" || s[0] < 'a' {
		s = "service-" + s
	}
	return strings.TrimRight(s[:min(len(s), 40)], "-")
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ") + "\n"
}

var newName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// newService lays a service out in a folder that does not exist yet.
func (a *app) newService(ctx context.Context, dir, name string) error {
	if !newName.MatchString(name) {
		return fail.New(fail.Usage, "", "%q is not a name of lower-case letters, digits and dashes, a letter first", name)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fail.New(fail.Usage, "", "%s is there already", dir).Hinted("choose another name, or run `fairlead init` in that folder")
		}
		return err
	}
	err := fs.WalkDir(template, "template", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := template.ReadFile(path)
		if err != nil {
			return err
		}
		out := filepath.Join(dir, filepath.FromSlash(strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(path, "template/"), ".txt"), "NAME", name)))
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return err
		}
		return os.WriteFile(out, []byte(strings.ReplaceAll(string(b), "NAME", name)), 0o644)
	})
	if err != nil {
		os.RemoveAll(dir) // ours: it did not exist before
		return err
	}
	// Not every machine has git, and a service needs none; with it, the build carries its commit.
	git := exec.CommandContext(ctx, "git", "init", "--quiet")
	git.Dir = dir
	if err := git.Run(); err != nil {
		a.ui.finish(true)
	}
	return a.print(map[string]string{"type": "init", "folder": dir}, func(w io.Writer) {
		fmt.Fprintf(w, "%s is made\nnext: `cd %s`, then `go test ./...`, then `fairlead up`\n", dir, dir)
	})
}
