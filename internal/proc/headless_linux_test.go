package proc

import (
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/wait"
)

const headless = "FAIRLEAD_TEST_HEADLESS"

// As a child of the test below, this process lets its first thread end and lives on in another one until its input does.
func init() {
	if os.Getenv(headless) == "" {
		return
	}
	runtime.LockOSThread() // in an init function: to the first thread
	started := make(chan bool)
	go func() {
		close(started)
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	<-started
	syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0) // of this thread alone
}

// A process whose first thread is a zombie still holds its files while another thread lives.
func TestAliveWithoutItsFirstThread(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), headless+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	zombie := func() bool {
		f, err := stat(cmd.Process.Pid)
		return err == nil && f[0] == "Z"
	}
	if err := wait.Until(t.Context(), 10*time.Millisecond, zombie); err != nil {
		t.Fatal(err)
	}
	id, err := Identify(cmd.Process.Pid)
	if err != nil || !id.Alive() {
		t.Fatalf("it counts as ended: %v", err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := wait.Until(t.Context(), 10*time.Millisecond, func() bool { return !id.Alive() }); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
