//go:build !unix

package edge

import (
	"errors"
	"os"
)

var errUnsupported = errors.New("a machine that takes traffic is Linux or macOS")

func mapFile(*os.File, int) ([]byte, error) { return nil, errUnsupported }
func unmap([]byte) error                    { return errUnsupported }
