//go:build !unix

package agent

import (
	"context"
	"errors"
	"os"

	"github.com/fairlead-dev/fairlead/internal/home"
)

var errUnsupported = errors.New("a machine that runs services is Linux or macOS; use a Linux host as the target")

func (d Daemon) runEdge(context.Context, *os.File) error {
	return errUnsupported
}
func (d Daemon) replaceEdge(context.Context) error      { return errUnsupported }
func terminate(int) error                               { return errUnsupported }
func end(context.Context, home.Dirs, string, int) error { return errUnsupported }
func lastLines(string, int) []string                    { return nil }
