// Command fairlead takes a Go service from source to production traffic and back.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/fairlead-dev/fairlead/internal/cli"
)

// Set by the linker in a release build; otherwise the build information tells.
var version, commit, date string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(cli.Main(ctx, os.Args[1:], cli.Env{
		Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: cli.Version{Version: version, Commit: commit, Date: date},
	}))
}
