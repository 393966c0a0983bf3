//go:build unix

package edge

import (
	"net/http"

	"github.com/fairlead-dev/fairlead/internal/rpc"
)

// admin is the API on the edge's own socket.
func (s *Server) admin() http.Handler {
	mux := http.NewServeMux()
	rpc.Handle(mux, "PUT /v1/table", func(r *http.Request) (any, error) {
		t, err := rpc.Decode[Table](r)
		if err != nil {
			return nil, err
		}
		gen, err := s.Set(t)
		return info(s.version, gen), err
	})
	rpc.Handle(mux, "GET /v1/table", func(*http.Request) (any, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.last, nil
	})
	rpc.Handle(mux, "GET /v1/info", func(*http.Request) (any, error) {
		return info(s.version, s.table.Load().generation), nil
	})
	mux.Handle("GET /metrics", MetricsHandler(s.stats))
	return mux
}
