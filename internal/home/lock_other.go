//go:build !unix

package home

import "os"

// Lock does nothing: only a machine has several processes that write to one file, and that is Linux or macOS.
func Lock(*os.File) error { return nil }

// Unlock does nothing, as Lock.
func Unlock(*os.File) {}
