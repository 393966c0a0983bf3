// Command hello is the smallest service that behaves: its port from PORT, health endpoints, JSON logs, a graceful stop.
package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version and commit are set by the build.
var version, commit = "dev", ""

func main() {
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stdout, nil)))
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		slog.Info("hello", "path", r.URL.Path, "traceparent", r.Header.Get("traceparent"))
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]string{"hello": "world", "version": version, "commit": commit, "release": os.Getenv("FAIRLEAD_RELEASE")})
	})
	healthy := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	mux.HandleFunc("GET /ready", healthy)
	mux.HandleFunc("GET /healthz", healthy)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	srv := &http.Server{Addr: "127.0.0.1:" + port, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		srv.Shutdown(end)
	}()
	slog.Info("serving", "port", port, "version", version)
	if err := srv.ListenAndServe(); err != http.ErrServerClosed {
		slog.Error("cannot serve", "error", err)
		os.Exit(1)
	}
	<-ctx.Done()
}
