package bench

import (
	"net/http"
	"os/exec"
	"sort"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// BenchmarkRollback measures from the command `fairlead rollback` to the first answer of the old release: with its
// instances kept warm, and with instances that have to be started first.
func BenchmarkRollback(b *testing.B) {
	for name, warm := range map[string]string{"warm": "10m", "cold": "0s"} {
		b.Run(name, func(b *testing.B) {
			m := rig.NewMachine(b)
			dir := rig.Service(b, "test/load/testdata/app", "app", "service: app\nrun: {instances: 2}\nrelease: {watch: 0s, warm: "+warm+"}\n")
			m.Up(b, dir)
			url := m.Up(b, dir).URL
			for range b.N {
				var all []time.Duration
				for range rounds {
					all = append(all, switched(b, m, url))
				}
				sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
				b.ReportMetric(all[len(all)/2].Seconds()*1e3, "switch-ms")
			}
		})
	}
}

func switched(b *testing.B, m *rig.Machine, url string) time.Duration {
	b.Helper()
	old := served(b, url)
	cmd := exec.CommandContext(b.Context(), rig.CLI(b), "rollback", "--service", "app")
	cmd.Env = m.Env
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	for served(b, url) == old {
		if time.Since(begun) > 20*time.Second {
			b.Fatal("the traffic was not switched")
		}
	}
	took := time.Since(begun)
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	return took
}

func served(b *testing.B, url string) string {
	b.Helper()
	res, err := http.Get(url)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	return res.Header.Get("X-Release")
}
