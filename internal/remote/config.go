package remote

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// The bounds of a configuration: ssh(1) has the same depth, and nobody writes a line or a file of these sizes.
const (
	maxInclude = 16
	maxConfig  = 4 << 20
)

// value is what a keyword was given, and where.
type value struct {
	words []string
	place string // file:line
}

// word is the first of the words, "" where the keyword was not given.
func (v value) word() string {
	if len(v.words) == 0 {
		return ""
	}
	return v.words[0]
}

// several are the keywords of which every line counts; of all others the first one does.
var several = map[string]bool{"identityfile": true, "certificatefile": true}

// config collects what the files say of one host, first come first kept.
type config struct {
	who    identity
	host   string // as a person wrote it: what Host patterns are held against
	user   string // "" unless a person wrote one
	values map[string][]value
	read   int // bytes so far, of all files
}

// readConfig reads the file that the options name, or the user's and then the machine's.
func readConfig(o Options, who identity, d destination) (*config, error) {
	c := &config{who: who, host: d.host, user: d.user, values: map[string][]value{}}
	if o.Config != "" {
		return c, c.file(scope{path: o.Config, base: filepath.Join(who.home, ".ssh"), active: true, must: true})
	}
	user := filepath.Join(who.home, ".ssh")
	if err := c.file(scope{path: filepath.Join(user, "config"), base: user, active: true}); err != nil || runtime.GOOS == "windows" {
		return c, err
	}
	return c, c.file(scope{path: "/etc/ssh/ssh_config", base: "/etc/ssh", active: true})
}

// scope is one file being read.
type scope struct {
	path   string
	base   string // the folder that a relative Include starts from
	active bool   // what stands here is for our host
	never  bool   // included from a block that is not: no block of this file is for our host either
	must   bool   // a file that is not there is an error
	depth  int
	line   int
}

func (s *scope) place() string { return fmt.Sprintf("%s:%d", s.path, s.line) }

func (s *scope) wrong(format string, args ...any) *fail.Error {
	e := fail.New(fail.Usage, "", format, args...)
	e.Place = s.place()
	return e
}

func (c *config) file(s scope) error {
	if s.depth > maxInclude {
		return fail.New(fail.Usage, "", "files that include each other: more than %d deep at %s", maxInclude, s.path)
	}
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) && !s.must {
		return nil
	}
	if err != nil {
		return fail.New(fail.Usage, "read the configuration of ssh", "%w", err)
	}
	if c.read += len(b); c.read > maxConfig {
		return fail.New(fail.Usage, "", "the configuration of ssh is larger than %d bytes at %s", maxConfig, s.path)
	}
	for line := range strings.Lines(string(b)) {
		s.line++
		if err := c.one(&s, line); err != nil {
			return err
		}
	}
	return nil
}

// one reads a line.
func (c *config) one(s *scope, line string) error {
	keyword, rest := cutKeyword(line)
	if keyword == "" {
		return nil
	}
	words, err := splitWords(rest)
	if err != nil {
		return s.wrong("%w", err)
	}
	key := strings.ToLower(keyword)
	if len(words) == 0 {
		return s.wrong("%s has no value", keyword)
	}
	switch key {
	case "host":
		s.active = !s.never && matchAny(words, c.host)
	case "match":
		if s.active = false; !s.never {
			s.active, err = c.match(s, words)
		}
		return err
	case "include":
		return c.include(s, words)
	default:
		if s.active && (len(c.values[key]) == 0 || several[key]) {
			c.values[key] = append(c.values[key], value{words, s.place()})
		}
	}
	return nil
}

// include reads further files. What they say under Host ends with them.
func (c *config) include(s *scope, words []string) error {
	for _, w := range words {
		path, err := c.who.expand(w)
		if err != nil {
			return s.wrong("Include: %w", err)
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(s.base, path)
		}
		found, err := filepath.Glob(path)
		if err != nil {
			return s.wrong("Include %s: %w", w, err)
		}
		for _, f := range found {
			in := scope{path: f, base: s.base, active: s.active, never: s.never || !s.active, depth: s.depth + 1}
			if err := c.file(in); err != nil {
				return err
			}
		}
	}
	return nil
}

