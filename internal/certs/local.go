package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/lockedfile"

	"github.com/fairlead-dev/fairlead/internal/home"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	leafLife = 90 * 24 * time.Hour
	leafNew  = 30 * 24 * time.Hour // before its end a new one is made
	maxLeafs = 1000                // made for names that clients ask for
)

// authority is the machine's own, for development: it certifies every name that a client asks for. Its key never leaves the
// folder, and nobody trusts it who was not told to.
type authority struct {
	dir string

	mu    sync.Mutex
	pair  *tls.Certificate
	leafs map[string]*tls.Certificate
}

func (a *authority) files() (cert, key string) {
	return filepath.Join(a.dir, "root.pem"), filepath.Join(a.dir, "root.key")
}

// open reads the authority or makes it; two processes make one together. a.mu is held.
func (a *authority) open() error {
	if a.pair != nil {
		return nil
	}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return err
	}
	unlock, err := lockedfile.MutexAt(filepath.Join(a.dir, ".lock")).Lock()
	if err != nil {
		return err
	}
	defer unlock()
	cert, key := a.files()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if errors.Is(err, fs.ErrNotExist) {
		if err := a.create(cert, key); err != nil {
			return err
		}
		pair, err = tls.LoadX509KeyPair(cert, key)
	}
	if err != nil {
		return err
	}
	a.pair = &pair
	return nil
}

func (a *authority) create(cert, key string) error {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "this machine"
	}
	t := &x509.Certificate{Subject: pkix.Name{CommonName: "fairlead development on " + host}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := certify(t, t, &priv.PublicKey, priv, rootLife)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return err
	}
	// The key first: a certificate without its key would be there for good.
	if err := home.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600); err != nil {
		return err
	}
	return home.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func certify(t, parent *x509.Certificate, pub *ecdsa.PublicKey, signer any, life time.Duration) ([]byte, error) {
	var err error
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	t.NotBefore, t.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(life) // clocks differ
	return x509.CreateCertificate(rand.Reader, t, parent, pub, signer)
}

// get returns a certificate for a name; a client that names none gets one for the address that it came to.
func (a *authority) get(name string, c net.Conn) (*tls.Certificate, error) {
	if name == "" && c != nil {
		if host, _, err := net.SplitHostPort(c.LocalAddr().String()); err == nil {
			name = host
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if leaf := a.leafs[name]; leaf != nil && time.Until(leaf.Leaf.NotAfter) > leafNew {
		return leaf, nil
	}
	if err := a.open(); err != nil {
		return nil, err
	}
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if ip := net.ParseIP(name); ip != nil {
		t.IPAddresses = []net.IP{ip}
	} else {
		t.DNSNames = []string{name}
	}
	der, err := certify(t, a.pair.Leaf, &priv.PublicKey, a.pair.PrivateKey, leafLife)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if a.leafs == nil || len(a.leafs) >= maxLeafs {
		a.leafs = map[string]*tls.Certificate{}
	}
	a.leafs[name] = &tls.Certificate{Certificate: [][]byte{der, a.pair.Certificate[0]}, PrivateKey: priv, Leaf: leaf}
	return a.leafs[name], nil
}

func (a *authority) root() ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.open(); err != nil {
		return nil, err
	}
	cert, _ := a.files()
	return os.ReadFile(cert)
}
