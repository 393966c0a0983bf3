package supervise

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// forkMu keeps the moment in which our own soft limit is the child's from overlapping with another start.
var forkMu sync.Mutex

// spawn starts the process on a thread that is thrown away afterwards. Privileges are dropped on that thread before the
// fork, because a child inherits its creating thread's: no new privileges (prctl(2)), an empty bounding set, and
// the uid's change takes the rest (capabilities(7)). The child is traced for the instant of its exec (ptrace(2)), so that
// it is in its control groups and under its limits before its first instruction.
func spawn(p launch) (*child, []string, error) {
	type result struct {
		c     *child
		lacks []string
		err   error
	}
	ch := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var r result
		r.c, r.lacks, r.err = spawnOnThread(p)
		ch <- r
	}()
	r := <-ch
	return r.c, r.lacks, r.err
}

func spawnOnThread(p launch) (*child, []string, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, nil, fmt.Errorf("no new privileges: %w", err)
	}
	if os.Geteuid() == 0 {
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return nil, nil, fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
	}
	attr := &os.ProcAttr{Dir: p.dir, Env: p.env, Files: []*os.File{nil, p.stdout, p.stderr},
		Sys: &syscall.SysProcAttr{Setpgid: true, Ptrace: true}}
	if p.uid >= 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.gid)}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	attr.Files[0] = null
	proc, lacks, err := forkWithLimit(p, attr)
	if err != nil {
		return nil, nil, err
	}
	if attr.Sys.Ptrace {
		var ws syscall.WaitStatus
		if _, err := syscall.Wait4(proc.Pid, &ws, syscall.WALL, nil); err != nil || !ws.Stopped() {
			return nil, nil, fmt.Errorf("the process did not reach its first instruction (%v, %v)", ws, err)
		}
	}
	for _, g := range p.groups {
		if err := joinGroup(g, proc.Pid); err != nil {
			lacks = append(lacks, err.Error())
		}
	}
	c := &child{id: identityOf(proc.Pid), proc: proc}
	if attr.Sys.Ptrace {
		if err := syscall.PtraceDetach(proc.Pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return nil, nil, fmt.Errorf("let the process go: %w", err)
		}
	}
	return c, lacks, nil
}

// forkWithLimit starts the process with the wanted open-file limit. Setting another user's limit needs
// CAP_SYS_RESOURCE, which containers often lack, while a child's inherited soft limit needs nothing: so ours is changed
// for the moment of the fork.
func forkWithLimit(p launch, attr *os.ProcAttr) (*os.Process, []string, error) {
	forkMu.Lock()
	defer forkMu.Unlock()
	var lacks []string
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return nil, nil, err
	}
	want := uint64(p.files)
	if want == 0 {
		want = min(defaultFiles, own.Max)
	}
	if want > own.Max {
		lacks = append(lacks, fmt.Sprintf("files: %d wanted, this machine's hard limit is %d", want, own.Max))
		want = own.Max
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: want, Max: own.Max}); err != nil {
		return nil, nil, fmt.Errorf("open-file limit %d: %w", want, err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &own)
	proc, err := os.StartProcess(p.path, p.argv, attr)
	if errors.Is(err, unix.EPERM) && attr.Sys.Ptrace {
		// Some sandboxes forbid ptrace: then the limits come into force an instant after the start.
		attr.Sys.Ptrace = false
		proc, err = os.StartProcess(p.path, p.argv, attr)
	}
	return proc, lacks, err
}

// awaitForeign waits for a process that is not our child, by its pidfd (pidfd_open(2)).
func awaitForeign(pid int) (func(), error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	return func() {
		defer f.Close()
		rc, err := f.SyscallConn()
		if err != nil {
			return
		}
		rc.Read(func(fd uintptr) bool {
			n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0
		})
	}, nil
}
