package supervise

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/fairlead-dev/fairlead/internal/proc"
)

// wrongPort looks whether an instance listens elsewhere than at its PORT, the most common reason why a service never becomes ready, and
// returns what to do about it.
func (in *instance) wrongPort(i Instance) string {
	if in.prog.Probes.Ready.UDP {
		return portHint("UDP port", i.Process.PID, i.Port, proc.ReceiversOf)
	}
	return portHint("port", i.Process.PID, i.Port, proc.ListenersOf)
}

func portHint(kind string, pid, port int, list func(context.Context, int) ([]proc.Listener, error)) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	open, err := list(ctx, pid)
	if err != nil {
		return ""
	}
	for _, l := range open {
		if l.Port == port {
			return ""
		}
	}
	if len(open) == 0 {
		return fmt.Sprintf("it listens on no %s at all; its PORT is %d (environment variable PORT, or {{.Port}} in run.args)", kind, port)
	}
	hint := fmt.Sprintf("it listens on %s, but its PORT is %d: let it read the environment variable PORT, or pass the port in run.args, as [\"--listen\", \"127.0.0.1:{{.Port}}\"]",
		open[0].Addr, port)
	if runtime.GOOS == "linux" && os.Geteuid() == 0 && kind == "port" {
		hint += fmt.Sprintf("; where neither can be, run: {port: %d} gives each instance a port of its own all the same", open[0].Port)
	}
	return hint
}
