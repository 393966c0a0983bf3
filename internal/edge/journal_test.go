package edge

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slowDisk takes a write whenever the test lets it.
type slowDisk struct {
	lets   chan error // what the next write returns
	writes [][]byte
	at     []time.Time
	closed int
}

// Write implements [io.Writer].
func (d *slowDisk) Write(p []byte) (int, error) {
	if err := <-d.lets; err != nil {
		if p[0] == '{' {
			return 0, err // of a remark nothing
		}
		return bytes.IndexByte(p, '\n') + 1, err // one line of it
	}
	d.writes, d.at = append(d.writes, bytes.Clone(p)), append(d.at, time.Now())
	return len(p), nil
}

// Close implements [io.Closer].
func (d *slowDisk) Close() error { d.closed++; return nil }

func newJournal(d *slowDisk, log io.Writer) (*accessLog, *route) {
	a := newAccessLog(func(string, string, int64, time.Duration) io.WriteCloser { return d }, slog.New(slog.NewTextHandler(log, nil)))
	return a, &route{key: "shop@prod", Route: Route{Service: "shop", Environment: "prod"}, access: &accessRules{Access: Access{Size: 1}}, stats: &slot{}}
}

func TestJournalWritesWhatCameTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &slowDisk{lets: make(chan error, 100)}
		for range 100 {
			d.lets <- nil
		}
		a, rt := newJournal(d, io.Discard)
		start := time.Now()
		for range 3 {
			a.add(rt, []byte("a\n"))
		}
		time.Sleep(journalEvery + time.Millisecond)
		synctest.Wait()
		if len(d.writes) != 1 || string(d.writes[0]) != "a\na\na\n" || d.at[0].Sub(start) > journalEvery {
			t.Errorf("%q after %s", d.writes, d.at[0].Sub(start))
		}
		// A flood is not waited for, and a long silence makes nothing late.
		time.Sleep(time.Hour)
		start = time.Now()
		big := append(bytes.Repeat([]byte("x"), journalFull), '\n')
		a.add(rt, big) // longer than a block, even
		synctest.Wait()
		if len(d.writes) != 2 || !d.at[1].Equal(start) {
			t.Errorf("%d writes, %s", len(d.writes), time.Since(start))
		}
		a.add(rt, []byte("b\n"))
		a.close()
		a.add(rt, []byte("c\n")) // it is too late
		if len(d.writes) != 3 || string(d.writes[2]) != "b\n" || d.closed != 1 || a.held.Load() != 0 {
			t.Errorf("at the end: %q, closed %d times", d.writes[2:], d.closed)
		}
		a.close()
	})
}

// While the disk does not answer, nobody waits for it, and what is held stays bounded.
func TestJournalOnASlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		d := &slowDisk{lets: make(chan error)}
		a, rt := newJournal(d, &said)
		line := append(bytes.Repeat([]byte("x"), 1<<10-1), '\n')
		start, n := time.Now(), 0
		for range 3 * journalMost / len(line) {
			a.add(rt, line)
			n++
		}
		lost := int(rt.stats.unlogged.Load())
		if !time.Now().Equal(start) || n-lost != journalMost/len(line) {
			t.Errorf("%d of %d lines were dropped, in %s", lost, n, time.Since(start))
		}
		close(d.lets) // it answers again
		time.Sleep(time.Second)
		a.add(rt, []byte("after\n"))
		a.close()
		if got := bytes.Count(bytes.Join(d.writes, nil), line); got != n-lost {
			t.Errorf("%d lines of %d were written", got, n-lost)
		}
		last := string(d.writes[len(d.writes)-1])
		if all := string(bytes.Join(d.writes, nil)); strings.Count(all, "lines could not be written before this one") == 0 || !strings.HasSuffix(last, "after\n") || a.held.Load() != 0 {
			t.Errorf("%d held, the last write is %.300q", a.held.Load(), last)
		}
		if !strings.Contains(said.String(), errFlood.Error()) {
			t.Error(said.String())
		}
	})
}

// A process that shall end does so, whatever the disk does.
func TestJournalEndsOnAHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &slowDisk{lets: make(chan error)}
		a, rt := newJournal(d, io.Discard)
		a.add(rt, []byte("a\n"))
		start := time.Now()
		a.close()
		if took := time.Since(start); took != journalEnd {
			t.Error(took)
		}
		d.lets <- nil
		synctest.Wait()
	})
}

// Of a write that ends in the middle, what is lost is counted line by line, and told of once in a while.
func TestJournalCountsWhatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		d := &slowDisk{lets: make(chan error, 1)}
		a, rt := newJournal(d, &said)
		for range 5 {
			for range 4 {
				a.add(rt, []byte("a\n"))
			}
			d.lets <- errors.New("full")
			time.Sleep(2 * journalEvery)
			synctest.Wait()
		}
		// The first time one line was written, then only remarks on those that are missing.
		if lost := rt.stats.unlogged.Load(); lost != 3+4*4 {
			t.Errorf("%d are lost", lost)
		}
		if n := strings.Count(said.String(), "requests are missing"); n != 1 || !strings.Contains(said.String(), "lines=3 error=full") {
			t.Error(said.String())
		}
		close(d.lets)
		a.add(rt, []byte("b\n"))
		a.close()
		if got := string(bytes.Join(d.writes, nil)); !strings.Contains(got, `"19 lines could not be written`) || !strings.HasSuffix(got, "}\nb\n") {
			t.Error(got)
		}
		if !strings.Contains(said.String(), "lines=16") {
			t.Error("at the end: " + said.String())
		}
	})
}
