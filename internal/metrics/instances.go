package metrics

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead/internal/proc"
)

// Instance is what the supervisor knows of one of its processes.
type Instance struct {
	Service, Environment string
	Release, Instance    int
	PID                  int // 0: not running now
	Ready                bool
	Restarts             int
}

// Instances makes a source of what list returns, read from the operating system at each round: the control group that an
// instance has to itself, version 1 or 2, and the process where there is none. list must name those that are wanted and no
// others. An instance that ends while it is read has fewer series in that round.
func Instances(list func(context.Context) ([]Instance, error)) Source {
	return func(ctx context.Context, r *Round) error {
		all, err := list(ctx)
		if err != nil {
			return err
		}
		mounts := readMounts()
		for _, i := range all {
			i.write(r, mounts)
		}
		return nil
	}
}

func (i Instance) write(r *Round, m cgroupMounts) {
	l := []string{"service", i.Service, "environment", i.Environment, "release", strconv.Itoa(i.Release), "instance", strconv.Itoa(i.Instance)}
	up := 0.0
	if i.Ready {
		up = 1
	}
	r.Gauge(InstanceUp, up, l...)
	r.Counter(InstanceRestarts, float64(i.Restarts), l...)
	if i.PID == 0 {
		return
	}
	u, err := proc.Use(i.PID)
	if err != nil {
		return // it has just ended; the next round has its successor
	}
	memory, cpu := float64(u.Memory), u.CPU
	g := m.of(i.PID)
	if g.memory >= 0 {
		memory = g.memory
	}
	if g.cpu >= 0 {
		cpu = g.cpu
	}
	r.Counter(InstanceCPU, cpu, l...)
	r.Gauge(InstanceMemory, memory, l...)
	r.Gauge(InstanceThreads, float64(u.Threads), l...)
	if u.Files >= 0 {
		r.Gauge(InstanceFiles, float64(u.Files), l...)
	}
	if g.memoryLimit > 0 {
		r.Gauge(InstanceMemoryLimit, g.memoryLimit, l...)
	}
	if g.cpuLimit > 0 {
		r.Gauge(InstanceCPULimit, g.cpuLimit, l...)
		r.Counter(InstanceThrottled, g.throttled, l...)
	}
}

// Expiries makes a source of when certificates end, by host.
func Expiries(ask func(context.Context) (map[string]time.Time, error)) Source {
	return func(ctx context.Context, r *Round) error {
		ends, err := ask(ctx)
		for host, end := range ends {
			r.Gauge(CertificateExpiry, float64(end.Unix()), "host", host)
		}
		return err
	}
}

// Disks makes a source of how full the file systems of paths are. A path that cannot be asked is an error of the round only
// when all of them fail, so that one that is not mounted does not hide the others.
func Disks(paths ...string) Source {
	return func(_ context.Context, r *Round) error {
		var errs []error
		for _, p := range paths {
			used, free, err := disk(p)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			r.Gauge(DiskUsed, used, "path", p)
			r.Gauge(DiskFree, free, "path", p)
		}
		if len(errs) == len(paths) {
			return errors.Join(errs...)
		}
		return nil
	}
}
