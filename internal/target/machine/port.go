package machine

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/internal/proc"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

// wrongPort looks whether the process takes connections elsewhere than at its PORT, the most common reason why a service
// never becomes ready, and returns what to do about it.
func wrongPort(i supervise.Instance) string {
	if i.Process.PID == 0 {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	open, err := proc.ListenersOf(ctx, i.Process.PID)
	if err != nil {
		return ""
	}
	for _, l := range open {
		if l.Port == i.Port {
			return ""
		}
	}
	if len(open) == 0 {
		return fmt.Sprintf("it listens on no port at all; its PORT is %d (environment variable PORT, or {{.Port}} in run.args)", i.Port)
	}
	return fmt.Sprintf("it listens on %s, but its PORT is %d: let it read the environment variable PORT, or pass the port in run.args, as [\"--listen\", \"127.0.0.1:{{.Port}}\"]",
		open[0].Addr, i.Port)
}
