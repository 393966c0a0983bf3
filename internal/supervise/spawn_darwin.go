package supervise

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-dev/fairlead/internal/proc"
)

// forkMu keeps the moment in which our own limit is the child's from overlapping with another start.
var forkMu sync.Mutex

// spawn starts the process. macOS has neither control groups nor capabilities: limits other than open files are missing.
func spawn(p launch) (*child, []string, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	attr := &os.ProcAttr{Dir: p.dir, Env: p.env, Files: []*os.File{null, p.stdout, p.stderr}, Sys: &syscall.SysProcAttr{Setpgid: true}}
	if p.uid >= 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.gid)}
	}
	forkMu.Lock()
	defer forkMu.Unlock()
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return nil, nil, err
	}
	want := uint64(p.files)
	if want == 0 {
		want = defaultFiles
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: min(want, own.Max), Max: own.Max}); err != nil {
		return nil, nil, err
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &own)
	pr, err := os.StartProcess(p.path, p.argv, attr)
	if err != nil {
		return nil, nil, err
	}
	return &child{id: identityOf(pr.Pid), proc: pr}, nil, nil
}

// awaitForeign waits for a process that is not our child by asking for it.
func awaitForeign(pid int) (func(), error) {
	id, err := proc.Identify(pid)
	if err != nil {
		return nil, err
	}
	return func() {
		for id.Alive() {
			time.Sleep(50 * time.Millisecond)
		}
	}, nil
}
