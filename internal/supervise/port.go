package supervise

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/fairlead-dev/fairlead/internal/proc"
)

// wrongPort looks whether the process takes connections elsewhere than at its PORT, the most common reason why a service
// never becomes ready, and returns what to do about it.
func wrongPort(pid, port int) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	open, err := proc.ListenersOf(ctx, pid)
	if err != nil {
		return ""
	}
	for _, l := range open {
		if l.Port == port {
			return ""
		}
	}
	if len(open) == 0 {
		return fmt.Sprintf("it listens on no port at all; its PORT is %d (environment variable PORT, or {{.Port}} in run.args)", port)
	}
	hint := fmt.Sprintf("it listens on %s, but its PORT is %d: let it read the environment variable PORT, or pass the port in run.args, as [\"--listen\", \"127.0.0.1:{{.Port}}\"]",
		open[0].Addr, port)
	if runtime.GOOS == "linux" && os.Geteuid() == 0 {
		hint += fmt.Sprintf("; where neither can be, run: {port: %d} gives each instance a port of its own all the same", open[0].Port)
	}
	return hint
}
