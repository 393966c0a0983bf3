package bench

import (
	"encoding/json"
	"strconv"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/test/rig"
)

func fairleadPort(b *testing.B, m *rig.Machine) string {
	b.Helper()
	out, stderr, code := m.Run(b, "status", "server", "--json")
	var st api.Status
	if code != 0 || json.Unmarshal([]byte(out), &st) != nil || len(st.Services) != 1 || len(st.Services[0].Instances) != 1 {
		b.Fatalf("status: %s%s", out, stderr)
	}
	return strconv.Itoa(st.Services[0].Instances[0].Port)
}
