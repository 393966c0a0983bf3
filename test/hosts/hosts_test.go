// Package hosts holds the rig of the same name to its word: hosts are real ones, limits inside them are in force, each fault
// has its effect, and nothing is left when a fleet ends or its owner is killed.
package hosts

import (
	"os"
	"testing"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// asEcho in the environment makes this test program a small server at that address; see echo.
const asEcho = "HOSTS_TEST_ECHO"

func TestMain(m *testing.M) {
	if address := os.Getenv(asEcho); address != "" {
		echo(address)
		return
	}
	rig.Main(m)
}
