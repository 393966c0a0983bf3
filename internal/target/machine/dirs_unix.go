//go:build unix

package machine

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// firstUID is where the users of services begin: above what distributions give to people and systemd to its dynamic
// users, below the ranges for containers.
const firstUID = 70000

const maxServices = 10000

// serviceDir makes the service's own folder, its working folder and HOME. As root it gets a user of its own, whose number
// is simply the folder's owner from then on.
func (m *Machine) serviceDir(service, env string) (string, error) {
	base := m.dirs.Service(service, env)
	data := filepath.Join(base, "data")
	if err := os.MkdirAll(base, 0o711); err != nil {
		return "", err
	}
	if err := os.Mkdir(data, 0o700); err == nil {
		if err := m.giveAway(data); err != nil {
			os.Remove(data)
			return "", err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return "", err
	}
	tmp := filepath.Join(data, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return data, nil
		}
		return "", err
	}
	fi, err := os.Stat(data)
	if err != nil {
		return "", err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return data, os.Lchown(tmp, int(st.Uid), int(st.Gid))
	}
	return data, nil
}

// giveAway makes the folder belong to a user that nothing else has.
func (m *Machine) giveAway(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	taken := map[int]bool{}
	others, err := filepath.Glob(filepath.Join(m.dirs.State, "services", "*", "data"))
	if err != nil {
		return err
	}
	for _, o := range others {
		if fi, err := os.Stat(o); err == nil {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				taken[int(st.Uid)] = true
			}
		}
	}
	for uid := firstUID; uid < firstUID+maxServices; uid++ {
		if _, err := user.LookupId(strconv.Itoa(uid)); err == nil || taken[uid] {
			continue
		}
		return os.Chown(dir, uid, uid)
	}
	return fmt.Errorf("no free user number between %d and %d", firstUID, firstUID+maxServices)
}
