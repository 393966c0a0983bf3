package machine

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

// burden makes instances of p use processor time and memory in vain: this program starts the real one and burns beside it. So
// limits, gates and metrics see what they would see of the service itself.
func (m *Machine) burden(p *supervise.Program, f spec.InstanceFaults) error {
	own := filepath.Join(filepath.Dir(p.Path), "fairlead-burn")
	program, err := filepath.EvalSymlinks(m.dirs.Program())
	if err != nil {
		return err
	}
	if err := os.Link(program, own); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	words := []string{"burn", "--cpu", strconv.FormatFloat(f.CPU.Cores(), 'f', -1, 64), "--memory", strconv.FormatInt(int64(f.Memory), 10), "--", p.Path}
	p.Path, p.Args = own, append(words, p.Args...)
	return nil
}
