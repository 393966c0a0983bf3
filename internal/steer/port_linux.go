package steer

import (
	"bytes"
	_ "embed" // the object that the kernel gets
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

//go:embed port.bpf.o
var portObject []byte

// GivePort has processes of a control group (version 2, a folder) listen at the port given where they ask for another one, and reach
// themselves there by loopback: so several instances of a service with a fixed port in its code run side by side. It holds for as
// long as the group exists. The error says what the machine lacks.
func GivePort(group string, asked, given int) error {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(portObject))
	if err != nil {
		return err
	}
	for name, port := range map[string]int{"asked": asked, "given": given} {
		if err := spec.Variables[name].Set(uint32(port>>8&0xff | port&0xff<<8)); err != nil { // in network order
			return err
		}
	}
	c, err := load(spec)
	if err != nil {
		return err
	}
	defer c.Close()
	dir, err := os.Open(group)
	if err != nil {
		return err
	}
	defer dir.Close()
	for name, at := range map[string]ebpf.AttachType{"bind4": ebpf.AttachCGroupInet4Bind, "bind6": ebpf.AttachCGroupInet6Bind,
		"connect4": ebpf.AttachCGroupInet4Connect, "connect6": ebpf.AttachCGroupInet6Connect} {
		// Not by a link, which would end with this process: the group itself keeps the program.
		const allowMulti = 1 << 1 // BPF_F_ALLOW_MULTI of bpf(2)
		if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: c.Programs[name], Attach: at, Flags: allowMulti}); err != nil {
			return fmt.Errorf("give processes another port (%s): %w", name, err)
		}
	}
	return nil
}
