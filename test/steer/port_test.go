package steer

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// TestFixedPort: two instances of a service whose code says port 80 run side by side, as a user who may not have that port, through a
// deploy, in each way of taking traffic.
func TestFixedPort(t *testing.T) {
	rig.LinuxAndRoot(t, "run.port")
	m := rig.NewMachine(t)
	dir := rig.Service(t, "test/steer/testdata/fixed", "fixed", "")
	for _, mode := range []string{"proxy", "kernel"} {
		spec := "service: fixed\nrun: {instances: 2, port: 80}\nroute: {mode: " + mode + "}\nrelease: {watch: 100ms}\n"
		rig.Spec(t, dir, spec)
		r := m.Up(t, dir)
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
		seen := map[string]bool{}
		rig.Eventually(t, 20*time.Second, "both instances answer", func() bool {
			seen[get(c, r.URL)] = true
			return seen["1"] && seen["2"]
		})
		if self := get(c, r.URL+"/self"); self != "1" && self != "2" {
			t.Errorf("%s: asked itself: %q", mode, self)
		}
		if len(seen) != 2 {
			t.Errorf("%s: answers %v", mode, seen)
		}
	}
	out, stderr, code := m.Run(t, "status", "fixed", "--json")
	var st api.Status
	if code != 0 || json.Unmarshal([]byte(out), &st) != nil || len(st.Services) != 1 {
		t.Fatalf("%s%s", out, stderr)
	}
	if s := st.Services[0]; s.Mode != "kernel" || len(s.Instances) != 2 || s.Instances[0].Port == s.Instances[1].Port || s.Instances[0].Port == 80 {
		t.Errorf("%+v", s)
	}
	// Without it the instance does not get its port, and the error says what to write.
	rig.Spec(t, dir, "service: fixed\nrun: {startup_timeout: 3s}\n")
	if _, stderr, code := m.Run(t, "up", dir); code == 0 || !strings.Contains(stderr, "permission denied") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}
