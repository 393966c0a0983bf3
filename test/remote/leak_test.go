//go:build unix

package remote_test

import (
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/remote"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// What a host started ends with it, even where connections were left open.
func TestNothingIsLeftBehind(t *testing.T) {
	m := sshd(t, "")
	m.trust(t)
	before := runtime.NumGoroutine()
	for range 3 {
		h, err := remote.Dial(t.Context(), m.options(), m.dest())
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				c, err := h.Conn(t.Context(), remote.Command{Args: []string{"cat"}})
				if err != nil {
					t.Error(err)
					return
				}
				io.WriteString(c, "x")
				if i%2 == 0 {
					c.Close()
				} else {
					defer c.Close()
					h.Run(t.Context(), remote.Command{Args: []string{"true"}})
				}
			})
		}
		wg.Wait()
		h.Close()
	}
	rig.Eventually(t, 20*time.Second, "all goroutines ended", func() bool { return runtime.NumGoroutine() <= before })
}
