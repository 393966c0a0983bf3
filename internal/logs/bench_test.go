package logs

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"
)

// slogLines returns n lines as slog's JSON handler writes them, 200 bytes each.
func slogLines(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		line := fmt.Sprintf(`{"time":"2026-01-31T12:00:00.%09dZ","level":"INFO","msg":"request served","method":"GET","path":"/orders/%06d","status":200,"bytes":5120,"took":1234567,"remote":"10.0.0.17:`, i%1e9, i%1e6)
		fmt.Fprintf(&b, "%s%0*d\"}\n", line, 200-3-len(line), 1)
	}
	return b.Bytes()
}

func perLine(b *testing.B, lines int) {
	b.ReportMetric(float64(lines)*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}

// BenchmarkParse is the understanding of one line and its writing as a record, without a file.
func BenchmarkParse(b *testing.B) {
	line := bytes.TrimSpace(slogLines(1))
	if len(line) != 199 {
		b.Fatalf("the line has %d bytes", len(line))
	}
	var p parser
	var out []byte
	now := time.Now()
	b.SetBytes(200)
	b.ReportAllocs()
	for b.Loop() {
		r, _ := p.line(line, now)
		out = r.append(out[:0])
	}
	perLine(b, 1)
}

// BenchmarkIntake is what a service's output costs from the pipe to the file: rotation and compression go on beside it.
func BenchmarkIntake(b *testing.B) {
	for _, c := range []struct {
		name string
		hide []string
	}{{"", nil}, {"secrets", []string{"postgres-password-1", "sk_live_0123456789", "another-long-secret"}}} {
		b.Run("slog"+c.name, func(b *testing.B) {
			const lines = 1250
			chunk := slogLines(lines)
			w, err := NewWriter(b.TempDir(), Meta{Service: "s", Env: "e", Release: 1, Instance: 1, Size: 256 << 20, Hide: c.hide})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				w.Write("stdout", chunk)
			}
			perLine(b, lines)
			w.Close()
		})
	}
}

// BenchmarkRead is reading back one segment.
func BenchmarkRead(b *testing.B) {
	const lines = 20000
	root := b.TempDir()
	w, err := NewWriter(root, Meta{Service: "s", Env: "e", Release: 1, Instance: 1, Size: 256 << 20})
	if err != nil {
		b.Fatal(err)
	}
	w.Write("stdout", slogLines(lines))
	w.Close()
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		if err := Read(context.Background(), root, Query{Service: "s", Env: "e"}, func(Record) error { n++; return nil }); err != nil || n != lines {
			b.Fatal(n, err)
		}
	}
	perLine(b, lines)
}
