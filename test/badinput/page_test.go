package badinput

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// A page that cannot stand in for a service is refused before anything happens; a good one is what browsers see of a stopped service.
func TestPages(t *testing.T) {
	m := rig.NewMachine(t)
	s := serving(t, m, "pages")
	defer s.remove(t)
	s.spec(t, "route: {", "route: {unavailable: page.html, ")
	for _, c := range []struct{ text, says, hint string }{
		{"", "page.html has 0 bytes", "images elsewhere"}, {strings.Repeat("x", 64<<10+1), "at most 65536", "images elsewhere"}, {"\xff\xfe", "UTF-8", "images elsewhere"},
	} {
		s.write(t, "page.html", c.text)
		s.wrong(t, refusal{code: 2, kind: fail.Usage, says: []string{c.says}, hint: c.hint})
	}
	s.spec(t, "route: {", "route: {unavailable: none.html, ")
	s.wrong(t, refusal{code: 2, kind: fail.Usage, says: []string{"none.html"}, hint: "beside fairlead.yaml"})

	const page = "<h1>back at noon</h1>"
	s.write(t, "page.html", page)
	s.spec(t, "route: {", "route: {unavailable: page.html, ")
	m.Up(t, s.dir)
	if _, stderr, code := s.Run(t, "stop", s.name); code != 0 {
		t.Fatalf("fairlead stop: exit code %d\n%s", code, stderr)
	}
	for accept, want := range map[string]string{"text/html,*/*": page, "application/json": "the service is stopped\n"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", accept)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusServiceUnavailable || string(body) != want {
			t.Errorf("for %s: %s %q %v", accept, res.Status, body, err)
		}
	}
}
