package main

import (
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
)

// album is one record of the shop.
type album struct {
	ID     string  `json:"id" binding:"required"`
	Title  string  `json:"title" binding:"required"`
	Artist string  `json:"artist" binding:"required"`
	Price  float64 `json:"price" binding:"gt=0"`
}

// albums is the shop's stock, in memory.
type albums struct {
	mu  sync.RWMutex
	all []album
}

// router holds every route of the service.
func router(log *slog.Logger) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	ok := func(c *gin.Context) { c.Status(http.StatusNoContent) }
	r.GET("/healthz", ok)
	r.GET("/ready", ok)

	stock := &albums{all: []album{
		{"1", "Blue Train", "John Coltrane", 56.99},
		{"2", "Jeru", "Gerry Mulligan", 17.99},
	}}
	// The routes above are not logged: the probes ask every few seconds.
	api := r.Group("/", logged(log), gin.Recovery())
	api.GET("/", func(c *gin.Context) {
		c.JSON(http.StatusOK, gin.H{"service": "gin", "version": version, "gin": gin.Version})
	})
	api.GET("/albums", stock.list)
	api.GET("/albums/:id", stock.get)
	api.POST("/albums", stock.add)
	return r
}

func (s *albums) list(c *gin.Context) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c.JSON(http.StatusOK, s.all)
}

func (s *albums) get(c *gin.Context) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i := s.find(c.Param("id"))
	if i < 0 {
		c.JSON(http.StatusNotFound, gin.H{"error": "no such album"})
		return
	}
	c.JSON(http.StatusOK, s.all[i])
}

func (s *albums) add(c *gin.Context) {
	var a album
	if err := c.ShouldBindJSON(&a); err != nil {
		c.JSON(http.StatusBadRequest, gin.H{"error": err.Error()})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.find(a.ID) >= 0 {
		c.JSON(http.StatusConflict, gin.H{"error": "that album is there already"})
		return
	}
	s.all = append(s.all, a)
	c.JSON(http.StatusCreated, a)
}

func (s *albums) find(id string) int {
	return slices.IndexFunc(s.all, func(a album) bool { return a.ID == id })
}

// logged writes one JSON line a request.
func logged(log *slog.Logger) gin.HandlerFunc {
	return func(c *gin.Context) {
		began := time.Now()
		c.Next()
		log.Info("request", "method", c.Request.Method, "path", c.Request.URL.Path, "status", c.Writer.Status(),
			"took", time.Since(began), "traceparent", c.GetHeader("traceparent"))
	}
}
