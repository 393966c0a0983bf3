package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/proc"
)

// Instance ports are taken from here: below the range from which the kernel picks ports for outgoing connections, so that
// no such connection can sit on an instance's port while it is being started again.
const (
	firstPort = 20000
	portRange = 10000
)

// start starts the process and writes its record.
func (in *instance) start() (*child, error) {
	port, err := in.port()
	if err != nil {
		return nil, err
	}
	// A fresh group for each start: a group whose cgroup.kill was written once kills everything spawned into it later.
	go in.sup.confine.remove(in.groups)
	groups, missing := in.sup.confine.make(in.key(), in.prog.Limits)
	in.groups = groups
	if in.prog.Port != 0 && in.prog.Port != port {
		if err := in.givePort(port); err != nil {
			return nil, err
		}
	}
	env, err := in.environment(port)
	if err != nil {
		return nil, err
	}
	p := launch{
		path: in.prog.Path, argv: append([]string{in.prog.Path}, in.args(port)...), env: env, dir: in.prog.Dir,
		groups: in.groups, files: in.prog.Limits.Files,
	}
	if p.uid, p.gid, err = in.user(); err != nil {
		return nil, err
	}
	if p.stdout, p.stderr, err = in.childFiles(p.uid, p.gid); err != nil {
		return nil, err
	}
	defer p.stdout.Close()
	defer p.stderr.Close()
	started := time.Now()
	c, lacks, err := spawn(p)
	if err != nil {
		return nil, err
	}
	in.wasReady = false
	in.update(func(i *Instance) {
		i.State, i.Port, i.Started, i.ReadyAt, i.Probe = Starting, port, started, time.Time{}, ""
		i.Process = c.id
		i.Missing = append(missing, lacks...)
	})
	in.save(in.snapshot())
	return c, nil
}

// givePort lets the process that is about to start have the port where its code has another one.
func (in *instance) givePort(port int) error {
	group, err := in.sup.confine.unified(in.groups)
	if err == nil && !slices.Contains(in.groups, group) {
		in.groups = append(in.groups, group)
	}
	if err == nil {
		err = in.sup.opt.GivePort(group, in.prog.Port, port)
	}
	if err != nil {
		return fmt.Errorf("run.port: this machine cannot give it %d in place of %d: %w", port, in.prog.Port, err)
	}
	return nil
}

// port returns the instance's port, the same for each of its starts, chosen when it has none or when another process
// took it meanwhile.
func (in *instance) port() (int, error) {
	if p := in.snapshot().Port; p != 0 && portFree(p) {
		return p, nil
	}
	h := fnv.New32a()
	h.Write([]byte(in.key()))
	for i := range portRange {
		p := firstPort + int((h.Sum32()+uint32(i)))%portRange
		if in.sup.reserve(p, in) && portFree(p) {
			in.mu.Lock()
			in.pub.Port = p
			in.mu.Unlock()
			return p, nil
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d", firstPort, firstPort+portRange)
}

// reserve reports whether no other instance has port.
func (s *Supervisor) reserve(port int, self *instance) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, in := range s.running {
		if in != self && in.snapshot().Port == port {
			return false
		}
	}
	return true
}

// portFree reports whether nobody has a port, be it for TCP or for UDP.
func portFree(port int) bool {
	addr := ":" + strconv.Itoa(port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer l.Close()
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// expand fills in {{.Name}}. Text templates are more than a spec needs, and their package costs megabytes in the binary.
func (in *instance) expand(s string, port int) string {
	return strings.NewReplacer(
		"{{.Port}}", strconv.Itoa(port),
		"{{.Data}}", in.prog.Dir,
		"{{.Service}}", in.prog.Service,
		"{{.Environment}}", in.prog.Environment,
		"{{.Release}}", strconv.Itoa(in.prog.Release),
		"{{.Instance}}", strconv.Itoa(in.number),
	).Replace(s)
}

func (in *instance) args(port int) []string {
	out := make([]string, len(in.prog.Args))
	for i, a := range in.prog.Args {
		out[i] = in.expand(a, port)
	}
	return out
}

// environment is what the instance sees: nothing of the supervisor's own but PATH, LANG and TZ.
func (in *instance) environment(port int) ([]string, error) {
	env := map[string]string{
		"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": in.prog.Dir, "TMPDIR": filepath.Join(in.prog.Dir, "tmp"),
		"PORT":             strconv.Itoa(port),
		"FAIRLEAD_SERVICE": in.prog.Service, "FAIRLEAD_ENVIRONMENT": in.prog.Environment,
		"FAIRLEAD_RELEASE": strconv.Itoa(in.prog.Release), "FAIRLEAD_INSTANCE": strconv.Itoa(in.number),
	}
	for _, k := range []string{"LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v := os.Getenv(k); v != "" {
			env[k] = v
		}
	}
	if m := in.prog.Limits.Memory; m > 0 {
		// The Go runtime then collects harder before the kernel's limit ends the process; a tenth is left for what it
		// does not count (runtime/debug.SetMemoryLimit).
		env["GOMEMLIMIT"] = strconv.FormatInt(int64(m)/10*9, 10)
	}
	for k, v := range in.prog.Env {
		env[k] = in.expand(v, port)
	}
	secrets, err := in.secrets()
	if err != nil {
		return nil, err
	}
	for k, v := range secrets {
		env[k] = v
	}
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	sort.Strings(out)
	return out, nil
}

func (in *instance) secrets() (map[string]string, error) {
	if in.prog.SecretsFile == "" {
		return nil, nil
	}
	b, err := os.ReadFile(in.prog.SecretsFile)
	if err != nil {
		return nil, err
	}
	var m map[string]string
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, errors.New("the release's secrets are not readable JSON") // the error of json would quote them
	}
	return m, nil
}

// user is the service's own: the owner of its folder, made when the service was first deployed. Without root it is ours.
func (in *instance) user() (uid, gid int, err error) {
	if os.Geteuid() != 0 {
		return -1, -1, nil
	}
	uid, gid, err = owner(in.prog.Dir)
	if err == nil && uid == 0 {
		err = fmt.Errorf("%s belongs to root, and a service never runs as root", in.prog.Dir)
	}
	return uid, gid, err
}

// identityOf waits for nothing: the child exists when spawn returns.
func identityOf(pid int) proc.ID {
	id, err := proc.Identify(pid)
	if err != nil {
		return proc.ID{PID: pid} // it ended already; the exit tells
	}
	return id
}
