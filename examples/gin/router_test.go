package main

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
)

func TestRoutes(t *testing.T) {
	var log strings.Builder
	h := router(slog.New(slog.NewJSONHandler(&log, nil)))
	for _, tc := range []struct {
		method, path, body string
		status             int
		want               string // a part of the answer
	}{
		{"GET", "/healthz", "", 204, ""},
		{"GET", "/ready", "", 204, ""},
		{"GET", "/", "", 200, `"gin":"` + gin.Version + `"`},
		{"GET", "/albums", "", 200, "Blue Train"},
		{"GET", "/albums/2", "", 200, "Jeru"},
		{"GET", "/albums/3", "", 404, "no such album"},
		{"POST", "/albums", `{"id":"3","title":"Kind of Blue"}`, 400, "Artist"},
		{"POST", "/albums", `{"id":"3","title":"Kind of Blue","artist":"Miles Davis","price":29.5}`, 201, "Miles Davis"},
		{"POST", "/albums", `{"id":"3","title":"Kind of Blue","artist":"Miles Davis","price":29.5}`, 409, "already"},
		{"GET", "/albums/3", "", 200, "Kind of Blue"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), tc.method, tc.path, strings.NewReader(tc.body)))
		if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.want) {
			t.Errorf("%s %s: %d %s, want %d with %q", tc.method, tc.path, w.Code, w.Body, tc.status, tc.want)
		}
	}
	if !strings.Contains(log.String(), `"path":"/albums/3","status":404`) || strings.Contains(log.String(), "healthz") {
		t.Errorf("the log should name each request and no probe:\n%s", log.String())
	}
}
