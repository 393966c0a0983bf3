package journal

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/event"
)

// crashEnv makes the test binary the process that is killed: it holds the path of the database.
const crashEnv = "FAIRLEAD_TEST_JOURNAL"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		fmt.Fprintln(os.Stderr, writeSteps(context.Background(), path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeSteps goes on with the rollout that is under way, or begins one, and says each step once it is acknowledged.
func writeSteps(ctx context.Context, path string) error {
	j, err := Open(ctx, path)
	if err != nil {
		return err
	}
	left, err := j.Unfinished(ctx)
	if err != nil {
		return err
	}
	var r *Running
	first := 0
	if len(left) == 1 {
		r, first = j.Resume(left[0]), left[0].Step
	} else if r, err = j.Begin(ctx, draft(1, 0)); err != nil {
		return err
	}
	for i := first + 1; ; i++ {
		if err := r.Event(ctx, i, event.Event{Step: i}); err != nil {
			return err
		}
		if err := r.Step(ctx, i); err != nil {
			return err
		}
		fmt.Println(i)
	}
}

// TestKilled kills a process that writes steps, at a step of its own each time, and holds that the last step it was told
// to be durable is there. The next process goes on behind it.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	exe, err := os.Executable()
	must(t, err)
	last := 0
	for round := range 12 {
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Env = append(os.Environ(), crashEnv+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		in := bufio.NewScanner(out)
		for n := 0; n < 3+7*round && in.Scan(); n++ {
			i, err := strconv.Atoi(in.Text())
			if err != nil || i != last+1 {
				t.Fatalf("%q came after step %d (%v)", in.Text(), last, err)
			}
			last = i
		}
		must(t, cmd.Process.Kill())
		for in.Scan() { // what was acknowledged between the last look and the kill
			last, err = strconv.Atoi(in.Text())
			must(t, err)
		}
		cmd.Wait()

		j := open(t, path)
		left, err := j.Unfinished(t.Context())
		must(t, err)
		if len(left) != 1 || left[0].Step != last && left[0].Step != last+1 {
			t.Fatalf("round %d: step %d was acknowledged, the journal has %+v", round, last, left)
		}
		last = left[0].Step // it may have been written and not yet said
		es, err := j.Events(t.Context(), left[0].ID, 1)
		must(t, err)
		if len(es) != last && len(es) != last+1 {
			t.Errorf("%d events at step %d", len(es), last)
		}
		var ok string
		must(t, j.db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&ok))
		if ok != "ok" {
			t.Fatal(ok)
		}
		must(t, j.Close())
	}
	if last < 100 {
		t.Errorf("only %d steps were written", last)
	}
}
