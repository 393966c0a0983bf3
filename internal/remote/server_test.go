package remote

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// server is an SSH server of the library's, for what a real one cannot be made to do.
type server struct {
	addr   string
	signer ssh.Signer
}

func newSigner(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// listen gives each connection to handle until the test ends.
func listen(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() { handle(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// serve lets everybody in, and gives each channel that is asked for to session.
func serve(t *testing.T, conf ssh.Config, session func(ssh.NewChannel)) *server {
	t.Helper()
	signer, _ := newSigner(t)
	s := &server{signer: signer}
	s.addr = listen(t, func(c net.Conn) {
		cfg := &ssh.ServerConfig{Config: conf, PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
		cfg.AddHostKey(signer)
		_, chans, reqs, err := ssh.NewServerConn(c, cfg)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(reqs)
		for ch := range chans {
			go session(ch)
		}
	})
	return s
}

// from is a person with a key, who dials such a server.
func from(t *testing.T, config string) Options {
	t.Helper()
	_, key := newSigner(t)
	return home(t, config, "id_ed25519", string(key))
}

func (s *server) dial(t *testing.T, o Options) *Host {
	t.Helper()
	o.AcceptNew = true
	h, err := Dial(t.Context(), o, "me@"+s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// command accepts a session and its command, and gives it to run.
func command(run func(ssh.Channel)) func(ssh.NewChannel) {
	return func(n ssh.NewChannel) {
		ch, reqs, err := n.Accept()
		if err != nil {
			return
		}
		for r := range reqs {
			r.Reply(r.Type == "exec", nil)
			if r.Type == "exec" {
				go run(ch)
			}
		}
	}
}

func status(ch ssh.Channel, code uint32) {
	ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{code}))
	ch.Close()
}

func TestServersThatAreNone(t *testing.T) {
	silent := listen(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	chatty := listen(t, func(c net.Conn) {
		for err := error(nil); err == nil; {
			_, err = c.Write(make([]byte, 4096))
		}
	})
	web := listen(t, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); c.Close() })
	hangsUp := listen(t, func(c net.Conn) { c.Close() })
	halfway := listen(t, func(c net.Conn) { io.WriteString(c, "SSH-2.0-x\r\n"); io.Copy(io.Discard, c) })
	for name, c := range map[string]struct{ addr, want string }{
		"silent": {silent, "no answer within 1s"}, "chatty": {chatty, "ssh"}, "web": {web, "connect to 127.0.0.1"}, "hangs up": {hangsUp, "connect to 127.0.0.1"},
		"halfway": {halfway, "no answer within 1s"}, "nobody": {"127.0.0.1:1", "refused"},
	} {
		begun := time.Now()
		_, err := Dial(t.Context(), from(t, "ConnectTimeout 1\n"), c.addr)
		if fail.KindOf(err) != fail.Unavailable || !strings.Contains(err.Error(), c.want) || !strings.Contains(fail.As(err).Hint, "ssh -v -p ") {
			t.Errorf("%s: %v (%s)", name, err, fail.As(err).Hint)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("%s: %v", name, took)
		}
	}
	for _, a := range []string{silent, halfway} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		begun := time.Now()
		if _, err := Dial(ctx, from(t, ""), a); fail.KindOf(err) != fail.Interrupted || time.Since(begun) > 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	}
}

// A person's time is not the machine's.
func TestAPersonMayTakeTheirTime(t *testing.T) {
	s := serve(t, ssh.Config{}, command(func(ch ssh.Channel) { status(ch, 0) }))
	o := from(t, "ConnectTimeout 1\n")
	o.Ask = func(string) (bool, error) {
		<-time.After(1500 * time.Millisecond)
		return true, nil
	}
	h, err := Dial(t.Context(), o, "me@"+s.addr)
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
}

// Keys are exchanged again after some data: a host that was taken once is not asked about again.
func TestKeysAreExchangedAgain(t *testing.T) {
	s := serve(t, ssh.Config{RekeyThreshold: 1 << 16}, command(func(ch ssh.Channel) {
		io.Copy(ch, ch)
		status(ch, 0)
	}))
	o := from(t, "UserKnownHostsFile /dev/null\nGlobalKnownHostsFile none\n")
	asked := 0
	o.Ask = func(string) (bool, error) { asked++; return true, nil }
	h, err := Dial(t.Context(), o, "me@"+s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	data := strings.Repeat("x", 1<<20)
	if out, err := h.Run(t.Context(), Command{Args: []string{"cat"}, Stdin: strings.NewReader(data)}); err != nil || string(out) != data {
		t.Fatalf("%d bytes, %v", len(out), err)
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestSessionsThatGoWrong(t *testing.T) {
	for name, c := range map[string]struct {
		session func(ssh.NewChannel)
		kind    fail.Kind
		want    string
	}{
		"no sessions": {func(n ssh.NewChannel) { n.Reject(ssh.Prohibited, "not \x1b[2Jyou") }, fail.Preflight, "not ?[2Jyou"},
		"no commands": {func(n ssh.NewChannel) {
			if ch, reqs, err := n.Accept(); err == nil {
				for r := range reqs {
					r.Reply(false, nil)
				}
				ch.Close()
			}
		}, fail.Preflight, "refuses to run commands"},
		"no status": {command(func(ch ssh.Channel) { io.WriteString(ch.Stderr(), "last words\n"); ch.Close() }), fail.Unavailable, "without saying how"},
		"a signal": {command(func(ch ssh.Channel) {
			ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
				Signal        string
				Dumped        bool
				Message, Lang string
			}{Signal: "SEGV"}))
			ch.Close()
		}), fail.Internal, "killed by signal SEGV"},
		"nonsense": {command(func(ch ssh.Channel) {
			ch.SendRequest("exit-status", false, []byte{1})
			ch.SendRequest("exit-signal", true, nil)
			ch.Close()
		}), fail.Unavailable, "without saying how"},
	} {
		t.Run(name, func(t *testing.T) {
			h := serve(t, ssh.Config{}, c.session).dial(t, from(t, ""))
			_, err := h.Run(t.Context(), Command{Args: []string{"x"}})
			if fail.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "127.0.0.1") {
				t.Errorf("%v", err)
			}
		})
	}
}

// A server that lets few sessions into one connection, and counts those it closed for a while.
func TestRefusedSessionsWait(t *testing.T) {
	var mu sync.Mutex
	running, refused := 0, 0
	s := serve(t, ssh.Config{}, func(n ssh.NewChannel) {
		mu.Lock()
		if running >= 2 {
			refused++
			mu.Unlock()
			n.Reject(ssh.ResourceShortage, "no more")
			return
		}
		running++
		mu.Unlock()
		command(func(ch ssh.Channel) {
			io.Copy(ch, ch)
			mu.Lock()
			running--
			mu.Unlock()
			status(ch, 0)
		})(n)
	})
	h := s.dial(t, from(t, ""))
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if out, err := h.Run(t.Context(), Command{Args: []string{"cat"}, Stdin: strings.NewReader("x")}); err != nil || string(out) != "x" {
				t.Errorf("%q %v", out, err)
			}
		})
	}
	wg.Wait()
	if refused == 0 {
		t.Error("nothing was refused: the test shows nothing")
	}
	k, err := h.Conn(t.Context(), Command{Args: []string{"cat"}})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	k2, err := h.Conn(t.Context(), Command{Args: []string{"cat"}})
	if err != nil {
		t.Fatal(err)
	}
	defer k2.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.Run(ctx, Command{Args: []string{"cat"}}); fail.KindOf(err) != fail.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	k.Close()
	if _, err := h.Run(t.Context(), Command{Args: []string{"cat"}}); err != nil {
		t.Errorf("after one ended: %v", err)
	}
}

