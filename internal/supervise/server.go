package supervise

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/rpc"
)

// Handler is the supervisor's API: PUT and DELETE of groups, and the snapshot, at once or when it changed.
func (s *Supervisor) Handler() http.Handler {
	mux := http.NewServeMux()
	rpc.Handle(mux, "PUT /v1/groups", func(r *http.Request) (any, error) {
		g, err := rpc.Decode[Group](r)
		if err != nil {
			return nil, err
		}
		if g.Program.Probes.Ready == nil || g.Program.Path == "" || g.Program.Service == "" {
			return nil, fail.New(fail.Usage, "set group", "service, path and ready probe are required")
		}
		return struct{}{}, s.Set(g)
	})
	rpc.Handle(mux, "DELETE /v1/groups/{key}", func(r *http.Request) (any, error) {
		return struct{}{}, s.Forget(r.PathValue("key"))
	})
	rpc.Handle(mux, "GET /v1/snapshot", func(r *http.Request) (any, error) {
		q := r.URL.Query()
		if q.Get("after") == "" {
			return s.Snapshot(q.Has("usage")), nil
		}
		after, err := strconv.ParseUint(q.Get("after"), 10, 64)
		if err != nil {
			return nil, fail.New(fail.Usage, "snapshot", "after: %w", err)
		}
		ctx, cancel := context.WithTimeout(r.Context(), longPoll)
		defer cancel()
		return s.Wait(ctx, after), nil
	})
	return mux
}

// longPoll bounds one waiting call; the client simply asks again.
const longPoll = 20 * time.Second

// Client calls a machine's supervisor.
type Client struct{ c *rpc.Client }

// NewClient makes a client of the supervisor behind sock.
func NewClient(sock string) *Client { return &Client{rpc.NewClient(sock)} }

// Set makes g what is wanted; see [Supervisor.Set].
func (c *Client) Set(ctx context.Context, g Group) error {
	return c.c.Call(ctx, http.MethodPut, "/v1/groups", g, nil)
}

// Forget drops a group; see [Supervisor.Forget].
func (c *Client) Forget(ctx context.Context, key string) error {
	return c.c.Call(ctx, http.MethodDelete, "/v1/groups/"+key, nil, nil)
}

// Snapshot returns the machine's instances, with what each one takes now.
func (c *Client) Snapshot(ctx context.Context) (Snapshot, error) {
	var s Snapshot
	err := c.c.Call(ctx, http.MethodGet, "/v1/snapshot?usage", nil, &s)
	return s, err
}

// Wait returns the snapshot when its revision is no longer after, or after about 20 seconds.
func (c *Client) Wait(ctx context.Context, after uint64) (Snapshot, error) {
	var s Snapshot
	err := c.c.Call(ctx, http.MethodGet, "/v1/snapshot?after="+strconv.FormatUint(after, 10), nil, &s)
	return s, err
}
