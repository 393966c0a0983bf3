//go:build !linux && !darwin

package proc

import (
	"context"
	"net/netip"
)

func listeners(context.Context) ([]Listener, error) { return nil, errUnsupported }

func listenersOf(context.Context, int) ([]Listener, error) { return nil, errUnsupported }

func receivers(context.Context) ([]Listener, error) { return nil, errUnsupported }

func receiversOf(context.Context, int) ([]Listener, error) { return nil, errUnsupported }

func receiving(context.Context) ([]netip.AddrPort, error) { return nil, errUnsupported }
