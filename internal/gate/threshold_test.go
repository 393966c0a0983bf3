package gate_test

import (
	"errors"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/proc"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

// With 100 requests wanted, a limit is broken as soon as it would be even if all that are missing went well; it is kept only
// when so many were served.
func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		check     string
		n, failed uint64
		want      rollout.Verdict
	}{
		{"errors <= 10%", 0, 0, rollout.Unsure},
		{"errors <= 10%", 99, 0, rollout.Unsure},
		{"errors <= 10%", 10, 10, rollout.Unsure},
		{"errors <= 10%", 11, 11, rollout.Breach},
		{"errors <= 10%", 100, 10, rollout.Pass},
		{"errors <= 10%", 100, 11, rollout.Breach},
		{"errors <= 10%", 1000, 100, rollout.Pass},
		{"errors <= 10%", 1000, 101, rollout.Breach},
		{"errors < 10%", 100, 9, rollout.Pass},
		{"errors < 10%", 20, 10, rollout.Breach},
		{"errors < 10%", 20, 9, rollout.Unsure},
		{"errors < 1%", 100, 0, rollout.Pass},
		{"errors == 0%", 99, 0, rollout.Unsure},
		{"errors == 0%", 100, 0, rollout.Pass},
		{"errors == 0%", 1, 1, rollout.Breach},
		{"errors >= 5%", 99, 99, rollout.Unsure},
		{"errors >= 5%", 100, 5, rollout.Pass},
		{"errors >= 5%", 100, 4, rollout.Breach},
		{"errors > 5%", 100, 5, rollout.Breach},
		{"errors > 5%", 100, 6, rollout.Pass},
	} {
		f := &fake{}
		f.serve(newer, 500, 500, time.Millisecond) // at the step before
		a := asking(t, f, spec.Gate{Check: tc.check})
		a.ask(0)
		f.serve(newer, tc.n, tc.failed, time.Millisecond)
		if got := a.ask(0); got.Verdict != tc.want {
			t.Errorf("%s with %d of %d: %s (%s), want %s", tc.check, tc.failed, tc.n, got.Verdict, got.Reason, tc.want)
		}
	}
}

// A threshold begins anew at each step.
func TestEachStepCountsForItself(t *testing.T) {
	f := &fake{}
	a := asking(t, f, spec.Gate{Check: "errors <= 1%", Else: "warn"})
	a.ask(0)
	f.serve(newer, 100, 50, time.Millisecond)
	got := a.ask(0)
	a.wants(got, rollout.Breach, "50 % of 100 requests failed, which is not errors <= 1%")
	if got.Else != rollout.Warn {
		t.Errorf("what follows is %s", got.Else)
	}
	a.at(1)
	a.wants(a.ask(0), rollout.Unsure, "none of 0 requests failed, 100 more are needed")
	f.serve(newer, 100, 1, time.Millisecond)
	a.wants(a.ask(0), rollout.Pass, "1 % of 100 requests failed")

	a.at(2)
	f.err = errors.New("no counters")
	a.wants(a.ask(0), rollout.Unsure)
	f.err = nil // what was counted before it could be read is not this step's
	a.wants(a.ask(0), rollout.Unsure, "none of 0 requests")
}

func TestQuantiles(t *testing.T) {
	const fast, slow = 20 * time.Millisecond, 120 * time.Millisecond // no bucket has both it and the limit of 100
	for _, tc := range []struct {
		check      string
		fast, slow uint64
		want       rollout.Verdict
	}{
		{"p95 <= 100ms", 99, 0, rollout.Unsure},
		{"p95 <= 100ms", 95, 5, rollout.Pass},
		{"p95 <= 100ms", 94, 6, rollout.Breach},
		{"p95 <= 100ms", 5, 5, rollout.Unsure},
		{"p95 <= 100ms", 4, 6, rollout.Breach},
		{"p50 <= 100ms", 50, 50, rollout.Pass},
		{"p99.9 <= 100ms", 999, 1, rollout.Pass},
		{"p99.9 <= 100ms", 998, 2, rollout.Breach},
		{"p95 <= 1s", 0, 100, rollout.Pass},
		{"p50 > 100ms", 40, 60, rollout.Pass},
		{"p50 > 100ms", 60, 40, rollout.Breach},
	} {
		f := &fake{}
		a := asking(t, f, spec.Gate{Check: tc.check})
		a.ask(0)
		f.serve(newer, tc.fast, 0, fast)
		f.serve(newer, tc.slow, 0, slow)
		if got := a.ask(0); got.Verdict != tc.want {
			t.Errorf("%s with %d fast and %d slow: %s (%s), want %s", tc.check, tc.fast, tc.slow, got.Verdict, got.Reason, tc.want)
		}
	}
}

