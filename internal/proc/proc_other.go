//go:build !linux && !darwin

package proc

import "errors"

var errUnsupported = errors.New("a machine that runs services is Linux or macOS")

func identify(int) (ID, error) { return ID{}, errUnsupported }

// Use is not known here.
func Use(int) (Usage, error) { return Usage{}, errUnsupported }
