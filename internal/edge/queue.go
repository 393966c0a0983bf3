package edge

import (
	"container/list"
	"context"
	"net/http"
	"sync"
	"time"
)

// Concurrency bounds how many of a route's requests instances work on at once. More of them wait their turn, first come,
// first served; past that they are refused at once, for an answer that comes when nobody waits any more is work for nothing.
type Concurrency struct {
	Limit int           `json:"limit,omitempty"` // 0 for none
	Auto  bool          `json:"auto,omitempty"`  // it is found out; see [gradient]
	Queue int           `json:"queue,omitempty"` // how many may wait
	Wait  time.Duration `json:"wait,omitempty"`  // for how long
}

// queue is a route's place to wait.
type queue struct {
	mu      sync.Mutex
	rule    Concurrency
	auto    gradient
	busy    int       // requests that were let in and have not left
	waiting list.List // of chan struct{}, closed when it is its turn
}

// follow puts another rule in force. Who waits is let in as far as it allows, and nobody is sent away.
func (q *queue) follow(rule Concurrency) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rule = rule
	q.call()
}

// room reports whether there is a place for one more. q.mu is held.
func (q *queue) room() bool {
	if q.rule.Auto {
		return q.busy < q.auto.now()
	}
	return q.rule.Limit == 0 || q.busy < q.rule.Limit
}

// sample notes how long an answer took to begin.
func (q *queue) sample(took time.Duration, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.auto.sample(took, q.busy, now)
	q.call()
}

// call lets in who is next. q.mu is held.
func (q *queue) call() {
	for q.waiting.Len() > 0 && q.room() {
		close(q.waiting.Remove(q.waiting.Front()).(chan struct{}))
		q.busy++
	}
}

// leave ends what enter began.
func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy--
	q.call()
}

// enter waits for the request's turn. When it was let in, leave must be called once; otherwise it was refused, or its client
// did not wait and the error is the context's.
func (q *queue) enter(ctx context.Context) (*refusal, error) {
	q.mu.Lock()
	if q.room() && q.waiting.Len() == 0 {
		q.busy++
		q.mu.Unlock()
		return nil, nil
	}
	rule := q.rule
	if q.waiting.Len() >= rule.Queue {
		q.mu.Unlock()
		return busy(rule), nil
	}
	turn := make(chan struct{})
	place := q.waiting.PushBack(turn)
	q.mu.Unlock()

	t := time.NewTimer(timeLeft(ctx, rule.Wait))
	defer t.Stop()
	select {
	case <-turn:
		return nil, nil
	case <-t.C:
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-turn: // in the same moment
		if ctx.Err() == nil {
			return nil, nil
		}
		q.busy--
		q.call()
	default:
		q.waiting.Remove(place)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return busy(rule), nil
}

// busy is what a request is told for which there is no place. Those that wait now are gone, one way or the other, after
// the longest wait.
func busy(rule Concurrency) *refusal {
	return &refusal{status: http.StatusServiceUnavailable, why: "queue", text: "the service has too many requests under way: try again in a moment", wait: max(rule.Wait, time.Second)}
}