// using makes an instance that uses something.
func using(number int, u proc.Usage) supervise.Instance {
	return supervise.Instance{Number: number, State: supervise.Ready, Process: proc.ID{PID: 100 + number}, Usage: &u}
}

// The processor is judged over two seconds, instance by instance, against the limit or the machine's two cores.
func TestCPU(t *testing.T) {
	bubble(t, "with a limit", func(t *testing.T) {
		f := &fake{instances: []supervise.Instance{using(1, proc.Usage{CPU: 10}), using(2, proc.Usage{CPU: 20})}}
		a := asking(t, f, spec.Gate{Check: "cpu <= 90%", Else: "pause"}, func(s *spec.Spec) { s.Run.Limits.CPU = 1500 })
		a.wants(a.ask(0), rollout.Unsure, "cpu is not known yet")
		f.instances[0].Usage.CPU += 1.4 // in a second: 93 %, but a second is too short
		a.wants(a.ask(time.Second), rollout.Unsure)
		f.instances[0].Usage.CPU += 1.45
		got := a.ask(time.Second)
		a.wants(got, rollout.Breach, "instance 1 uses 95 % of its processor limit, which is not cpu <= 90%")
		if got.Else != rollout.Pause {
			t.Errorf("what follows is %s", got.Else)
		}
		a.wants(a.ask(250*time.Millisecond), rollout.Breach, "instance 1 uses 95 %") // the idle one is no news
		a.wants(a.ask(2*time.Second), rollout.Pass, "uses 0 %")
	})
	bubble(t, "idle", func(t *testing.T) {
		f := &fake{instances: []supervise.Instance{using(1, proc.Usage{CPU: 10})}}
		a := asking(t, f, spec.Gate{Check: "cpu <= 90%"})
		a.ask(0)
		a.wants(a.ask(2*time.Second), rollout.Pass, "0 % of the machine's processors")
		a.wants(a.ask(250*time.Millisecond), rollout.Pass)
		f.instances[0].Usage.CPU += 4.2
		a.wants(a.ask(2*time.Second), rollout.Breach, "instance 1 uses 93.3 %") // 4.2 s in 2.25 s on two cores
	})
	bubble(t, "another process", func(t *testing.T) {
		f := &fake{instances: []supervise.Instance{using(1, proc.Usage{CPU: 100})}}
		a := asking(t, f, spec.Gate{Check: "cpu <= 90%"})
		a.ask(0)
		f.instances[0].Process.PID, f.instances[0].Usage.CPU = 7, 1
		a.wants(a.ask(2*time.Second), rollout.Unsure)
		f.instances[0].Usage.CPU = 2
		a.wants(a.ask(2*time.Second), rollout.Pass, "instance 1 uses 25 % of the machine's processors")
	})
}

func TestMemory(t *testing.T) {
	limit := func(s *spec.Spec) { s.Run.Limits.Memory = 256 << 20 }
	for _, tc := range []struct {
		check  string
		change func(*spec.Spec)
		use    int64
		want   rollout.Verdict
		says   string
	}{
		{"memory <= 80%", limit, 204 << 20, rollout.Pass, "instance 2 uses 79.7 % of its memory limit"},
		{"memory <= 80%", limit, 205 << 20, rollout.Breach, "instance 2 uses 80.1 % of its memory limit, which is not memory <= 80%"},
		{"memory <= 80%", func(*spec.Spec) {}, 512 << 20, rollout.Pass, "instance 2 uses 50 % of the machine's memory"},
		{"memory <= 100MiB", limit, 100 << 20, rollout.Pass, "instance 2 uses 100MiB of memory"},
		{"memory <= 100MiB", limit, 101 << 20, rollout.Breach, "instance 2 uses 101MiB of memory, which is not memory <= 100MiB"},
	} {
		f := &fake{instances: []supervise.Instance{using(1, proc.Usage{Memory: 1 << 20}), using(2, proc.Usage{Memory: tc.use}), {Number: 3}}}
		a := asking(t, f, spec.Gate{Check: tc.check}, tc.change)
		a.wants(a.ask(0), tc.want, tc.says)
	}
	a := asking(t, &fake{instances: []supervise.Instance{{Number: 1}}}, spec.Gate{Check: "memory <= 80%"})
	a.wants(a.ask(0), rollout.Unsure, "memory is not known yet")
}

