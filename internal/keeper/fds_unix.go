//go:build unix

package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-dev/fairlead/internal/home"
)

// maxFiles is how many files one message carries (SCM_MAX_FD of unix(7) is 253).
const maxFiles = 200

// fdTimeout bounds each message between two local processes.
const fdTimeout = 5 * time.Second

// fdMessage goes with the files, named in their order.
type fdMessage struct {
	Op    string   `json:"op,omitempty"`
	Names []string `json:"names"`
}

// SendFiles sends open files with their names over a unix connection. The receiver's copies are independent.
func SendFiles(c *net.UnixConn, op string, names []string, files []syscall.Conn) error {
	if len(files) > maxFiles {
		return fmt.Errorf("%d files at once, at most %d", len(files), maxFiles)
	}
	var fds []int
	for _, f := range files {
		rc, err := f.SyscallConn()
		if err != nil {
			return err
		}
		// SyscallConn and not Fd: that would make the shared socket blocking for everyone who has it.
		if err := rc.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return err
		}
	}
	b, err := json.Marshal(fdMessage{op, names})
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(fdTimeout)); err != nil {
		return err
	}
	_, _, err = c.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	return err
}

// ReceiveFiles reads one message of SendFiles from a peer that answers at once. The caller owns the files.
func ReceiveFiles(c *net.UnixConn) (op string, files map[string]*os.File, err error) {
	return ReceiveFilesWithin(c, fdTimeout)
}

// ReceiveFilesWithin is [ReceiveFiles] from a peer that has work to do before it answers.
func ReceiveFilesWithin(c *net.UnixConn, d time.Duration) (op string, files map[string]*os.File, err error) {
	if err := c.SetDeadline(time.Now().Add(d)); err != nil {
		return "", nil, err
	}
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return "", nil, err
	}
	fds, err := rights(oob[:oobn])
	var m fdMessage
	if err == nil {
		err = json.Unmarshal(buf[:n], &m)
	}
	files = map[string]*os.File{}
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		if i < len(m.Names) && files[m.Names[i]] == nil {
			files[m.Names[i]] = os.NewFile(uintptr(fd), m.Names[i])
		} else {
			unix.Close(fd)
		}
	}
	if err == nil && len(files) != len(m.Names) {
		err = errors.New("files are missing from the message")
	}
	if err != nil {
		for _, f := range files {
			f.Close() // nobody will: a bad message must not cost a descriptor
		}
		return "", nil, err
	}
	return m.Op, files, nil
}

// rights returns the descriptors that came with a message; with an error, those read before it.
func rights(oob []byte) (fds []int, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, msg := range msgs {
		got, err := unix.ParseUnixRights(&msg)
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// DialFiles connects to a role's socket for files.
func DialFiles(d home.Dirs, role string) (*net.UnixConn, error) {
	c, err := net.DialTimeout("unix", d.FDSock(role), fdTimeout)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// Store keeps another role's open files, so that its listening sockets stay open, and connections wait in them, while it
// is dead and being started again.
type Store struct {
	mu    sync.Mutex
	files map[string]*os.File
}

// Serve answers on the role's socket for files until l is closed.
func (s *Store) Serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		go func() {
			defer c.Close()
			s.answer(c.(*net.UnixConn)) // a broken message only costs its sender
		}()
	}
}

func (s *Store) answer(c *net.UnixConn) error {
	op, files, err := ReceiveFiles(c)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if op == "put" {
		for _, f := range s.files {
			f.Close()
		}
		s.files = files
		return SendFiles(c, "ok", nil, nil)
	}
	var names []string
	var conns []syscall.Conn
	for n, f := range s.files {
		names, conns = append(names, n), append(conns, f)
	}
	return SendFiles(c, "ok", names, conns)
}

// PutFiles makes files the whole content of the role's store.
func PutFiles(d home.Dirs, role string, names []string, files []syscall.Conn) error {
	_, err := exchange(d, role, "put", names, files)
	return err
}

// GetFiles returns copies of what is in the role's store.
func GetFiles(d home.Dirs, role string) (map[string]*os.File, error) {
	return exchange(d, role, "get", nil, nil)
}

func exchange(d home.Dirs, role, op string, names []string, files []syscall.Conn) (map[string]*os.File, error) {
	c, err := DialFiles(d, role)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := SendFiles(c, op, names, files); err != nil {
		return nil, err
	}
	_, got, err := ReceiveFiles(c)
	return got, err
}

// ServeStore opens the role's socket for files and serves a new store on it in the background.
func ServeStore(d home.Dirs, role string) error {
	l, err := home.Listen(d.FDSock(role))
	if err != nil {
		return err
	}
	go new(Store).Serve(l)
	return nil
}
