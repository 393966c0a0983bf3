//go:build unix

package edge

import (
	"io"
	"net/http"
	"slices"

	"github.com/fairlead-dev/fairlead/internal/certs"
	"github.com/fairlead-dev/fairlead/internal/rpc"
)

// admin is the API on the edge's own socket.
func (s *Server) admin() http.Handler {
	mux := http.NewServeMux()
	rpc.Handle(mux, "PUT /v1/table", func(r *http.Request) (any, error) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		gen, err := s.setText(b)
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
	rpc.Handle(mux, "GET /v1/certificates", func(*http.Request) (any, error) {
		out := Certificates{All: s.certs.List()}
		s.mu.Lock()
		local := slices.ContainsFunc(s.last.Routes, func(r Route) bool { return r.TLS != nil && r.TLS.Kind == certs.Local })
		s.mu.Unlock()
		if !local {
			return out, nil
		}
		root, err := s.certs.LocalRoot()
		out.LocalRoot = string(root)
		return out, err
	})
	mux.Handle("GET /metrics", MetricsHandler(s.stats))
	return mux
}
