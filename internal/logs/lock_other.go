//go:build !unix

package logs

import "os"

// lockFile does nothing: only a machine has several writers, and that is Linux or macOS.
func lockFile(*os.File) error { return nil }
