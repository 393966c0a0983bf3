package wait_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/wait"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		if err := wait.For(t.Context(), time.Hour); err != nil || time.Since(begun) != time.Hour {
			t.Fatal(err, time.Since(begun))
		}
		why := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, why)
		defer cancel()
		if err := wait.For(ctx, time.Hour); !errors.Is(err, why) || time.Since(begun) != time.Hour+time.Minute {
			t.Fatal(err, time.Since(begun))
		}
	})
}

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, asked := time.Now(), 0
		if err := wait.Until(t.Context(), time.Second, func() bool { asked++; return asked == 4 }); err != nil || time.Since(begun) != 3*time.Second {
			t.Fatal(err, time.Since(begun))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		if err := wait.Until(ctx, time.Minute, func() bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}
