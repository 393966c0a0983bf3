//go:build !unix

package supervise

import (
	"errors"
	"os"
	"os/exec"

	"github.com/fairlead-dev/fairlead/internal/proc"
)

var errUnsupported = errors.New("a machine that runs services is Linux or macOS")

type launch struct {
	path           string
	argv, env      []string
	dir            string
	uid, gid       int
	stdout, stderr *os.File
	groups         []string
	files          int
}

type child struct{ id proc.ID }

func spawn(launch) (*child, []string, error) { return nil, nil, errUnsupported }
func adoptChild(proc.ID) (*child, error)     { return nil, errUnsupported }
func (c *child) wait() Exit                  { return Exit{} }
func (c *child) signal(os.Signal) error      { return errUnsupported }
func (c *child) kill()                       {}
func killGroup(int)                          {}
func owner(string) (uid, gid int, err error) { return 0, 0, errUnsupported }
func mkfifo(string, int, int) error          { return errUnsupported }

// ParseSignal is not known here.
func ParseSignal(string) (os.Signal, error) { return nil, errUnsupported }

func openPipe(string) (*os.File, error) { return nil, errUnsupported }

func asUser(*exec.Cmd, int, int) {}
