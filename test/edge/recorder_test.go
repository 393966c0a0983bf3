//go:build unix

package edge_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// arrival is one request as an instance's socket got it.
type arrival struct {
	head    string
	line    string // method and target
	host    string
	body    string
	trailer string
	whole   bool   // the head and all that it promises came
	wrong   string // why two readers could understand the head differently; "" when they cannot
}

// what is the form in which a test says which request should arrive.
func (a arrival) what() string { return a.line + "|" + a.body }

// recorder is an instance that is stricter than any server: it keeps what comes to the byte, and says which of it leaves room
// for a second reading.
type recorder struct {
	addr string
	mu   sync.Mutex
	all  []*arrival
}

func newRecorder(t testing.TB) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{addr: l.Addr().String()}
	var done sync.WaitGroup
	var open sync.Map
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Store(c, true)
			done.Go(func() {
				defer open.Delete(c)
				defer c.Close()
				rec.serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		open.Range(func(c, _ any) bool {
			c.(net.Conn).Close()
			return true
		})
		done.Wait()
	})
	return rec
}

// since returns copies of what came after the first n.
func (rec *recorder) since(n int) []arrival {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	var out []arrival
	for _, a := range rec.all[n:] {
		out = append(out, *a)
	}
	return out
}

func (rec *recorder) len() int {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return len(rec.all)
}

// serve answers every request of a connection with what it took it for.
func (rec *recorder) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		head, err := readHead(r)
		if head == "" {
			return
		}
		a := readingOf(head)
		rec.mu.Lock()
		rec.all = append(rec.all, a)
		rec.mu.Unlock()
		if err != nil {
			return
		}
		if strings.Contains(strings.ToLower(head), "\r\nexpect:") {
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		body, trailer, err := readBody(r, head)
		rec.mu.Lock()
		a.body, a.trailer, a.whole = body, trailer, err == nil
		rec.mu.Unlock()
		if err != nil {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Got: %s\r\nContent-Length: 2\r\n\r\nok", a.line)
	}
}

// readHead reads up to the empty line; with an error it returns what came before it.
func readHead(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "\r\n\r\n") {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			return b.String(), err
		}
	}
	return b.String(), nil
}

// readingOf takes a head apart and complains of whatever is not plainly one thing.
func readingOf(head string) *arrival {
	a := &arrival{head: head}
	complain := func(format string, args ...any) {
		if a.wrong == "" {
			a.wrong = fmt.Sprintf(format, args...)
		}
	}
	lines := strings.Split(strings.TrimSuffix(head, "\r\n\r\n"), "\r\n")
	words := strings.Split(lines[0], " ")
	if len(words) != 3 || words[2] != "HTTP/1.1" {
		complain("request line %q", lines[0])
	}
	if len(words) > 1 {
		a.line = words[0] + " " + words[1]
	}
	for _, l := range lines {
		if i := strings.IndexFunc(l, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
			complain("control byte %q in %q", l[i], l)
		}
	}
	var hosts, framings []string
	for _, l := range lines[1:] {
		name, value, ok := strings.Cut(l, ":")
		if !ok || name == "" || strings.IndexFunc(name, notToken) >= 0 {
			complain("header line %q", l)
		}
		value = strings.Trim(value, " \t")
		switch strings.ToLower(name) {
		case "host":
			hosts = append(hosts, value)
		case "content-length":
			framings = append(framings, value)
			if _, err := strconv.ParseUint(value, 10, 62); err != nil || strings.HasPrefix(value, "+") {
				complain("length %q", value)
			}
		case "transfer-encoding":
			framings = append(framings, value)
			if value != "chunked" {
				complain("transfer encoding %q", value)
			}
		}
	}
	if len(hosts) != 1 || len(framings) > 1 {
		complain("hosts %q, framings %q", hosts, framings)
	}
	a.host = strings.Join(hosts, " ")
	return a
}

func notToken(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
}

// readBody reads the body that a head promises, to the byte.
func readBody(r *bufio.Reader, head string) (body, trailer string, err error) {
	lower := strings.ToLower(head)
	if strings.Contains(lower, "\r\ntransfer-encoding:") {
		return readChunks(r)
	}
	_, value, ok := strings.Cut(lower, "\r\ncontent-length:")
	if !ok {
		return "", "", nil
	}
	value, _, _ = strings.Cut(value, "\r\n")
	n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 30)
	if err != nil {
		return "", "", err
	}
	b := make([]byte, n)
	got, err := io.ReadFull(r, b)
	return string(b[:got]), "", err
}

// readChunks takes only the plainest form of chunks.
func readChunks(r *bufio.Reader) (body, trailer string, err error) {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return b.String(), "", err
		}
		size, err := strconv.ParseUint(strings.TrimSuffix(line, "\r\n"), 16, 30)
		if err != nil || !strings.HasSuffix(line, "\r\n") {
			return b.String(), "", fmt.Errorf("chunk size %q: %w", line, err)
		}
		if size == 0 {
			break
		}
		if _, err := io.CopyN(&b, r, int64(size)); err != nil {
			return b.String(), "", err
		}
		var end [2]byte
		if _, err := io.ReadFull(r, end[:]); err != nil || string(end[:]) != "\r\n" {
			return b.String(), "", errors.Join(err, fmt.Errorf("end of chunk %q", end[:]))
		}
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == "\r\n" {
			return b.String(), trailer, err
		}
		trailer += line
	}
}

// The recorder would not be a judge if it let through what it is there to find.
func TestAttackRecorderIsStrict(t *testing.T) {
	const fine = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	if a := readingOf(fine); a.wrong != "" || a.line != "GET /" || a.host != "a" {
		t.Errorf("%+v", a)
	}
	for _, head := range []string{"GET / HTTP/1.1\r\n\r\n", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nA: \x00\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nA: b\rC: d\r\n\r\n"} {
		if readingOf(head).wrong == "" {
			t.Errorf("nothing is wrong with %q", head)
		}
	}
	for _, body := range []string{"1;x\r\na\r\n0\r\n\r\n", "1\na\r\n0\r\n\r\n", "1\r\nab\r\n0\r\n\r\n", "-1\r\n", "0x1\r\na\r\n0\r\n\r\n", "1\r\na\r\n0\r\n"} {
		if _, _, err := readChunks(bufio.NewReader(strings.NewReader(body))); err == nil {
			t.Errorf("nothing is wrong with %q", body)
		}
	}
	if !slices.ContainsFunc([]rune("a\tb"), notToken) || slices.ContainsFunc([]rune("X-a"), notToken) {
		t.Error("tokens")
	}
}
