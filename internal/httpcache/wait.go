package httpcache

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// view is what is known of a flight at one moment.
type view struct {
	changed <-chan struct{}
	state   state
	status  int
	head    http.Header
	fresh   *entry
	body    []byte
	length  int64
	over    bool
	broken  bool
	ended   bool
	muted   bool
}

func (f *flight) view() view {
	f.mu.Lock()
	defer f.mu.Unlock()
	return view{f.changed, f.state, f.status, f.head, f.fresh, f.body, f.length, f.over, f.broken, f.ended, f.muted}
}

// lead asks the origin for q, and answers.
func (q *query) lead(f *flight, t told) {
	go f.run()
	defer f.forsake()
	for {
		v := f.view()
		switch {
		case v.state == asked && !v.ended:
			select {
			case <-v.changed:
			case <-q.r.Context().Done():
				q.abandon(f)
				return
			}
		case v.state == passing:
			q.passed(f)
			return
		case v.state == filling:
			q.stream(f, t, true)
			return
		default:
			q.settle(f, v, t, true)
			return
		}
	}
}

// abandon ends a request whose client is gone before the origin answered.
func (q *query) abandon(f *flight) {
	f.mu.Lock()
	late := f.state == passing // in the same moment
	f.lead = nil
	f.mu.Unlock()
	f.informs.Lock() // the client hears something just now
	defer f.informs.Unlock()
	if late {
		f.cancel()
		<-f.done
	}
	panic(http.ErrAbortHandler)
}

// passed waits until the origin's answer went by.
func (q *query) passed(f *flight) {
	select {
	case <-f.done:
	case <-q.r.Context().Done():
		f.cancel()
		<-f.done
	}
	if v := f.view(); v.broken && !v.muted {
		panic(http.ErrAbortHandler)
	}
}

// pass writes the head of an answer that is not kept. The flight's lock is held.
func (q *query) pass(f *flight) {
	h := q.w.Header()
	maps.Copy(h, f.head)
	f.header = h // what is set behind the body goes there
	why := told{fwd: "bypass"}
	switch {
	case f.old != nil:
		why.fwd = "stale"
	case f.keeps:
		why.fwd = "miss"
	}
	q.tell(why)
	res := Result{How: Pass, Status: f.status, Origin: f.origin}
	if f.keeps && q.conditional(f.status, &res) {
		f.muted = true
		return
	}
	q.x.Begin(res)
	q.w.WriteHeader(f.status)
}

// settle answers where there is nothing to read from the flight.
func (q *query) settle(f *flight, v view, t told, first bool) bool {
	switch {
	case v.state == renewed && v.fresh.matches(q.r.Header):
		t.status = http.StatusNotModified
		q.answer(v.fresh, Result{How: Revalidated, Origin: f.origin}, t)
		return true
	case v.state == failing && q.stale(f, v.status, t):
		return true
	case v.state == refused && q.stale(f, 0, t):
		return true
	case v.state == refused:
		q.refuse(f, t)
		return true
	case v.broken && v.state == asked && q.stale(f, 0, t):
		return true
	case !first:
		return false
	case v.state == useless: // what was kept is gone: once more, without conditions
		q.old, q.waits = nil, true
		q.serve()
		return true
	}
	panic(http.ErrAbortHandler)
}

// refuse says what is said where nobody answered.
func (q *query) refuse(f *flight, t told) {
	select {
	case <-f.done:
	case <-q.r.Context().Done():
		panic(http.ErrAbortHandler)
	}
	v := f.view()
	maps.Copy(q.w.Header(), v.head)
	q.tell(t)
	q.x.Begin(Result{How: Failed, Status: v.status, Origin: f.origin})
	q.w.WriteHeader(v.status)
	if q.r.Method != http.MethodHead {
		q.w.Write(v.body)
	}
}

// follow waits for another request's answer. It reports false where that is of no use: then q asks for itself.
func (q *query) follow(f *flight, t told) bool {
	defer f.leave()
	patience := time.NewTimer(collapseTime)
	defer patience.Stop()
	for {
		v := f.view()
		switch {
		case v.state == asked && !v.ended, v.state == filling && v.length < 0 && !v.ended && !v.over:
			select {
			case <-v.changed:
				continue
			case <-patience.C:
				return false
			case <-q.r.Context().Done():
				panic(http.ErrAbortHandler)
			}
		case v.state == passing || v.over || v.broken && v.state != asked:
			return false
		case v.state == filling:
			if !f.suits(q) {
				return false
			}
			q.stream(f, t, false)
			return true
		}
		return q.settle(f, v, t, false)
	}
}

// suits reports whether the answer on its way is one for q, too.
func (f *flight) suits(q *query) bool {
	names := varyOf(f.view().head)
	return slices.Equal(chosenBy(names, f.r.Header), chosenBy(names, q.r.Header))
}

// stream answers with what comes, while it comes.
func (q *query) stream(f *flight, t told, first bool) {
	v := f.view()
	h := q.w.Header()
	maps.Copy(h, v.head)
	t.stored = true
	q.tell(t)
	res := Result{How: Miss, Status: v.status, Origin: f.origin}
	if q.conditional(v.status, &res) {
		return
	}
	if v.length < 0 && v.ended && !v.broken {
		h.Set("Content-Length", strconv.Itoa(len(v.body)))
	}
	q.x.Begin(res)
	q.w.WriteHeader(v.status)
	flush := http.NewResponseController(q.w)
	for at := 0; ; v = f.view() {
		if at < len(v.body) {
			n, err := q.w.Write(v.body[at:])
			if at += n; err != nil {
				panic(http.ErrAbortHandler)
			}
			if !v.ended && int64(at) != v.length { // what ends here goes out in a moment, and is kept by then
				flush.Flush()
			}
			continue
		}
		switch {
		case v.over && first:
			close(f.handed)
			q.passed(f)
			return
		case v.broken:
			panic(http.ErrAbortHandler)
		case v.ended:
			return
		}
		select {
		case <-v.changed:
		case <-q.r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}