// match says whether a Match block is for our host. What cannot be told without running a program or a second reading is
// refused, unless another criterion says that the block is for others.
func (c *config) match(s *scope, words []string) (bool, error) {
	all, unknown := true, ""
	for i := 0; i < len(words); i++ {
		name, not := strings.CutPrefix(strings.ToLower(words[i]), "!")
		if name == "all" {
			continue
		}
		var is bool
		switch name {
		case "canonical", "final":
			unknown = name
			continue
		case "host", "originalhost", "user", "localuser":
			if i++; i >= len(words) {
				return false, s.wrong("Match %s has no pattern", name)
			}
			is = matchAny(strings.Split(words[i], ","), c.subject(name))
		default: // exec, localnetwork, tagged and what is yet to come have one word behind them
			i++
			unknown = name
			continue
		}
		all = all && is != not
	}
	if all && unknown != "" {
		return false, s.wrong("Match %s cannot be told here, and this block may be for %s", unknown, c.host).
			Hinted("put what stands in it under a Host line, or name another file as the configuration")
	}
	return all, nil
}

// subject is what a criterion of Match is held against: what was read so far, as ssh(1) does it.
func (c *config) subject(criterion string) string {
	switch criterion {
	case "host":
		if h := c.get("hostname").word(); h != "" {
			return strings.NewReplacer("%h", c.host, "%%", "%").Replace(h)
		}
	case "user":
		if c.user != "" {
			return c.user
		}
		if u := c.get("user").word(); u != "" {
			return u
		}
		return c.who.user
	case "localuser":
		return c.who.user
	}
	return c.host
}

func (c *config) get(key string) value {
	if all := c.values[key]; len(all) > 0 {
		return all[0]
	}
	return value{}
}

// cutKeyword takes the first word off a line; one = may stand behind it.
func cutKeyword(line string) (keyword, rest string) {
	line = strings.Trim(line, " \t\r\n\f")
	if line == "" || line[0] == '#' {
		return "", ""
	}
	end := strings.IndexAny(line, " \t=")
	if end < 0 {
		return line, ""
	}
	rest = strings.TrimLeft(line[end:], " \t")
	if after, ok := strings.CutPrefix(rest, "="); ok {
		rest = strings.TrimLeft(after, " \t")
	}
	return strings.Trim(line[:end], `"`), rest
}

// splitWords splits the rest of a line at spaces, with quotes and the backslashes that ssh(1) knows, up to a comment.
func splitWords(s string) ([]string, error) {
	var words []string
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" || s[0] == '#' {
			return words, nil
		}
		var w []byte
		var quote byte
		i := 0
	word:
		for ; i < len(s); i++ {
			ch := s[i]
			switch {
			case ch == '\\' && i+1 < len(s) && (strings.IndexByte(`'"\`, s[i+1]) >= 0 || quote == 0 && s[i+1] == ' '):
				i++
				w = append(w, s[i])
			case quote == 0 && (ch == ' ' || ch == '\t'):
				break word
			case quote == 0 && (ch == '"' || ch == '\''):
				quote = ch
			case quote != 0 && ch == quote:
				quote = 0
			default:
				w = append(w, ch)
			}
		}
		if quote != 0 {
			return nil, errors.New("a quote is not closed")
		}
		words, s = append(words, string(w)), s[i:]
	}
}

// matchAny holds a name against patterns: one with ! that fits decides against all others.
func matchAny(patterns []string, name string) bool {
	fits := false
	for _, p := range patterns {
		p, not := strings.CutPrefix(p, "!")
		if !wildcard(p, name) {
			continue
		}
		if not {
			return false
		}
		fits = true
	}
	return fits
}

// wildcard holds a name against one pattern of * and ?. It goes back to the last * only, so it takes no more than the
// product of both lengths.
func wildcard(pattern, name string) bool {
	p, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
