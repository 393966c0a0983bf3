package spec

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	defaultCompressMin  = Bytes(1 << 10)
	defaultCacheSize    = Bytes(64 << 20)
	defaultCacheObject  = Bytes(4 << 20)
	defaultStaleIfError = Duration(time.Hour)
	minCacheSize        = Bytes(1 << 20)
	maxCacheSize        = Bytes(64 << 30)
	maxCompressTypes    = 50
)

// Compress says which answers are compressed.
type Compress struct {
	Types []string `json:"types,omitempty" jsonschema:"media types, as [text/*, application/json, '*/*+xml']; default: those that are text, and a few more"`
	Min   Bytes    `json:"min,omitzero" jsonschema:"what is shorter goes as it is; default 1KiB"`
}

// On reports whether anything is compressed at all.
func (c Compress) On() bool { return c.Min > 0 }

// Cache says how much is kept of a route's answers.
type Cache struct {
	Size         Bytes    `json:"size,omitzero" jsonschema:"of all answers, in the memory of the edge; default 64MiB"`
	Object       Bytes    `json:"object,omitzero" jsonschema:"of the longest answer that is kept; default 4MiB"`
	Default      Duration `json:"default,omitzero" jsonschema:"how long an answer is fresh, at most, that does not say; default: such answers are not kept"`
	StaleIfError Duration `json:"stale_if_error,omitzero" jsonschema:"for how long after that an answer stands in where no instance answers, or one with 500, 502, 503 or 504; 0s for only where the answer asks for it; default 1h"`
	Across       bool     `json:"across_releases,omitempty" jsonschema:"what one release answered serves the clients of another"`
}

// On reports whether anything is kept at all.
func (c Cache) On() bool { return c.Size > 0 }

// keepDefaults fills in what a cache and compression that are asked for leave open.
func (d *decoder) keepDefaults(r *Route) {
	if d.places["route.compress"] != nil {
		def(d, "route.compress.min", &r.Compress.Min, defaultCompressMin)
	}
	if d.places["route.cache"] != nil {
		def(d, "route.cache.size", &r.Cache.Size, defaultCacheSize)
		def(d, "route.cache.object", &r.Cache.Object, min(defaultCacheObject, max(r.Cache.Size, 1)))
		def(d, "route.cache.stale_if_error", &r.Cache.StaleIfError, defaultStaleIfError)
	}
}

// typeForm is a media type, in which each half may be, or begin with, a star.
var typeForm = regexp.MustCompile(`^(\*|[a-z0-9][a-z0-9.+-]*)/(\*?[a-z0-9+.-]*|\*)$`)

// checkKept holds compression and the cache of a route to what can be done.
func (d *decoder) checkKept(r Route) error {
	if d.places["route.compress"] != nil {
		if err := d.checkCompress(r.Compress); err != nil {
			return err
		}
	}
	c := r.Cache
	switch {
	case d.places["route.cache"] == nil:
		return nil
	case c.Size < minCacheSize || c.Size > maxCacheSize:
		return d.at("route.cache.size", "%s is not between %s and %s", c.Size, minCacheSize, maxCacheSize).Hinted("write size: %s", defaultCacheSize)
	case c.Object < 1 || c.Object > c.Size:
		return d.at("route.cache.object", "%s is not between 1B and the %s of all answers together", c.Object, c.Size)
	}
	return nil
}

func (d *decoder) checkCompress(c Compress) error {
	if c.Min < 1 {
		return d.at("route.compress.min", "%s is less than any answer has that could be compressed", c.Min).Hinted("write min: %s", defaultCompressMin)
	}
	if len(c.Types) > maxCompressTypes {
		return d.at("route.compress.types", "%d are more than the %d that there may be", len(c.Types), maxCompressTypes)
	}
	for i, t := range c.Types {
		path := fmt.Sprintf("route.compress.types[%d]", i)
		switch main, sub, _ := strings.Cut(t, "/"); {
		case !typeForm.MatchString(t) || main == "" || sub == "":
			return d.at(path, "%q is not a media type", t).Hinted("write types: [text/*, application/json]")
		case slices.Contains(c.Types[:i], t):
			return d.at(path, "%s stands here a second time", t)
		}
	}
	return nil
}
