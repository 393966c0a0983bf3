//go:build !unix

package keeper

import (
	"errors"
	"os"
	"os/exec"
)

var errUnsupported = errors.New("a machine that runs services is Linux or macOS; use a Linux host as the target")

func tryLock(*os.File) error       { return errUnsupported }
func waitLock(*os.File) error      { return errUnsupported }
func inherited() (*os.File, error) { return nil, errUnsupported }
func detach(*exec.Cmd)             {}
