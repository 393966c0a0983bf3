//go:build unix

package edge

import (
	"errors"
	"os"
	"time"
)

// guarded is run for a route that has protections, as [proxy.guarded] is for what net/http reads.
func (a *reply) guarded(g *Guard, start time.Time) error {
	c, ex, p := a.c, a.ex, a.c.s.proxy
	who := asked{c.peer, &c.head, c.frame.length}
	if ex.in != nil {
		who.client = ex.route.client(ex.in)
	}
	if f := p.admit(ex, who); f != nil {
		return a.refuse(f, nil)
	}
	if g.Auth != nil {
		if f := p.authorized(waiting{c}, ex, ex.in); f != nil {
			return a.refuse(f, nil)
		}
	}
	if g.Request > 0 {
		c.until = start.Add(g.Request)
	}
	q, f, err := p.wait(waiting{c}, ex)
	if f != nil || err != nil {
		return a.refuse(f, err)
	}
	if q != nil {
		defer q.leave()
		if g.Concurrency.Auto {
			defer ex.teach(q)
		}
	}
	return a.run()
}

// clock starts the time in which the instance must begin its answer, if there is such a time and begins is true.
func (a *reply) clock(try time.Duration, begins bool) {
	if a.late = (time.Time{}); try > 0 && begins {
		a.late = a.now.Add(try)
	}
}

// bound returns until when it is waited for the instance, zero for ever, and the error that comes of waiting longer.
func (a *reply) bound() (time.Time, error) {
	if until := a.c.until; a.late.IsZero() || !until.IsZero() && until.Before(a.late) {
		return until, errRequestTime
	}
	return a.late, errTryTime
}

// more waits until n bytes of the instance's are there, within the time that it has. When that takes a while it looks whether
// the client is still there: one that has gone must not keep an instance at work, or a stream of rare events open.
func (a *reply) more(n int) error {
	c := a.c
	by, late := a.bound()
	if !c.watching {
		look := a.now.Add(lookAfter)
		last := !by.IsZero() && by.Before(look)
		if last {
			a.up.readUntil(by, 0)
		} else {
			a.up.readUntil(look, lookAfter)
		}
		_, err := a.up.r.Peek(n)
		switch {
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case last:
			return late
		}
	}
	gone := c.watch()
	a.up.readUntil(by, 0)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-gone:
			a.up.readUntil(time.Unix(1, 0), 0)
		case <-done:
		}
	}()
	_, err := a.up.r.Peek(n)
	close(done)
	<-ended
	switch {
	case err != nil && c.left.Load():
		a.gone = true
	case errors.Is(err, os.ErrDeadlineExceeded):
		return late
	}
	return err
}
