package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

var meta = Meta{Service: "shop", Env: "default", Release: 7, Instance: 2, Size: 64 << 20, Age: time.Hour}

var all = Query{Service: "shop", Env: "default"}

func writer(t testing.TB, root string, m Meta) *Writer {
	t.Helper()
	w, err := NewWriter(root, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func records(t testing.TB, root string, q Query) []Record {
	t.Helper()
	var out []Record
	if err := Read(context.Background(), root, q, func(r Record) error { out = append(out, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// pass lets time go by in a bubble of synctest.
func pass(d time.Duration) { <-time.After(d) }

// brief gives what a record says, without its time.
func brief(recs []Record) []string {
	var out []string
	for _, r := range recs {
		s := r.Level + " " + r.Message
		for _, f := range r.Fields {
			s += " " + f.Key + "=" + string(f.Value)
		}
		out = append(out, s)
	}
	return out
}

// intake writes the pieces one after the other and returns what was recorded of them.
func intake(t testing.TB, m Meta, pieces ...string) []string {
	t.Helper()
	root, err := os.MkdirTemp("", "logs")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	w, err := NewWriter(root, m)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pieces {
		w.Write("stdout", []byte(p))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return brief(records(t, root, all))
}

func expect(t testing.TB, got []string, want ...string) {
	t.Helper()
	if len(got) == 0 && len(want) == 0 {
		return
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %.3000q\nwant %.3000q", got, want)
	}
}

const panicTrace = `panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x489824]

goroutine 1 [running]:
main.(*T).run(0x1, {0x2, 0x3})
	/src/main.go:12 +0x84
panic({0x492ec0?, 0x4b3f78?})
	/usr/local/go/src/runtime/panic.go:860 +0x13a
main.f[...](...)
	/src/main.go:13
created by main.main in goroutine 7
	/src/main.go:9 +0x17

goroutine 7 [select (no cases), 3 minutes, locked to thread]:
main.main()
	/src/main.go:8 +0x1fe
...additional frames elided...
exit status 2`

const quitDump = `SIGQUIT: quit
PC=0x40816e m=0 sigcode=0

goroutine 1 gp=0x921b5cce1e0 m=0 mp=0x557280 [running]:
syscall.Kill(0x27?, 0x0?)
	/usr/local/go/src/syscall/zsyscall_linux_amd64.go:611 +0x25 fp=0x921b5d3aee0 sp=0x921b5d3aeb0 pc=0x486465
runtime.goexit({})
	/usr/local/go/src/runtime/asm_amd64.s:1771 +0x1 fp=0x921b5d3afe8 sp=0x921b5d3afe0 pc=0x47d301

rax    0xca
rflags 0x286
fs     0x0`

const httpPanic = `2026/01/31 12:00:00 http: panic serving 127.0.0.1:4711: boom
goroutine 34 [running]:
net/http.(*conn).serve.func1()
	/usr/local/go/src/net/http/server.go:1947 +0xbe`

func TestLines(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     []string
	}{
		{"plain lines", "one\ntwo\n\nthree", []string{"info one", "info two", "info three"}},
		{"carriage returns", "one\r\n{\"msg\":\"two\"}\r\n\r\nthree\r\n", []string{"info one", "info two", "info three"}},
		{"indented lines belong together", "list:\n  - a\n\t- b\nend\n", []string{"info list:\n  - a\n\t- b", "info end"}},
		{"JSON between", "a\n{\"msg\":\"b\",\"n\":1}\n  c\n", []string{"info a", "info b n=1", "info   c"}},
		{"empty lines only", "\n\r\n\n", nil},
		{"panic", panicTrace + "\nlistening (again)\nnext\n", []string{"fatal " + panicTrace, "info listening (again)", "info next"}},
		{"blank lines behind a trace", panicTrace + "\n\n\nx\n", []string{"fatal " + panicTrace, "info x"}},
		{"JSON behind a trace", panicTrace + "\n{\"msg\":\"f(x)\"}\n", []string{"fatal " + panicTrace, "info f(x)"}},
		{"SIGQUIT", "x\n" + quitDump + "\ny\n", []string{"info x", "fatal " + quitDump, "info y"}},
		{"panic of a handler", "up\n" + httpPanic + "\nserved (12ms)\n", []string{"info up", "error " + httpPanic, "info served (12ms)"}},
		{"deadlock", "fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [select (no cases)]:\nmain.main()\n\t/m.go:14 +0x1fe\n",
			[]string{"fatal fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [select (no cases)]:\nmain.main()\n\t/m.go:14 +0x1fe"}},
		{"a word that begins like a trace", "goroutine pool started\nf(x)\n", []string{"info goroutine pool started", "info f(x)"}},
		{"binary", "\x00\x01\xfe\n", []string{`info \x00\x01\xfe`}},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, intake(t, meta, c.in), c.want...) })
	}
}

// TestAnySplitGivesTheSameRecords cuts the same bytes at every place, and at many at once.
func TestAnySplitGivesTheSameRecords(t *testing.T) {
	m := meta
	m.Hide = []string{"hunter2-secret", "line-one\nline-two"}
	text := "plain\r\n{\"level\":\"warn\",\"msg\":\"gr\u00fc\u00df\",\"n\":1}\r\npw hunter2-secret\n\n" + panicTrace + "\n{\"pw\":\"hunter2-secret\"}\nlast \xff\x00 w\u00f6rd"
	want := intake(t, m, text)
	if len(want) < 6 {
		t.Fatalf("only %q", want)
	}
	root := t.TempDir()
	for i := range len(text) {
		m.Release = i + 1
		w := writer(t, root, m)
		w.Write("stdout", []byte(text[:i]))
		w.Write("stdout", []byte(text[i:]))
		w.Close()
	}
	got := map[int][]Record{}
	for _, r := range records(t, root, all) {
		got[r.Release] = append(got[r.Release], r)
	}
	for i := range len(text) {
		expect(t, brief(got[i+1]), want...)
	}
}

func TestAnySplitsOfLongLinesGiveTheSameRecords(t *testing.T) {
	m := meta
	m.Hide = []string{"hunter2-secret"}
	rapid.Check(t, func(rt *rapid.T) {
		var text string
		for range rapid.IntRange(1, 3).Draw(rt, "lines") {
			unit := rapid.SampledFrom([]string{"x", "ü", "😀", "hunter2-secret", " (a)", "\xff"}).Draw(rt, "unit")
			n := maxLine*rapid.IntRange(0, 2).Draw(rt, "cuts") + rapid.IntRange(-20, 20).Draw(rt, "over")
			text += strings.Repeat(unit, max(n/len(unit), 0)) + rapid.SampledFrom([]string{"\n", "\r\n", "y\n", "hunter2-secret\r\n", ""}).Draw(rt, "end")
		}
		want := intake(t, m, text)
		var pieces []string
		for rest := text; rest != ""; {
			n := min(rapid.SampledFrom([]int{1, 7, 4096, maxLine - 1, maxLine, maxLine + 1, 1 << 20}).Draw(rt, "piece"), len(rest))
			if len(pieces) > 40 {
				n = len(rest)
			}
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		if got := intake(t, m, pieces...); !reflect.DeepEqual(got, want) {
			rt.Fatalf("%d bytes in %d pieces give other records than in one", len(text), len(pieces))
		}
		for _, r := range want {
			if strings.Contains(r, "hunter2-secret") {
				rt.Fatal("a secret came through a cut")
			}
		}
	})
}

func TestEndlessLineIsCut(t *testing.T) {
	got := intake(t, meta, strings.Repeat("x", 3*maxLine)+"\nnext\n")
	piece := "info " + strings.Repeat("x", maxLine)
	expect(t, got, piece, piece, piece, "info next")
	for _, r := range intake(t, meta, strings.Repeat("ü", maxLine)) {
		if strings.Contains(r, `\x`) {
			t.Errorf("a letter was cut in two: ...%q", r[len(r)-20:])
		}
	}
}

func TestTraceTooLongForOneRecord(t *testing.T) {
	var b strings.Builder
	b.WriteString("panic: x\n")
	for i := range 5000 {
		fmt.Fprintf(&b, "\ngoroutine %d [running]:\nmain.work(0x%x)\n\t/src/main.go:12 +0x84\ncreated by main.main in goroutine 1\n", i+1, i)
	}
	got := intake(t, meta, b.String()+"after\n")
	if n := len(got); n != 3 && n != 2 || got[n-1] != "info after" {
		t.Fatalf("%d records", n)
	}
	for _, r := range got[:len(got)-1] {
		if !strings.HasPrefix(r, "fatal ") || len(r) > maxTrace+10 {
			t.Errorf("%d bytes: %.40q", len(r), r)
		}
	}
}

func TestTwoStreamsDoNotMix(t *testing.T) {
	root := t.TempDir()
	w := writer(t, root, meta)
	w.Write("stdout", []byte("out "))
	w.Write("stderr", []byte("panic: x\n"))
	w.Write("stdout", []byte("goes on\nmain.f()\n"))
	w.Write("stderr", []byte("main.g()\n"))
	w.Note("error", "exit status 2")
	w.Close()
	got := map[string][]string{}
	for _, r := range records(t, root, all) {
		got[r.Stream] = append(got[r.Stream], r.Level+" "+r.Message)
		if r.Service != "shop" || r.Env != "default" || r.Release != 7 || r.Instance != 2 || time.Since(r.Time).Abs() > time.Minute {
			t.Errorf("%+v", r)
		}
	}
	if want := map[string][]string{"stdout": {"info out goes on", "info main.f()"}, "stderr": {"fatal panic: x\nmain.g()"}, "fairlead": {"error exit status 2"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
}

// TestWaitingEnds holds that what waits for more is written after 20 ms, and not before.
func TestWaitingEnds(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := writer(t, root, meta)
		w.Write("stdout", []byte("prompt> "))
		w.Write("stderr", []byte("panic: x\n"))
		expect(t, brief(records(t, root, all)))
		pass(flushAfter - time.Millisecond)
		w.Write("stderr", []byte("main.f()\n"))
		pass(2 * time.Millisecond)
		synctest.Wait()
		expect(t, brief(records(t, root, all)), "info prompt> ")
		pass(flushAfter)
		synctest.Wait()
		expect(t, brief(records(t, root, all)), "info prompt> ", "fatal panic: x\nmain.f()")
		w.Close()
		w.Write("stdout", []byte("late\n"))
		w.Note("info", "late")
		pass(time.Second)
		expect(t, brief(records(t, root, all)), "info prompt> ", "fatal panic: x\nmain.f()")
	})
}

func TestSecretsAreHidden(t *testing.T) {
	key := "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----\n"
	m := meta
	m.Hide = []string{"abc\"d<e\\fü", "hunter2", "hunter2-longer", "123456", "short", key}
	for _, c := range []struct {
		name, in string
		want     []string
	}{
		{"plain", "pw=hunter2;\n", []string{"info pw=[secret];"}},
		{"the longer first", "hunter2-longer hunter2\n", []string{"info [secret] [secret]"}},
		{"in every encoding of JSON", `{"msg":"abc\"d<e\\fü","a":"abc\"d\u003ce\\f\u00fc","b":{"x":["\u0061bc\u0022d<e\u005cfü!"]}}` + "\n",
			[]string{`info [secret] a="[secret]" b={"x":["[secret]!"]}`}},
		{"quoted in plain text", `x="abc\"d<e\\fü"` + "\n", []string{`info x="[secret]"`}},
		{"a number", `{"msg":"x","id":123456,"neg":-1234567,"ok":[true,123456]}` + "\n", []string{`info x id="[secret]" neg="[secret]" ok=[true,"[secret]"]`}},
		{"a key", `{"msg":"x","hunter2":1}` + "\n", []string{`info x [secret]=1`}},
		{"several lines", "a\n" + key + "b\n", []string{"info a", "info [secret]", "info [secret]", "info [secret]", "info b"}},
		{"several lines in JSON", `{"msg":"x","k":"-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----\n"}` + "\n", []string{`info x k="[secret]\n"`}},
		{"in a trace", "panic: hunter2\nmain.f(hunter2)\n", []string{"fatal panic: [secret]\nmain.f([secret])"}},
		{"short ones would blank out half the log", "short\n", []string{"info short"}},
		{"across the cut of an endless line", strings.Repeat("x", maxLine-3) + "hunter2" + strings.Repeat("y", 10) + "\n",
			[]string{"info " + strings.Repeat("x", maxLine-3), "info [secret]" + strings.Repeat("y", 10)}},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, intake(t, m, c.in), c.want...) })
	}
}

// TestSecretInTwoWrites holds that the pause between two writes does not part a secret.
func TestSecretInTwoWrites(t *testing.T) {
	m := meta
	m.Hide = []string{"hunter2-secret"}
	for i := range len(m.Hide[0]) - 1 {
		root := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			w := writer(t, root, m)
			w.Write("stdout", []byte("password: "+m.Hide[0][:i+1]))
			pass(time.Second)
			w.Write("stdout", []byte(m.Hide[0][i+1:]+"!\n"))
			w.Close()
			expect(t, brief(records(t, root, all)), "info password: ", "info [secret]!")
		})
	}
	root := t.TempDir()
	w := writer(t, root, m)
	w.Write("stdout", []byte("it ends with hunter2-s"))
	w.Note("info", "ended")
	expect(t, brief(records(t, root, all)), "info it ends with hunter2-s", "info ended")
	b, err := os.ReadFile(filepath.Join(w.dir, "00000001.jsonl"))
	if err != nil || !bytes.HasSuffix(b, []byte("\n")) {
		t.Error(err)
	}
}