func TestFiles(t *testing.T) {
	f := &fake{instances: []supervise.Instance{using(1, proc.Usage{Files: 90}), using(2, proc.Usage{Files: 8})}}
	a := asking(t, f, spec.Gate{Check: "files < 100"})
	a.wants(a.ask(0), rollout.Pass, "instance 1 uses 90 of files")
	f.instances[1].Usage.Files = 100
	a.wants(a.ask(0), rollout.Breach, "instance 2 uses 100 of files")
}

// Restarts count from the step's beginning, over all instances.
func TestRestarts(t *testing.T) {
	bubble(t, "in all", func(t *testing.T) {
		f := &fake{instances: []supervise.Instance{{Number: 1, Restarts: 4}, {Number: 2}}}
		a := asking(t, f, spec.Gate{Check: "restarts == 0"})
		a.wants(a.ask(0), rollout.Pass, "0 restarts")
		f.instances[1].Restarts++
		a.wants(a.ask(time.Second), rollout.Breach, "1 restart, which is not restarts == 0")
		a.at(1)
		a.wants(a.ask(0), rollout.Pass, "0 restarts")
	})
	bubble(t, "by time", func(t *testing.T) {
		f := &fake{instances: []supervise.Instance{{Number: 1}}}
		a := asking(t, f, spec.Gate{Check: "restarts <= 1/min"})
		a.ask(0)
		f.instances[0].Restarts = 2
		a.wants(a.ask(30*time.Second), rollout.Breach, "2 restarts in 30s")
		a.wants(a.ask(90*time.Second), rollout.Pass, "2 restarts in 2m0s")
	})
}

func TestLogLines(t *testing.T) {
	log := func(f *fake, n int) {
		for range n {
			f.logged = append(f.logged, time.Now())
		}
	}
	bubble(t, "in all", func(t *testing.T) {
		f := &fake{}
		log(f, 5) // before the step
		<-time.After(time.Second)
		a := asking(t, f, spec.Gate{Check: `log("panic:") == 0`})
		a.wants(a.ask(0), rollout.Pass, `0 lines with "panic:"`)
		log(f, 1)
		a.wants(a.ask(250*time.Millisecond), rollout.Pass) // logs are read once a second
		a.wants(a.ask(750*time.Millisecond), rollout.Breach, `1 line with "panic:", which is not log("panic:") == 0`)
		if len(f.asked) != 2 || f.asked[0] != "panic:" {
			t.Errorf("the log was asked for %q", f.asked)
		}
	})
	bubble(t, "at the step's end", func(t *testing.T) {
		f := &fake{}
		a := asking(t, f, spec.Gate{Check: `log("panic:") == 0`})
		a.ask(watched - 100*time.Millisecond)
		log(f, 1)
		a.wants(a.ask(100*time.Millisecond), rollout.Breach) // what came since the last reading is not let go by
	})
	bubble(t, "by time", func(t *testing.T) {
		f := &fake{}
		a := asking(t, f, spec.Gate{Check: "log(level=error) <= 10/min"})
		a.ask(0)
		log(f, 10)
		a.wants(a.ask(time.Second), rollout.Pass, "10 lines with level=error in 1s")
		log(f, 1)
		a.wants(a.ask(time.Second), rollout.Breach, "11 lines with level=error in 2s")
		log(f, 9)
		a.wants(a.ask(118*time.Second), rollout.Pass, "20 lines with level=error in 2m0s")
		log(f, 2)
		a.wants(a.ask(time.Second), rollout.Breach)
		if f.asked[0] != "error" {
			t.Errorf("the log was asked for %q", f.asked)
		}
	})
	bubble(t, "one that must come", func(t *testing.T) {
		f := &fake{}
		a := asking(t, f, spec.Gate{Check: `log("warmed up") >= 1`})
		a.wants(a.ask(0), rollout.Unsure, "by now")
		a.wants(a.ask(watched), rollout.Breach)
		log(f, 1)
		a.wants(a.ask(time.Second), rollout.Pass)
	})
}
