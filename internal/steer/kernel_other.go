//go:build !linux

package steer

import (
	"context"
	"errors"
	"net/netip"
)

// Kernel is only there on Linux.
type Kernel struct{}

var errLinux = errors.New("it needs Linux")

// Open fails: only Linux can do this.
func Open(string) (*Kernel, error) { return nil, errLinux }

// GivePort fails: only Linux can do this.
func GivePort(string, int, int) error { return errLinux }

// Forget has nothing to end here.
func Forget(string) error { return nil }

// Set does nothing here.
func (*Kernel) Set([]Service) map[netip.AddrPort]error { return nil }

// Take has nothing to return here.
func (*Kernel) Take() map[Socket]Counts { return nil }

// Drain does nothing here.
func (*Kernel) Drain(context.Context, netip.AddrPort, Socket) error { return errLinux }

// Close does nothing here.
func (*Kernel) Close() error { return nil }
