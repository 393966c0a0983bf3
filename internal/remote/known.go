package remote

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// maxKnown bounds a file of host keys.
const maxKnown = 16 << 20

// entry is a line of a file of host keys that speaks of our host.
type entry struct {
	marker string // "", "cert-authority" or "revoked"
	key    ssh.PublicKey
	place  string // file:line
}

// readKnown returns the lines for name, which is as such files have it: host, or [host]:port where the port is not 22.
// A file that is not there has no lines; a line that cannot be read is an error, as it may be the one that counts.
func readKnown(files []string, name string) ([]entry, error) {
	var out []entry
	for _, path := range files {
		b, err := readBounded(path, maxKnown)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fail.New(fail.Preflight, "read the keys of known hosts", "%w", err)
		}
		n := 0
		for line := range bytes.Lines(b) {
			n++
			e, ok, err := readEntry(line, name)
			place := fmt.Sprintf("%s:%d", path, n)
			if err != nil {
				return nil, &fail.Error{Kind: fail.Preflight, Place: place, Err: fmt.Errorf("the key of a known host: %w", err),
					Hint: "mend or remove this line: fairlead trusts nothing in a file that it cannot read"}
			}
			if ok {
				e.place = place
				out = append(out, e)
			}
		}
	}
	return out, nil
}

// readEntry reads a line and says whether it is for name. Keys of a kind that is not done here cannot be shown to us
// either, so they are passed over; all else must make sense.
func readEntry(line []byte, name string) (entry, bool, error) {
	fields := bytes.Fields(line)
	if len(fields) == 0 || fields[0][0] == '#' {
		return entry{}, false, nil
	}
	var e entry
	if fields[0][0] == '@' {
		e.marker = string(fields[0][1:])
		fields = fields[1:]
		if e.marker != "cert-authority" && e.marker != "revoked" {
			return e, false, fmt.Errorf("the marker @%.40s is not known", printable(e.marker))
		}
	}
	if len(fields) < 3 {
		return e, false, errors.New("a line has names, a kind of key and the key")
	}
	is, err := namesHost(string(fields[0]), name)
	if err != nil {
		return e, false, err
	}
	blob, err := base64.StdEncoding.DecodeString(string(fields[2]))
	if err != nil {
		return e, false, errors.New("the key is not base64")
	}
	kind := string(fields[1])
	if !doneHere(kind) {
		return e, false, nil
	}
	if e.key, err = ssh.ParsePublicKey(blob); err != nil {
		return e, false, fmt.Errorf("the %s key is damaged", kind)
	}
	if e.key.Type() != kind {
		return e, false, fmt.Errorf("the key is said to be %s and is %s", kind, e.key.Type())
	}
	return e, is, nil
}

func doneHere(kind string) bool {
	a := ssh.SupportedAlgorithms()
	return kind == ssh.KeyAlgoRSA || slices.Contains(a.HostKeys, kind) || slices.Contains(a.PublicKeyAuths, kind)
}

// namesHost says whether the first field of a line is for name: a list of patterns, or one hashed name.
func namesHost(field, name string) (bool, error) {
	if !strings.HasPrefix(field, "|") {
		return matchAny(strings.Split(strings.ToLower(field), ","), name), nil
	}
	parts := strings.Split(field, "|")
	if len(parts) != 4 || parts[1] != "1" {
		return false, errors.New("the hashed name is not of the form |1|SALT|HASH")
	}
	salt, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		return false, errors.New("the salt of the hashed name is not base64")
	}
	want, err := base64.StdEncoding.DecodeString(parts[3])
	if err != nil || len(want) != sha1.Size {
		return false, errors.New("the hash of the hashed name is not 20 bytes in base64")
	}
	mac := hmac.New(sha1.New, salt)
	mac.Write([]byte(name))
	return hmac.Equal(mac.Sum(nil), want), nil
}

func readBounded(path string, most int64) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Size() > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return os.ReadFile(path)
}

// knownName is how files of host keys name this host: what HostKeyAlias says, or the name that is dialled with its port.
func (s *settings) knownName() string {
	if s.alias != "" {
		return s.alias
	}
	return knownhosts.Normalize(net.JoinHostPort(strings.ToLower(s.host), s.port))
}

// writeKnown appends a key in one write, so that two who do so at once do not tear each other's lines.
func (s *settings) writeKnown(key ssh.PublicKey) error {
	if len(s.known) == 0 {
		return errors.New("no file is named to write it to")
	}
	path := s.known[0]
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	name := s.knownName()
	if s.hashed {
		name = knownhosts.HashHostname(name)
	}
	line := name + " " + string(ssh.MarshalAuthorizedKey(key))
	if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() && fi.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, fi.Size()-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close())
}
