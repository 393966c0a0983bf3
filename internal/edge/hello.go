package edge

import (
	"encoding/binary"
	"errors"

	"golang.org/x/crypto/cryptobyte"
)

// hello is what a client says in the first message of a TLS handshake and what is of interest before somebody answers it.
type hello struct {
	name      string   // of the server that it wants (RFC 6066, section 3), as it wrote it; "" for none
	protocols []string // that it offers (RFC 7301)
}

// maxHello bounds that message with the heads of its records. Those of browsers, with keys against quantum computers, have 2 KiB.
const maxHello = 16 << 10

const (
	recordHead      = 5
	handshakeHead   = 4
	recordHandshake = 22
	clientHello     = 1
	maxRecord       = 16 << 10
	maxName         = 255 // of a host in the DNS
)

var (
	errNoTLS = errors.New("what the client says is no TLS")
	errHello = errors.New("the client's first TLS message is malformed or too long")
)

// parseHello reads it from the beginning of a connection. As long as it is not there whole, need is how long b must be at least for
// another try.
func parseHello(b []byte) (h hello, need int, err error) {
	var message []byte
	for at := 0; ; {
		if len(b) > at && b[at] != recordHandshake || len(b) > at+1 && b[at+1] != 3 {
			return h, 0, errNoTLS
		}
		if len(b) < at+recordHead {
			return h, at + recordHead, nil
		}
		n := int(binary.BigEndian.Uint16(b[at+3:]))
		end := at + recordHead + n
		if n == 0 || n > maxRecord || end > maxHello {
			return h, 0, errHello
		}
		if len(b) < end {
			return h, end, nil
		}
		// A message may be cut into records (RFC 8446, section 5.1).
		if part := b[at+recordHead : end : end]; message == nil {
			message = part
		} else {
			message = append(message, part...)
		}
		if message[0] != clientHello {
			return h, 0, errHello
		}
		if len(message) >= handshakeHead {
			size := handshakeHead + int(message[1])<<16 + int(message[2])<<8 + int(message[3])
			if size > maxHello {
				return h, 0, errHello
			}
			if len(message) >= size {
				err = h.read(message[handshakeHead:size])
				return h, 0, err
			}
		}
		at = end
	}
}

// read takes the message apart (RFC 8446, section 4.1.2).
func (h *hello) read(message []byte) error {
	s := cryptobyte.String(message)
	var session, suites, compression, extensions cryptobyte.String
	if !s.Skip(2+32) || !s.ReadUint8LengthPrefixed(&session) || !s.ReadUint16LengthPrefixed(&suites) || !s.ReadUint8LengthPrefixed(&compression) {
		return errHello
	}
	if s.Empty() {
		return nil // before TLS 1.2 there need not be extensions
	}
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return errHello
	}
	named, offered := false, false
	for !extensions.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			return errHello
		}
		ok := true
		switch kind {
		case 0:
			ok, named = !named && h.readName(data), true
		case 16:
			ok, offered = !offered && h.readProtocols(data), true
		}
		if !ok {
			return errHello
		}
	}
	return nil
}

func (h *hello) readName(data cryptobyte.String) bool {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() || list.Empty() {
		return false
	}
	for !list.Empty() {
		var kind uint8
		var name cryptobyte.String
		if !list.ReadUint8(&kind) || !list.ReadUint16LengthPrefixed(&name) || name.Empty() {
			return false
		}
		if kind != 0 {
			continue // no other kind was ever defined
		}
		if h.name != "" || len(name) > maxName {
			return false
		}
		h.name = string(name)
	}
	return true
}

func (h *hello) readProtocols(data cryptobyte.String) bool {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() || list.Empty() {
		return false
	}
	for !list.Empty() {
		var p cryptobyte.String
		if !list.ReadUint8LengthPrefixed(&p) || p.Empty() {
			return false
		}
		h.protocols = append(h.protocols, string(p))
	}
	return true
}

// The alerts with which the edge ends a handshake that it has with nobody (RFC 8446, section 6).
const (
	alertDecode       = 50
	alertUnrecognized = 112
)

// alert is a fatal one as a record, as every version of TLS reads it.
func alert(description byte) []byte { return []byte{21, 3, 3, 0, 2, 2, description} }
