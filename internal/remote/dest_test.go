package remote

import (
	"os/exec"
	"strings"
	"testing"
)

func TestDestination(t *testing.T) {
	for s, want := range map[string]destination{
		"web1":                       {"", "web1", ""},
		"deploy@web1.example.com":    {"deploy", "web1.example.com", ""},
		"web1:2222":                  {"", "web1", "2222"},
		"a@b@web1:22":                {"a@b", "web1", "22"},
		"::1":                        {"", "::1", ""},
		"[::1]":                      {"", "::1", ""},
		"root@[fe80::1%eth0]:22":     {"root", "fe80::1%eth0", "22"},
		"ssh://web1":                 {"", "web1", ""},
		"ssh://deploy@web1:2222/":    {"deploy", "web1", "2222"},
		"ssh://a%40b@[::1]:1":        {"a@b", "::1", "1"},
		"10.0.0.1":                   {"", "10.0.0.1", ""},
		"_under-score.example.com:1": {"", "_under-score.example.com", "1"},
	} {
		got, err := parseDestination(s)
		if err != nil || got != want {
			t.Errorf("%q: %+v %v", s, got, err)
		}
		if again, err := parseDestination(got.String()); err != nil || again != got {
			t.Errorf("%q: %q is read as %+v, %v", s, got, again, err)
		}
	}
	for _, s := range []string{"", "@", "@web1", "root@", "web1:", "web1:0", "web1:65536", "web1:+1", "web1:022", "web1:http", "-oProxyCommand=x", "a@-x",
		"-a@x", "a b", "web1\n", "a;b", "$(x)", "web1/path", "ssh://web1/path", "[web1]:22", "[:]", "a:b:c", "[::1", "[::1]x", "http://web1", "ssh://a%zz@web1", "a,b", strings.Repeat("a", 256)} {
		if d, err := parseDestination(s); err == nil {
			t.Errorf("%q is taken as %+v", s, d)
		}
	}
}

func FuzzDestination(f *testing.F) {
	for _, s := range []string{"a", "a@b:1", "ssh://a@[::1]:22/", "::", "[::]", "a@b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDestination(s)
		if err != nil {
			return
		}
		if again, err := parseDestination(d.String()); err != nil || again != d {
			t.Fatalf("%q: %+v is written as %q and read as %+v, %v", s, d, d, again, err)
		}
	})
}

// What the sh of this machine gives to a program is what it was to get.
func shRoundTrip(t *testing.T, args ...string) {
	t.Helper()
	line, err := commandLine(append([]string{"printf", "%s|"}, args...))
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	if strings.Contains(line, "\n") {
		t.Fatalf("%q: a newline in %q", args, line)
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", line).Output()
	if want := strings.Join(args, "|") + "|"; err != nil || string(out) != want {
		t.Fatalf("%q: %q, %v, by %s", args, out, err, line)
	}
}

func FuzzQuote(f *testing.F) {
	if _, err := exec.LookPath("sh"); err != nil {
		f.Skip("no sh")
	}
	var every []byte
	for b := 1; b < 256; b++ {
		every = append(every, byte(b))
	}
	for _, s := range []string{string(every), "", "a'b", "\n", "x\n\n", `"$n"`, `'\''`, "-n", "!", `\`} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.Contains(a+b, "\x00") {
			if _, err := commandLine([]string{"x", a, b}); err == nil {
				t.Fatal("a NUL is taken")
			}
			return
		}
		shRoundTrip(t, a, b)
	})
}

func TestWildcard(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{{"*", "", true}, {"", "", true}, {"?", "", false}, {"a*b", "ab", true}, {"a*b", "axxb", true}, {"a*b", "axxbc", false}, {"*a*", "bab", true}, {"web?", "web", false},
		{"web?", "web1", true}, {"**", "x", true}, {"", "x", false}, {strings.Repeat("*a", 200), strings.Repeat("a", 10000) + "b", false}} {
		if got := wildcard(c.pattern, c.name); got != c.want {
			t.Errorf("%.20s, %.20s: %v", c.pattern, c.name, got)
		}
	}
}

func TestProgramNames(t *testing.T) {
	for _, args := range [][]string{nil, {""}, {"-x"}} {
		if _, err := commandLine(args); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}

func TestTail(t *testing.T) {
	var l tail
	for range 100 {
		l.Write([]byte("a line\r\n\x1b[2Jred\x9b\n"))
	}
	l.Write([]byte(strings.Repeat("x", 3*tailBytes)))
	if got := l.lines(); len(got) != 1 || len(got[0]) != tailBytes {
		t.Errorf("%d lines", len(got))
	}
	l = tail{}
	for range 100 {
		l.Write([]byte("a line\r\n\x1b[2Jred\x9b\n\n"))
	}
	if got := l.lines(); len(got) != tailLines || got[18] != "a line" || got[19] != "?[2Jred?" {
		t.Errorf("%q", got)
	}
}
