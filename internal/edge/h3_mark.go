package edge

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/quic-go/quic-go"

	"github.com/fairlead-dev/fairlead/internal/home"
)

// generation names an edge among those that share a UDP socket.
type generation uint32

// markLength is the length of the connection IDs that an edge gives out: one block of AES.
const markLength = aes.BlockSize

// quicKeys are those that all edges of a machine have in common, one after the other and at once.
type quicKeys struct {
	marks cipher.Block
	reset quic.StatelessResetKey
	token quic.TokenGeneratorKey
}

// secretLength is that of the secret from which all keys are derived.
const secretLength = 32

// openKeys reads the keys, and makes them where there are none.
func openKeys(path string) (*quicKeys, error) {
	secret, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(secret) != secretLength {
		secret = make([]byte, secretLength)
		rand.Read(secret) // never fails
		err = home.WriteFile(path, secret, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("the key of QUIC: %w", err)
	}
	return newKeys(secret)
}

func newKeys(secret []byte) (*quicKeys, error) {
	k := &quicKeys{}
	marks := make([]byte, 16)
	for _, x := range []struct {
		of   string
		into []byte
	}{{"connection IDs", marks}, {"stateless reset", k.reset[:]}, {"tokens", k.token[:]}} {
		b, err := hkdf.Expand(sha256.New, secret, "fairlead QUIC "+x.of, len(x.into))
		if err != nil {
			return nil, err
		}
		copy(x.into, b)
	}
	var err error
	k.marks, err = aes.NewCipher(marks)
	return k, err
}

// marker gives out connection IDs that name their generation, to who has the keys: to all others they are random, and tell nothing of
// which belong together (RFC 9000, section 5.1).
type marker struct {
	keys *quicKeys
	gen  generation
}

// GenerateConnectionID implements [quic.ConnectionIDGenerator].
func (m marker) GenerateConnectionID() (quic.ConnectionID, error) {
	var b [markLength]byte
	binary.BigEndian.PutUint32(b[:], uint32(m.gen))
	rand.Read(b[8:])
	m.keys.marks.Encrypt(b[:], b[:])
	return quic.ConnectionIDFromBytes(b[:]), nil
}

// ConnectionIDLen implements [quic.ConnectionIDGenerator].
func (m marker) ConnectionIDLen() int { return markLength }

// of returns whose connection ID it is. It reports false for one that no edge of the machine gave out, but for one in 2^32.
func (k *quicKeys) of(id []byte, room *[markLength]byte) (generation, bool) {
	if len(id) != markLength {
		return 0, false
	}
	k.marks.Decrypt(room[:], id)
	return generation(binary.BigEndian.Uint32(room[:])), binary.BigEndian.Uint32(room[4:]) == 0
}

// destination is the connection ID that a packet is for, nil where it can be none of ours. It knows what holds for all versions of
// QUIC (RFC 8999, section 5).
func destination(p []byte) []byte {
	const short, long = 1, 6
	switch {
	case len(p) < short+markLength:
		return nil
	case p[0]&0x80 == 0:
		return p[short : short+markLength]
	case p[long-1] != markLength || len(p) < long+markLength:
		return nil
	}
	return p[long : long+markLength]
}
