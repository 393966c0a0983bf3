//go:build unix

package edgeload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// three is a client of HTTP/3 on one connection at a time, with a GET and a POST at once.
func (l *load) three(s site, d *net.Dialer, n int) (step, rest func() error) {
	s.tls.NextProtos = []string{http3.NextProtoH3}
	var conn *quic.Conn
	var c *http3.ClientConn
	from := d.LocalAddr.(*net.TCPAddr)
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: from.IP})
	to, e := net.ResolveUDPAddr("udp", s.addr)
	if err := errors.Join(err, e); err != nil {
		l.t.Fatal(err)
	}
	tr, h3 := &quic.Transport{Conn: udp}, new(http3.Transport)
	rest = func() error {
		if conn == nil {
			return nil
		}
		return errors.Join(conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), ""), tr.Close(), udp.Close())
	}
	return func() error {
		if conn == nil || conn.Context().Err() != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), patient)
			defer cancel()
			var err error
			if conn, err = tr.Dial(ctx, to, s.tls, nil); err != nil {
				conn = nil
				return fmt.Errorf("handshake: %w", err)
			}
			l.serials.Store(conn.ConnectionState().TLS.PeerCertificates[0].SerialNumber.String(), true)
			c = h3.NewClientConn(conn)
		}
		errs := make(chan error, 2)
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			go func() { errs <- l.stream3(c, method, s, n) }()
		}
		leaving := false
		var failed error
		for range cap(errs) {
			if err := <-errs; errors.Is(err, errLeaving) {
				leaving = true
			} else {
				failed = errors.Join(failed, err)
			}
		}
		if leaving {
			conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
			conn = nil
		}
		return failed
	}, rest
}

// errLeaving says that a server which is leaving did not look at a request (RFC 9114, section 5.2).
var errLeaving = errors.New("the server is leaving")

// stream3 is one request by HTTP/3.
func (l *load) stream3(c *http3.ClientConn, method string, s site, n int) error {
	sent := ""
	if method == http.MethodPost {
		sent = body(n)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), patient)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "https://"+s.host+"/", strings.NewReader(sent))
	if err != nil {
		return err
	}
	res, err := c.RoundTrip(r)
	var rejected *http3.Error
	if errors.As(err, &rejected) && rejected.ErrorCode == http3.ErrCodeRequestRejected || err != nil && strings.Contains(err.Error(), "graceful shutdown") {
		l.again.Add(1)
		return errLeaving
	}
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return l.answered(res, 3, method, sent)
}
