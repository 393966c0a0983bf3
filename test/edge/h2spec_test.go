//go:build unix

package edge_test

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// h2specTool is the last version of h2spec that the module proxy has. It is run as a program, and no part of this module.
const h2specTool = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"

// conformance is what h2spec says of each of its cases.
type conformance map[string]string // by section and number; "" for one that holds, else why not

// h2spec runs all cases, or some, against an address.
func h2spec(t *testing.T, tool, addr string, encrypted bool, sections ...string) conformance {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	args := append(slices.Clone(sections), "-h", host, "-p", port, "-o", "2", "-S", "-j", report)
	if encrypted {
		args = append(args, "-t", "-k") // it knows no authority but the system's: that the certificate is right is other tests' matter
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, failed := exec.CommandContext(ctx, tool, args...).CombinedOutput() // by its code it says that a case does not hold
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("h2spec: %v %v\n%s", failed, err, out)
	}
	var doc struct {
		Suites []struct {
			Cases []struct {
				Package string `xml:"package,attr"`
				Title   string `xml:"classname,attr"`
				Failure *struct {
					Text string `xml:",chardata"`
				} `xml:"failure"`
				Error *struct {
					Text string `xml:",chardata"`
				} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	all := conformance{}
	for _, s := range doc.Suites {
		for i, c := range s.Cases {
			why := ""
			switch {
			case c.Failure != nil:
				why = c.Title + ": " + c.Failure.Text
			case c.Error != nil:
				why = c.Title + ": " + c.Error.Text
			}
			all[fmt.Sprintf("%s/%d", c.Package, i+1)] = why
		}
	}
	return all
}

// What net/http does right of HTTP/2 (RFC 9113) and HPACK (RFC 7541) does the edge, too, which uses it.
func TestH2Spec(t *testing.T) {
	tool := rig.GoTool(t, h2specTool)
	page := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "a page of some length, so that there is something for windows to hold back")
	}
	b := inBoth(t, serve(t, page))
	cases := []struct {
		name      string
		addr      [2]string // ours and the model's
		encrypted bool
		said      [2]conformance
	}{
		{name: "prior knowledge", addr: [2]string{b.plain, h2Model(t, page, false)}},
		{name: "TLS", addr: [2]string{b.secure, h2Model(t, page, true)}, encrypted: true},
	}
	t.Run("ask", func(t *testing.T) {
		for i := range cases {
			for k, addr := range cases[i].addr {
				t.Run(cases[i].name+" "+addr, func(t *testing.T) {
					t.Parallel() // nearly all of the time is waited for what must not come
					cases[i].said[k] = h2spec(t, tool, addr, cases[i].encrypted)
				})
			}
		}
	})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs, holds := c.said[0], c.said[1], 0
			for number, why := range theirs {
				mine, asked := ours[number]
				switch {
				case !asked:
					t.Errorf("%s was not asked", number)
				case why != "":
					t.Logf("net/http does not hold %s: %s", number, why)
				case mine == "":
					holds++
				case twice(t, tool, c.addr[0], c.encrypted, number), !twice(t, tool, c.addr[1], c.encrypted, number):
					t.Logf("%s does not come out the same every time: %s", number, mine)
				default:
					t.Errorf("%s %s", number, mine)
				}
			}
			t.Logf("%d of %d cases hold", holds, len(theirs))
			if len(theirs) < 140 || holds < 130 {
				t.Errorf("of %d cases only %d hold: the comparison says nothing", len(theirs), holds)
			}
		})
	}
}

// twice asks for one case again, alone, and reports whether it holds both times: a case may be late on a machine that is busy.
func twice(t *testing.T, tool, addr string, encrypted bool, number string) bool {
	t.Helper()
	for range 2 {
		all := h2spec(t, tool, addr, encrypted, number)
		if len(all) != 1 {
			t.Fatalf("%s is not one case: %v", number, all)
		}
		for _, why := range all {
			if why != "" {
				return false
			}
		}
	}
	return true
}

// h2Model is a server of net/http's with nothing before it.
func h2Model(t *testing.T, h http.HandlerFunc, encrypted bool) (addr string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	s.Config.Protocols, s.EnableHTTP2, s.Config.ErrorLog = p, true, slog.NewLogLogger(slog.DiscardHandler, 0)
	if encrypted {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.Listener.Addr().String()
}
