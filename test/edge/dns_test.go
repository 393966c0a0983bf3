package edge_test

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// A certificate for every name below one comes by DNS-01: a command tells the name server what the authority looks for, and takes it back.
func TestDNSChallenge(t *testing.T) {
	p := rig.FreePorts(t, 3)
	ca := newAuthority(t, p[0], p[1], time.Hour) // nobody listens at these ports
	curl := rig.Tool(t, "curl", "curl")
	m := rig.NewMachine(t)
	work := t.TempDir()
	said := filepath.Join(work, "said")
	hook := filepath.Join(work, "dns-hook")
	script := fmt.Sprintf("#!/bin/sh\nset -e\necho \"$1 $2\" >>%s\ncase $1 in\npresent) %s -sSf -d \"{\\\"host\\\":\\\"$2\\\",\\\"value\\\":\\\"$3\\\"}\" %s/set-txt;;\ncleanup) %s -sSf -d \"{\\\"host\\\":\\\"$2\\\"}\" %s/clear-txt;;\nesac\n",
		said, curl, ca.dns, curl, ca.dns)
	if err := os.WriteFile(hook, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := fmt.Sprintf("service: shop\nroute:\n  hosts: ['*.%s']\n  listen: 127.0.0.1:%d\n  http: off\n  tls: auto\n  acme: {directory: %q, roots: %s, dns: %s}\nrelease: {watch: 100ms}\n",
		host, p[2], ca.directory, ca.roots, hook)
	m.Up(t, shopDir(t, spec))
	var err error
	rig.Eventually(t, patience, "a certificate", func() bool {
		var c *tls.Conn
		c, err = tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p[2]), &tls.Config{RootCAs: ca.issued, ServerName: "any." + host, MinVersion: tls.VersionTLS12})
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	rig.Eventually(t, patience, "the record is taken back", func() bool {
		b, err := os.ReadFile(said)
		return err == nil && string(b) == "present _acme-challenge."+host+".\ncleanup _acme-challenge."+host+".\n"
	})
}
