package supervise

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// Burn runs a program and uses processor time (in cores) and memory (in bytes) in vain beside it, until that ends. It passes
// signals on, and its exit code is the program's.
func Burn(ctx context.Context, cores float64, memory int64, cmd *exec.Cmd) (code int, err error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a signal ends the program first
	defer cancel()
	go func() {
		for s := range signals {
			cmd.Process.Signal(s) // one that cannot be given is given again as a kill, to the whole group
		}
	}()
	for ; cores > 0; cores-- {
		go spin(ctx, min(cores, 1))
	}
	go hold(ctx, memory)
	err = cmd.Wait()
	if _, ended := errors.AsType[*exec.ExitError](err); ended || err == nil {
		return max(cmd.ProcessState.ExitCode(), 0), nil
	}
	return 1, err
}

// spin uses a share of one core.
func spin(ctx context.Context, share float64) {
	const period = 20 * time.Millisecond
	busy := time.Duration(share * float64(period))
	for ctx.Err() == nil {
		for until := time.Now().Add(busy); time.Now().Before(until); {
		}
		if share < 1 {
			time.Sleep(period - busy)
		}
	}
}

// hold takes memory a piece at a time and touches it, so that it is really there.
func hold(ctx context.Context, memory int64) {
	const piece = 1 << 20
	var all [][]byte
	for ; memory > 0 && ctx.Err() == nil; memory -= piece {
		b := make([]byte, min(memory, piece))
		for i := range b {
			b[i] = byte(i)
		}
		all = append(all, b)
	}
	<-ctx.Done()
	runtime.KeepAlive(all)
}
