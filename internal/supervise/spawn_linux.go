package supervise

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

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
	proc, err := os.StartProcess(p.path, p.argv, attr)
	if errors.Is(err, unix.EPERM) {
		// Some sandboxes forbid ptrace: then the limits come into force an instant after the start.
		attr.Sys.Ptrace = false
		proc, err = os.StartProcess(p.path, p.argv, attr)
	}
	if err != nil {
		return nil, nil, err
	}
	if attr.Sys.Ptrace {
		var ws syscall.WaitStatus
		if _, err := syscall.Wait4(proc.Pid, &ws, syscall.WALL, nil); err != nil {
			return nil, nil, fmt.Errorf("wait for the process's first instruction: %w", err)
		}
		if !ws.Stopped() {
			return nil, nil, fmt.Errorf("the process did not reach its first instruction: wait status %#x", ws)
		}
	}
	var lacks []string
	for _, g := range p.groups {
		if err := joinGroup(g, proc.Pid); err != nil {
			lacks = append(lacks, err.Error())
		}
	}
	if lack := limitFiles(p, proc.Pid); lack != "" {
		lacks = append(lacks, lack)
	}
	c := &child{id: identityOf(proc.Pid), proc: proc}
	if attr.Sys.Ptrace {
		if err := syscall.PtraceDetach(proc.Pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return nil, nil, fmt.Errorf("let the process go: %w", err)
		}
	}
	return c, lacks, nil
}

// limitFiles sets the process's open-file limit. A limit that the spec names is the hard one, too: the Go runtime raises
// its own soft limit to the hard one when it starts.
func limitFiles(p launch, pid int) (lack string) {
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return "files: " + err.Error()
	}
	want := unix.Rlimit{Cur: min(defaultFiles, own.Max), Max: own.Max}
	if p.files > 0 {
		if uint64(p.files) > own.Max {
			lack = fmt.Sprintf("files: %d wanted, this machine's hard limit is %d", p.files, own.Max)
		}
		want.Max = min(uint64(p.files), own.Max)
		want.Cur = want.Max
	}
	if p.uid >= 0 {
		// Setting another user's limit needs CAP_SYS_RESOURCE, which containers often lack; setting one's own does not.
		// So this thread, which ends in a moment, becomes that user. The raw calls change one thread, not the process.
		_, _, e1 := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(p.gid), uintptr(p.gid), uintptr(p.gid))
		_, _, e2 := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(p.uid), uintptr(p.uid), uintptr(p.uid))
		if e1 != 0 || e2 != 0 {
			return fmt.Sprintf("files: cannot become user %d: %v, %v", p.uid, e1, e2)
		}
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &want, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		return "files: " + err.Error()
	}
	return lack
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
