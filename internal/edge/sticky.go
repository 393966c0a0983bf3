package edge

import (
	"hash/fnv"
	"net/http"
	"strings"
)

// points is how finely sticky clients are spread over the releases; anywhere is the point of one that is not.
const (
	points   = 10000
	anywhere = -1
)

// point finds a client's place by what identifies it: the same in every process and at every weight. Without the cookie or
// the header that the route asks for, it is the address.
func point(rt *route, r *http.Request) int {
	kind, name, _ := strings.Cut(rt.Sticky, ":")
	id := ""
	switch kind {
	case "":
		return anywhere
	case "cookie":
		if c, err := r.Cookie(name); err == nil {
			id = c.Value
		}
	case "header":
		id = r.Header.Get(name)
	}
	if id == "" {
		id = rt.client(r).String()
	}
	return pointOf(id)
}

// pointOf is the place of who has an identity.
func pointOf(id string) int {
	h := fnv.New64a()
	h.Write([]byte(id))
	// FNV's low bits hardly differ between neighbouring addresses; the finalizer of MurmurHash3 (Appleby, 2011) spreads them.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return int(x % points)
}
