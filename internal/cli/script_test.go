package cli_test

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fairlead-dev/fairlead/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"fairlead": func() {
			os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Env{Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
				Version: cli.Version{Version: "v1.2.3", Commit: "abc", Date: "2026-01-02"}}))
		},
	})
}

// The scripts are the command line's specification: what it prints, where, and with which exit code.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true, Setup: func(e *testscript.Env) error {
		cache, err := os.UserCacheDir() // modules and compiled packages are the user's; everything else is the script's own
		if err != nil {
			return err
		}
		home, err := os.UserHomeDir()
		if err != nil {
			return err
		}
		e.Setenv("GOCACHE", cache+"/go-build")
		e.Setenv("GOMODCACHE", home+"/go/pkg/mod")
		e.Setenv("FAIRLEAD_DIR", e.WorkDir+"/m")
		return nil
	}})
}
