// Package home says where things lie on a machine: the state that must outlive a reboot and the runtime files that must not.
package home

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// The three long-lived processes of a machine.
const (
	Supervisor = "supervisor"
	Edge       = "edge"
	Agent      = "agent"
)

// Roles lists the processes in the order they are started.
var Roles = []string{Supervisor, Edge, Agent}

// Dirs are a machine's two roots. A service's own user may walk through State but only its own folders can be read.
type Dirs struct {
	State string // survives a reboot: /var/lib/fairlead or $XDG_STATE_HOME/fairlead
	Run   string // sockets, locks and pipes: /run/fairlead or $XDG_RUNTIME_DIR/fairlead
}

// Find picks the folders for the user who asks. FAIRLEAD_DIR puts both under one folder, for tests and for a second,
// separate machine on the same host.
func Find(getenv func(string) string) (Dirs, error) {
	if d := getenv("FAIRLEAD_DIR"); d != "" {
		d, err := filepath.Abs(d)
		return Dirs{State: filepath.Join(d, "state"), Run: filepath.Join(d, "run")}, err
	}
	if os.Geteuid() == 0 && runtime.GOOS == "linux" {
		return Dirs{State: "/var/lib/fairlead", Run: "/run/fairlead"}, nil
	}
	state := getenv("XDG_STATE_HOME")
	if state == "" {
		h, err := os.UserHomeDir()
		if err != nil {
			return Dirs{}, errors.New("neither FAIRLEAD_DIR, XDG_STATE_HOME nor HOME is set: set one of them")
		}
		state = filepath.Join(h, ".local", "state")
	}
	run := getenv("XDG_RUNTIME_DIR")
	if run == "" {
		run = filepath.Join(os.TempDir(), fmt.Sprintf("fairlead-%d", os.Geteuid()))
		return Dirs{State: filepath.Join(state, "fairlead"), Run: run}, nil
	}
	return Dirs{State: filepath.Join(state, "fairlead"), Run: filepath.Join(run, "fairlead")}, nil
}

// Make creates both roots and the private folders below them, and checks that nobody else owns them.
func (d Dirs) Make() error {
	// A service runs as a user of its own and must reach its binary and its data below State; everything else is 0700.
	if err := mkdir(d.State, 0o711); err != nil {
		return err
	}
	for _, p := range []string{d.Run, d.private("agent"), d.private("supervisor"), d.private("edge"), d.private("log"),
		d.Artifacts(), d.Layers(), d.Logs(), d.Fifos(), d.private("bin")} {
		if err := mkdir(p, 0o700); err != nil {
			return err
		}
	}
	return mkdir(filepath.Join(d.State, "services"), 0o711)
}

func mkdir(path string, mode os.FileMode) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !fi.IsDir() || !ownedByUs(fi) {
		return fmt.Errorf("%s is not a folder of this user: remove it or set FAIRLEAD_DIR to another place", path)
	}
	if fi.Mode().Perm() != mode {
		return os.Chmod(path, mode)
	}
	return nil
}

func (d Dirs) private(name string) string { return filepath.Join(d.State, name) }

// Sock is the unix socket of a role.
func (d Dirs) Sock(role string) string { return filepath.Join(d.Run, role+".sock") }

// FDSock is the unix socket over which a role hands on open files.
func (d Dirs) FDSock(role string) string { return filepath.Join(d.Run, role+"-fds.sock") }

// Lock is the file whose lock a living role holds.
func (d Dirs) Lock(role string) string { return filepath.Join(d.Run, role+".lock") }

// Stopping is there while nobody should restart anything.
func (d Dirs) Stopping() string { return filepath.Join(d.Run, "stopping") }

// Program is the copy of fairlead that the roles run: a link to the installed version.
func (d Dirs) Program() string { return filepath.Join(d.State, "bin", "fairlead") }

// DaemonLog is where a role writes its own remarks.
func (d Dirs) DaemonLog(role string) string { return filepath.Join(d.State, "log", role+".log") }

// DB is the agent's database.
func (d Dirs) DB() string { return filepath.Join(d.State, "agent", "state.db") }

// Alerts is who is told of alerts, and by which rules.
func (d Dirs) Alerts() string { return filepath.Join(d.State, "agent", "alerts.json") }

// Metrics is the folder of the agent's time series.
func (d Dirs) Metrics() string { return filepath.Join(d.State, "agent", "metrics") }

// Fleet is the machine's part in the last rollout of a service over several machines.
func (d Dirs) Fleet(service, env string) string {
	return filepath.Join(d.State, "agent", "fleet."+service+"@"+env+".json")
}

// Artifacts holds what is known of each artifact, by its digest.
func (d Dirs) Artifacts() string { return filepath.Join(d.State, "artifacts") }

// Layers holds unpacked programs, by the digest of the layer they came in.
func (d Dirs) Layers() string { return filepath.Join(d.State, "layers") }

// Policy says what the machine asks of artifacts.
func (d Dirs) Policy() string { return filepath.Join(d.State, "agent", "policy.json") }

// Logs holds the logs of all services.
func (d Dirs) Logs() string { return filepath.Join(d.State, "logs") }

// Fifos holds the pipes that instances print into.
func (d Dirs) Fifos() string { return filepath.Join(d.Run, "fifo") }

// Table is the edge's last routing table.
func (d Dirs) Table() string { return filepath.Join(d.State, "edge", "table.json") }

// Certificates is where the edge keeps certificates and their keys.
func (d Dirs) Certificates() string { return filepath.Join(d.State, "edge", "certificates") }

// QUICKey is the secret from which an edge makes its keys for HTTP/3: the next one must know its packets.
func (d Dirs) QUICKey() string { return filepath.Join(d.State, "edge", "quic.key") }

// Stats is the edge's counters, shared memory between its generations and the agent.
func (d Dirs) Stats() string { return filepath.Join(d.State, "edge", "stats") }

// Service is the folder of one service in one environment.
func (d Dirs) Service(service, env string) string {
	return filepath.Join(d.State, "services", service+"@"+env)
}

// Release is the folder of one release.
func (d Dirs) Release(service, env string, number int) string {
	return filepath.Join(d.Service(service, env), "releases", fmt.Sprint(number))
}
