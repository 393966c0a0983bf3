package chaos

import (
	"testing"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// Several people order at once, so that one's order is planned while another's rollout ends. Each is carried out or refused as
// busy; none leads back to what served before, and none leaves instances of a release between.
func TestOrdersAtOnce(t *testing.T) {
	m := rig.NewMachine(t)
	m.Up(t, service(t, "orders", strategies["blue-green"]))
	t.Run("together", func(t *testing.T) {
		for range 3 {
			t.Run("one of them", func(t *testing.T) {
				t.Parallel()
				done := 0
				for tries := 0; done < 5 && tries < 500; tries++ {
					events, code := m.Events(t, "restart", "orders")
					if code == 0 {
						done++
					}
					for _, e := range events {
						if code != 0 && e.Error != nil && e.Error.Kind != fail.Busy {
							t.Errorf("%v", e.Error)
						}
						if e.Receipt != nil && e.Receipt.To != e.Receipt.From+1 {
							t.Errorf("it went from release %d to %d", e.Receipt.From, e.Receipt.To)
						}
					}
				}
				if done == 0 {
					t.Error("nothing was carried out")
				}
			})
		}
	})
	rig.Eventually(t, patience, "one release alone", func() bool { return settled(t, m, "orders") })
}
