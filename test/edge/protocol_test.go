//go:build unix

package edge_test

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// before starts an edge before an instance and returns where it listens.
func before(t *testing.T, instance string) string {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", rig.FreePorts(t, 1)[0])
	startEdge(t, edge.Table{Routes: []edge.Route{shop(addr, instance)}})
	return addr
}

// serve starts an instance.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.CloseClientConnections)
	return srv.Listener.Addr().String()
}

// grpc-go on both sides: single calls, an error with its text, a stream, trailers.
func TestAttackGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		grpc.SetTrailer(ctx, metadata.Pairs("counted", "1"))
		return next(ctx, req)
	}))
	h := health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, h)
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	conn, err := grpc.NewClient("passthrough:///"+before(t, l.Addr().String()), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := grpc_health_v1.NewHealthClient(conn)
	var trailer metadata.MD
	res, err := c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}, grpc.Trailer(&trailer))
	if err != nil || res.Status != grpc_health_v1.HealthCheckResponse_SERVING || len(trailer["counted"]) != 1 {
		t.Fatalf("%v %v %v", res, trailer, err)
	}
	for range 100 { // a head that is not the end of the answer may come now and then
		if _, err := c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "unknown service") {
			t.Fatalf("an error came as %v", err)
		}
	}
	watch, err := c.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []grpc_health_v1.HealthCheckResponse_ServingStatus{grpc_health_v1.HealthCheckResponse_SERVING,
		grpc_health_v1.HealthCheckResponse_NOT_SERVING, grpc_health_v1.HealthCheckResponse_SERVING} {
		h.SetServingStatus("", want)
		if got, err := watch.Recv(); err != nil || got.Status != want {
			t.Fatalf("%v %v, want %v", got, err, want)
		}
	}
	srv.Stop()
	if _, err := watch.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the stream of an instance that died ended well: %v", err)
	}
}

// frame is a WebSocket frame (RFC 6455, section 5.2) of less than 64 KB, masked as a client must.
func frame(op byte, payload []byte, masked bool) []byte {
	b := []byte{0x80 | op, 0}
	switch {
	case len(payload) < 126:
		b[1] = byte(len(payload))
	default:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	}
	if !masked {
		return append(b, payload...)
	}
	b[1] |= 0x80
	mask := []byte{1, 2, 3, 4}
	b = append(b, mask...)
	for i, x := range payload {
		b = append(b, x^mask[i%4])
	}
	return b
}

func readFrame(r io.Reader) (op byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(head[1] & 0x7f)
	if n == 126 {
		var l [2]byte
		if _, err := io.ReadFull(r, l[:]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(l[:]))
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0xf, payload, err
}

// accept is what a server answers to a key (RFC 6455, section 4.2.2).
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// echo is a WebSocket server that greets in the same write as its answer and sends every frame back.
func echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Sec-Websocket-Version") != "13" {
		w.Header().Set("X-Got", r.Method+" "+r.URL.Path)
		w.WriteHeader(http.StatusUpgradeRequired)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n%s",
		accept(r.Header.Get("Sec-Websocket-Key")), frame(1, []byte("welcome"), false))
	for {
		op, p, err := readFrame(rw)
		if err != nil {
			return
		}
		if _, err := c.Write(frame(op, p, false)); err != nil || op == 8 {
			return
		}
	}
}

const handshake = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

func TestAttackWebSocket(t *testing.T) {
	addr := before(t, serve(t, echo))
	c := dial(t, addr)
	io.WriteString(c, handshake+"Sec-WebSocket-Version: 13\r\n\r\n")
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("%v %v", res, err)
	}
	expect := func(op byte, want string) {
		t.Helper()
		if got, p, err := readFrame(r); err != nil || got != op || string(p) != want {
			t.Fatalf("%d %.60q %v, want %d %.60q", got, p, err, op, want)
		}
	}
	expect(1, "welcome") // of the same write as the answer's head: not a byte of it may be lost
	c.Write(frame(2, []byte("GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"), true))
	expect(2, "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n")
	for _, n := range []int{0, 1, 125, 126, 60_000} {
		p := strings.Repeat("x", n)
		c.Write(frame(1, []byte(p), true))
		expect(1, p)
	}
	c.Write(frame(9, []byte("ping"), true))
	expect(9, "ping")
	c.Write(frame(8, nil, true))
	expect(8, "")
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// An upgrade that the instance turns down makes no tunnel: what follows is a request like any other.
func TestAttackRefusedUpgrade(t *testing.T) {
	c := dial(t, before(t, serve(t, echo)))
	io.WriteString(c, handshake+"Sec-WebSocket-Version: 99\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
	r := bufio.NewReader(c)
	for _, want := range []string{"GET /ws", "GET /next"} {
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != http.StatusUpgradeRequired || res.Header.Get("X-Got") != want {
			t.Fatalf("%v %v, want an answer to %s", res, err, want)
		}
		res.Body.Close()
	}
}

// Nobody gets a tunnel of HTTP/2 to an instance, by which requests would pass the edge unseen (RFC 9113 has no such upgrade).
func TestAttackUpgradeToHTTP2(t *testing.T) {
	f := ours(t)
	for _, upgrade := range []string{"h2c", "H2C", "websocket, h2c", "TLS/1.2, h2c"} {
		from := f.rec.len()
		c := dial(t, f.addr)
		io.WriteString(c, "GET /c HTTP/1.1\r\nHost: a\r\nUpgrade: "+upgrade+"\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		for _, a := range f.rec.since(from) {
			if strings.Contains(strings.ToLower(a.head), "h2c") || strings.Contains(strings.ToLower(a.head), "http2-settings") {
				t.Errorf("Upgrade: %s arrived: %q", upgrade, a.head)
			}
		}
	}
}

// Each event arrives before the answer ends.
func TestAttackEvents(t *testing.T) {
	next := make(chan bool)
	url := "http://" + before(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
			<-next
		}
	}))
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	for _, tr := range []*http.Transport{{}, {Protocols: p}} {
		t.Cleanup(tr.CloseIdleConnections)
		res, err := (&http.Client{Transport: tr, Timeout: moment}).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(res.Body)
		for i := range 3 {
			if line, err := r.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("%s: %q %v", res.Proto, line, err)
			}
			r.ReadString('\n')
			next <- true
		}
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", res.Proto, err)
		}
		res.Body.Close()
	}
}
