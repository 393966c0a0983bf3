package machine

import (
	"io"
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
	if err := copyFile(m.dirs.Program(), own); err != nil {
		return err
	}
	words := []string{"burn", "--cpu", strconv.FormatFloat(f.CPU.Cores(), 'f', -1, 64), "--memory", strconv.FormatInt(int64(f.Memory), 10), "--", p.Path}
	p.Path, p.Args = own, append(words, p.Args...)
	return nil
}

func copyFile(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if e := out.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(out.Name(), to)
	}
	return err
}
