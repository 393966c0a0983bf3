// Package hosts is what the suites under test/ deploy to when a machine of a test's own is not enough: a fleet of real
// Debian systems, each with systemd, an address and an SSH server, and nothing of fairlead.
//
//	f := hosts.Boot(t, "web1", "web2")
//	cmd := f.Client(exec.Command(rig.CLI(t), "up"))   // runs where it reaches the hosts
//	f.Host("web1").PowerCut(t)
//
// A fleet is one process tree in a PID, mount and IPC namespace of its own, with one network namespace for the network, one
// for the client and one a host. Its first process ends when the test's process does, however that ends, and the kernel
// then takes the hosts, their mounts and their networks down with it. DESIGN.md says why, and what a deployer finds inside.
//
// It needs Linux, root, and the programs of a few Debian packages, which are installed when they are not there. Where it
// cannot work the test is [rig.Missing] and says what lacks.
package hosts
