package edge

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/httpcache"
)

// compressed is the writer of an answer that may be compressed. Whether it is, is decided by its head, and where that does not say how long
// it is by its first bytes.
type compressed struct {
	http.ResponseWriter
	r      *http.Request // as the instance gets it
	rule   *Compress
	coding coding // that the client likes best
	lists  bool   // it asked by a tag of this coding; see asTold

	status int    // of a head that is held back, 0 for none
	held   []byte // of its body
	begun  bool   // the head was written
	enc    encoder
}

// newCompressed makes the writer of an answer to r, and r as it goes on. Where answers are kept the instance is asked for the plain one: it
// is kept once, and coded for each client.
func newCompressed(rt *route, w http.ResponseWriter, r *http.Request) *compressed {
	z := &compressed{ResponseWriter: w, r: r, rule: rt.Compress, coding: preferred(r.Header["Accept-Encoding"])}
	if noTransform(r.Header) {
		z.begun = true // nothing is done to it
		return z
	}
	h := r.Header.Clone()
	if rt.Cache != nil && httpcache.Takes(r) {
		delete(h, "Accept-Encoding")
	}
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead
	z.lists = untag(h, "If-None-Match", !safe, z.coding) && safe
	untag(h, "If-Match", true, identity) // by whatever coding the client knows it, what it wants to change is the same
	out := *r
	out.Header = h
	z.r = &out
	return z
}

// The instance has one entity tag for what clients get in several codings, and with each coding another sequence of bytes. So that neither a
// client nor a cache takes one for the other, the tag has the coding's name at its end, and is the instance's own again on its way back
// (RFC 9110, section 8.8.3.3). A weak tag may stand for all of them as it is.

func suffix(c coding) string { return "--" + string(c) + `"` }

// tag is a tag of the instance's for an answer in a coding.
func tag(of string, c coding) string {
	if !strings.HasPrefix(of, `"`) || len(of) < 2 || !strings.HasSuffix(of, `"`) || c == identity {
		return of
	}
	return of[:len(of)-1] + suffix(c)
}

// untag makes tags in a header the instance's own: those of all codings, or those of one. It reports whether there were any.
func untag(h http.Header, name string, all bool, one coding) (found bool) {
	lines := h[name]
	for i, line := range lines {
		for _, c := range codings {
			if (all || c == one) && strings.Contains(line, suffix(c)) {
				line, found = strings.ReplaceAll(line, suffix(c), `"`), true
			}
		}
		lines[i] = line
	}
	return found
}

// WriteHeader decides, or holds the head back until the body tells.
func (z *compressed) WriteHeader(code int) {
	h := z.Header()
	switch {
	case z.begun || code < 200:
		z.ResponseWriter.WriteHeader(code)
		return
	case z.status != 0:
		return
	case code == http.StatusNotModified:
		vary(h)
		if t := h.Get("Etag"); z.lists && t != "" {
			h.Set("Etag", tag(t, z.coding)) // by which the client asked
		}
		z.plain(code)
		return
	case !z.may(code, h):
		z.plain(code)
		return
	}
	vary(h)
	if code == http.StatusPartialContent {
		z.plain(code)
		return
	}
	length, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	switch {
	case z.coding == identity || err == nil && length < z.rule.Min:
		z.plain(code)
	case z.r.Method == http.MethodHead:
		z.head(h)
		z.plain(code)
	case err == nil:
		z.status = code
		z.begin()
	default:
		z.status = code
	}
}

// may reports whether an answer might be compressed, for this client or another, or would be if it were not a part of one.
func (z *compressed) may(code int, h http.Header) bool {
	return code != http.StatusNoContent && code != http.StatusResetContent && z.rule.takes(h.Get("Content-Type")) && (!transformed(h) || code == http.StatusPartialContent)
}

// Coding implements [httpcache.Coder].
func (z *compressed) Coding(status, length int) string {
	if z.begun || status == http.StatusPartialContent || int64(length) < z.rule.Min || !z.may(status, z.Header()) {
		return ""
	}
	return string(z.coding)
}

