// Package wait is the one way to let time pass: every wait ends early when its context does.
package wait

import (
	"context"
	"time"
)

// For waits for d. It returns nil when all of it passed, and the context's cause when ctx was done first.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// Until asks f every interval until it says yes; it returns the context's cause when ctx was done before.
func Until(ctx context.Context, interval time.Duration, f func() bool) error {
	for !f() {
		if err := For(ctx, interval); err != nil {
			return err
		}
	}
	return nil
}
