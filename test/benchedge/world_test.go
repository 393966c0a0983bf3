package benchedge

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// A world is what all peers have in common: the backend, and the certificate.
type world struct {
	dir            string
	cert, key, pem string // files; pem has both
	roots          *x509.CertPool
	beside         meter
	backend        struct {
		Plain, TLS string
		More       []string
		pid        int
	}
}

// newWorld starts the backend, with so many addresses more.
func newWorld(b *testing.B, more int) *world {
	b.Helper()
	w := &world{dir: b.TempDir(), roots: x509.NewCertPool()}
	w.certificate(b)
	bin := w.build(b, "backend")
	cmd := exec.Command(bin, "-cert", w.cert, "-key", w.key, "-more", strconv.Itoa(more))
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "GODEBUG=multipathtcp=0") // as the kernel wants it; for everybody alike
	w.backend.pid = w.run(b, "backend", cmd)
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &w.backend)
	}
	if err != nil {
		b.Fatalf("the backend said %q: %v", line, err)
	}
	return w
}

// build makes a program of testdata, as a release is built.
func (w *world) build(b *testing.B, name string) string {
	b.Helper()
	bin := filepath.Join(w.dir, name)
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	if _, err := rig.Command(b, "", []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-o", bin, "./testdata/"+name); err != nil {
		b.Fatal(err)
	}
	return bin
}

// run runs a program in a group of its own, which ends whole with the benchmark.
func (w *world) run(b *testing.B, name string, cmd *exec.Cmd) int {
	b.Helper()
	log, err := os.CreateTemp(w.dir, name+"-*.log")
	if err != nil {
		b.Fatal(err)
	}
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
			b.Error(err)
		}
		cmd.Wait()
		log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && b.Failed() && len(text) > 0 {
			b.Logf("%s:\n%s", name, text[max(0, len(text)-2000):])
		}
	})
	return cmd.Process.Pid
}

// certificate makes the one that everybody serves with.
func (w *world) certificate(b *testing.B) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	w.cert, w.key, w.pem = w.file(b, "cert.pem", certPEM), w.file(b, "key.pem", keyPEM), w.file(b, "both.pem", slices.Concat(certPEM, keyPEM))
	w.roots.AppendCertsFromPEM(certPEM)
}

func (w *world) clientTLS() *tls.Config {
	return &tls.Config{RootCAs: w.roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
}

func (w *world) file(b *testing.B, name string, text []byte) string {
	b.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// freeAddr is an address for a server that cannot choose one by itself. It is none of those that the kernel gives to clients: one of
// the benchmark's many connections could take it meanwhile.
func freeAddr(b *testing.B) string {
	b.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+mrand.IntN(10000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	b.Fatal("no free port between 20000 and 30000")
	return ""
}

// pause waits; what is under way elsewhere has no event to wait for.
func pause(b *testing.B, d time.Duration) {
	ctx, cancel := context.WithTimeout(b.Context(), d)
	defer cancel()
	<-ctx.Done()
}

// drain reads a body to its end and reports its length.
func drain(r io.ReadCloser) (int64, error) {
	defer r.Close()
	return io.Copy(io.Discard, r)
}
