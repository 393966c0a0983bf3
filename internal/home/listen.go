package home

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Listen makes a socket at path with mode 0600 and puts it in place of an older one in one step.
func Listen(path string) (net.Listener, error) {
	tmp := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%d-%s", os.Getpid(), filepath.Base(path)))
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", tmp)
	if err != nil {
		if len(tmp) > 100 {
			return nil, fmt.Errorf("%w (the path is %d bytes long, sockets allow about 100: set FAIRLEAD_DIR to a shorter folder)", err, len(tmp))
		}
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(tmp, 0o600); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
