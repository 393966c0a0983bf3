//go:build !linux && !darwin

package proc

import "context"

func listeners(context.Context) ([]Listener, error) { return nil, errUnsupported }

func listenersOf(context.Context, int) ([]Listener, error) { return nil, errUnsupported }
