package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/mattn/go-isatty"
	"golang.org/x/term"

	"github.com/fairlead-dev/fairlead/internal/event"
)

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// styles colour text, or leave it as it is.
type styles struct{ good, warn, bad, dim, bold func(string) string }

func newStyles(terminal bool, getenv func(string) string) styles {
	if !terminal || getenv("NO_COLOR") != "" || getenv("TERM") == "dumb" {
		same := func(s string) string { return s }
		return styles{same, same, same, same, same}
	}
	render := func(st lipgloss.Style) func(string) string { return func(s string) string { return st.Render(s) } }
	colour := func(c string) func(string) string {
		return render(lipgloss.NewStyle().Foreground(lipgloss.Color(c)))
	}
	return styles{good: colour("2"), warn: colour("3"), bad: colour("1"), dim: colour("8"), bold: render(lipgloss.NewStyle().Bold(true))}
}

// progress shows events as they come: a moving last line on a terminal, plain lines elsewhere, JSON lines when asked for.
type progress struct {
	w        io.Writer // stderr
	json     *json.Encoder
	terminal bool
	style    styles

	mu      sync.Mutex
	now     string    // what is under way
	since   time.Time // since when
	done    int64     // packages compiled
	part    string    // how much of a transfer is done
	drawn   bool      // the moving line is on the screen
	stop    chan struct{}
	stopped sync.WaitGroup
}

func newProgress(stderr, stdout io.Writer, asJSON bool, getenv func(string) string) *progress {
	p := &progress{w: stderr, terminal: isTerminal(stderr) && getenv("TERM") != "dumb", stop: make(chan struct{})}
	p.style = newStyles(p.terminal, getenv)
	if asJSON {
		p.json = json.NewEncoder(stdout)
		return p
	}
	if p.terminal {
		p.stopped.Add(1)
		go p.animate()
	}
	return p
}

// spinner's frames; ten a second.
var spinner = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

func (p *progress) animate() {
	defer p.stopped.Done()
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for i := 0; ; i++ {
		select {
		case <-p.stop:
			return
		case <-t.C:
		}
		p.mu.Lock()
		if p.now != "" {
			text := p.now
			if p.done > 0 {
				text += fmt.Sprintf(" (%d packages)", p.done)
			}
			if p.part != "" {
				text += " (" + p.part + ")"
			}
			took := time.Since(p.since).Round(100 * time.Millisecond).String()
			// A line that wraps cannot be erased.
			if room := p.width() - len(took) - 4; len([]rune(text)) > room {
				text = string([]rune(text)[:max(room, 0)])
			}
			fmt.Fprintf(p.w, "\r\x1b[2K%s %s %s", p.style.good(spinner[i%len(spinner)]), text, p.style.dim(took))
			p.drawn = true
		}
		p.mu.Unlock()
	}
}

// width is how many characters the terminal has in a line now.
func (p *progress) width() int {
	if f, ok := p.w.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil {
			return w
		}
	}
	return 80
}

// printable makes text safe for a terminal: a log line or an error must not be able to drive it.
func printable(s string) string {
	if !strings.ContainsFunc(s, control) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if control(r) {
			fmt.Fprintf(&b, `\x%02x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// control reports what a terminal obeys rather than shows (C0 without tab and line feed, DEL, and C1 of ECMA-48).
func control(r rune) bool {
	return r < ' ' && r != '\t' && r != '\n' || r >= 0x7f && r <= 0x9f
}

// close ends what was under way and leaves the screen clean.
func (p *progress) close() {
	if p.json != nil {
		return
	}
	close(p.stop)
	p.stopped.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

func (p *progress) erase() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[2K")
		p.drawn = false
	}
}

// event is the [event.Sink] of every command.
func (p *progress) event(e event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json != nil {
		p.json.Encode(e)
		return
	}
	switch e.Type {
	case "compile":
		p.done = e.Done
		return
	case "transfer":
		p.part = fmt.Sprintf("%.1f of %.1f MB", float64(e.Done)/1e6, float64(e.Total)/1e6)
		return
	case "built":
		p.line(e.Level, e.Text) // one of several platforms; the build as a whole goes on
		return
	case "preflight":
		if e.Level == event.Warn {
			p.line(e.Level, e.Text) // errors are what the command ends with
		}
		return
	}
	p.finish(e.Type != "undo" && e.Type != "interrupt")
	switch {
	case e.Type == "step":
		p.begin(fmt.Sprintf("%d/%d %s", e.Step, e.Steps, e.Text))
	case (e.Type == "build" || e.Type == "push" || e.Type == "pull") && e.Data == nil:
		p.begin(e.Text)
	default:
		p.line(e.Level, e.Text)
	}
}

// begin shows what is under way; finish turns it into a line that stays.
func (p *progress) begin(text string) {
	p.now, p.since, p.done, p.part = text, time.Now(), 0, ""
	if !p.terminal {
		fmt.Fprintln(p.w, text)
	}
}

func (p *progress) finish(ok bool) {
	if p.now == "" {
		return
	}
	if p.terminal {
		p.erase()
		mark := p.style.good("✓")
		if !ok {
			mark = p.style.bad("✗")
		}
		fmt.Fprintf(p.w, "%s %s %s\n", mark, p.now, p.style.dim(time.Since(p.since).Round(10*time.Millisecond).String()))
	}
	p.now = ""
}

// pause takes the moving line away until the next event: a person is asked something.
func (p *progress) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json == nil {
		p.finish(true)
	}
}

// end is called with the outcome of the whole.
func (p *progress) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json == nil {
		p.finish(err == nil)
	}
}

func (p *progress) line(l event.Level, text string) {
	p.erase()
	mark := p.style.good("•")
	switch l {
	case event.Warn:
		mark = p.style.warn("!")
	case event.Error:
		mark = p.style.bad("✗")
	}
	if !p.terminal {
		mark = map[event.Level]string{event.Warn: "warning:", event.Error: "error:"}[l]
	}
	fmt.Fprintln(p.w, strings.TrimSpace(mark+" "+text))
}
