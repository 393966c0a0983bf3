//go:build !unix

package keeper

import "github.com/fairlead-dev/fairlead/internal/home"

// ServeStore is not known here.
func ServeStore(home.Dirs, string) error { return errUnsupported }
