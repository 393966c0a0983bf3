//go:build !linux && !darwin

package preflight

import (
	"errors"
	"time"
)

// Services run on Linux and macOS; elsewhere fairlead only builds, and what a machine must have is not asked.

var errUnsupported = errors.New("not known on this system")

func measure(*facts) {}

func writable(string) error { return nil }

func space(string) (volume, error) { return volume{}, errUnsupported }

func raiseFiles() error { return errUnsupported }

func kernelClock() (unsynced bool, maxError time.Duration) { return false, 0 }

func firstOpenPort() int { return 1024 }