func TestWhoAmIThere(t *testing.T) {
	h := serve(t, ssh.Config{}, command(func(ch ssh.Channel) { io.WriteString(ch, "Welcome!\n0\n"); status(ch, 0) })).dial(t, from(t, ""))
	if _, err := h.Run(t.Context(), Command{Args: []string{"x"}, Root: true}); fail.KindOf(err) != fail.Preflight || !strings.Contains(fail.As(err).Hint, "bashrc") {
		t.Errorf("%v", err)
	}
}

func TestKnownHostsLines(t *testing.T) {
	signer, _ := newSigner(t)
	key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	path := t.TempDir() + "/known"
	for line, want := range map[string]string{
		"web1":                         "a line has names",
		"@odd web1 " + key:             "the marker @odd is not known",
		"web1 ssh-ed25519 !":           "the key is not base64",
		"web1 ssh-ed25519 AAAA":        "the ssh-ed25519 key is damaged",
		"|1|x|y " + key:                "the salt of the hashed name",
		"|1|AAAA|AAAA " + key:          "20 bytes",
		"|2|a|b " + key:                "form |1|SALT|HASH",
		"web1 rsa-sha2-512" + key[11:]: "is said to be rsa-sha2-512",
	} {
		if err := os.WriteFile(path, []byte("# x\n\n"+line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readKnown([]string{path}, "web1"); err == nil || !strings.HasPrefix(err.Error(), path+":3: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", line, err)
		}
	}
	text := "web1,web2 " + key + "\nweb1 ssh-old AAAA comment\n*.example.com,!db.example.com " + key + "\r\n@revoked * " + key + "\n[web1]:23 " + key + " a comment"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"web1": 2, "web2": 2, "[web1]:23": 2, "a.example.com": 2, "db.example.com": 1, "x": 1} {
		if got, err := readKnown([]string{path, path + ".not"}, name); err != nil || len(got) != want {
			t.Errorf("%s: %d lines, %v", name, len(got), err)
		}
	}
}

func TestKnownName(t *testing.T) {
	for _, c := range []struct{ host, port, alias, want string }{
		{"Web1", "22", "", "web1"}, {"web1", "2222", "", "[web1]:2222"}, {"::1", "22", "", "::1"}, {"::1", "2222", "", "[::1]:2222"}, {"web1", "2222", "db", "db"},
	} {
		if got := (&settings{host: c.host, port: c.port, alias: c.alias}).knownName(); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// The clock stands still while a person thinks, and goes on after.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		expired := make(chan time.Duration, 1)
		p := newPatience(10*time.Second, func() { expired <- time.Since(begun) })
		<-time.After(9 * time.Second)
		p.pause()
		<-time.After(time.Hour)
		p.resume()
		if took := <-expired; took != time.Hour+10*time.Second {
			t.Errorf("it expired after %v", took)
		}
		p.resume()
		p.stop()
	})
}

func FuzzKnownHosts(f *testing.F) {
	f.Add("web1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFA0eouJJNGAPgo682kiARJaxT/mRE9nSU215UMzdHfq", "web1")
	f.Add("|1|DtaWANpcZhWwIhfpJ8J1ItAg2ew=|VMivfTVpgin/VW/a0qEUeHV/l2o= ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFA0eouJJNGAPgo682kiARJaxT/mRE9nSU215UMzdHfq", "x")
	f.Add("@revoked * ssh-rsa AAAA", "[x]:22")
	f.Fuzz(func(t *testing.T, line, name string) {
		if e, ok, err := readEntry([]byte(line), name); err == nil && ok && e.key == nil {
			t.Fatalf("%q: a line without a key", line)
		}
	})
}