// Code implements [httpcache.Coder].
func (z *compressed) Code(body []byte) []byte {
	var out bytes.Buffer
	enc := theEncoders.get(z.coding, &out)
	if enc == nil {
		return nil
	}
	defer theEncoders.put(z.coding, enc)
	_, err := enc.Write(body)
	if errors.Join(err, enc.Close()) != nil {
		return nil
	}
	return bytes.Clone(out.Bytes())
}

// WriteCoded implements [httpcache.Coder].
func (z *compressed) WriteCoded(status int, coded []byte) error {
	h := z.Header()
	vary(h)
	z.head(h)
	h.Set("Content-Length", strconv.Itoa(len(coded)))
	z.plain(status)
	_, err := z.ResponseWriter.Write(coded)
	return err
}

// vary says that the answer depends on what the client accepts, whether this one was compressed or not.
func vary(h http.Header) {
	if slices.ContainsFunc(h["Vary"], func(line string) bool { return lists(line, "*") || lists(line, "Accept-Encoding") }) {
		return
	}
	h["Vary"] = append(slices.Clip(h["Vary"]), "Accept-Encoding")
}

// head makes a head that of a compressed answer.
func (z *compressed) head(h http.Header) {
	h.Set("Content-Encoding", string(z.coding))
	h.Del("Content-Length")
	h.Del("Accept-Ranges")
	if t := h.Get("Etag"); t != "" && (z.r.Method == http.MethodGet || z.r.Method == http.MethodHead) { // the tag in the answer to a change is that of what was changed
		h.Set("Etag", tag(t, z.coding))
	}
}

// plain writes the head of an answer that goes as it is.
func (z *compressed) plain(code int) {
	z.begun = true
	z.ResponseWriter.WriteHeader(code)
}

// begin writes a head that was held back, and compresses from there on if there is an encoder to be had.
func (z *compressed) begin() {
	if z.enc = theEncoders.get(z.coding, z.ResponseWriter); z.enc != nil {
		z.head(z.Header())
	}
	z.plain(z.status)
}

// Write implements [http.ResponseWriter].
func (z *compressed) Write(p []byte) (int, error) {
	if !z.begun && z.status == 0 {
		z.WriteHeader(http.StatusOK)
	}
	if !z.begun {
		if len(z.held)+len(p) < int(z.rule.Min) {
			z.held = append(z.held, p...)
			return len(p), nil
		}
		if err := z.decided(); err != nil {
			return 0, err
		}
	}
	if z.enc == nil {
		return z.ResponseWriter.Write(p)
	}
	return z.enc.Write(p)
}

// decided begins an answer whose length is not known, and writes what was held of it.
func (z *compressed) decided() error {
	z.begin()
	held := z.held
	z.held = nil
	if len(held) == 0 {
		return nil
	}
	_, err := z.Write(held)
	return err
}

// FlushError sends all that was written: the client waits for no more of it than without compression.
func (z *compressed) FlushError() error {
	if !z.begun && z.status != 0 {
		if err := z.decided(); err != nil {
			return err
		}
	}
	if z.enc != nil {
		if err := z.enc.Flush(); err != nil {
			return err
		}
	}
	return http.NewResponseController(z.ResponseWriter).Flush()
}

// close ends an answer. One that is short, and came without its length, goes as it is.
func (z *compressed) close() {
	var err error
	switch {
	case !z.begun && z.status != 0:
		z.Header().Set("Content-Length", strconv.Itoa(len(z.held)))
		z.plain(z.status)
		if len(z.held) > 0 {
			_, err = z.ResponseWriter.Write(z.held)
		}
	case z.enc != nil:
		err = z.enc.Close()
	}
	if err != nil {
		panic(http.ErrAbortHandler) // its client is gone, or must see that this is not all
	}
}

// release gives up what the answer took, whether it ended or broke off.
func (z *compressed) release() {
	if z.enc != nil {
		theEncoders.put(z.coding, z.enc)
		z.enc = nil
	}
}

// Unwrap lets [http.ResponseController] reach the connection.
func (z *compressed) Unwrap() http.ResponseWriter { return z.ResponseWriter }
