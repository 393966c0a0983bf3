package bundle

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/sbom"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// Policy is what must hold before something is started. The zero Policy asks for digests only.
type Policy struct {
	Signed bool          // one of Keys must have signed it
	Keys   []sign.Public // the allowed keys
	MaxAge time.Duration // since it was signed; 0 is any
	Forbid []Rule        // modules that must not be in it
	// Accepted is when the machine took it first; zero: never so far. What was accepted once stays acceptable when it
	// or its key gets old, or no release could be gone back to.
	Accepted time.Time
}

// Rule forbids a module, or some versions of it.
type Rule struct {
	Path string
	Op   string // "", "=", "<", "<=", ">", ">="; "" means every version
	Than string // a semantic version
}

// ParseRule reads "PATH", "PATH@VERSION", or "PATH@<VERSION" and so on with <=, > and >=. PATH/... means all modules below PATH.
func ParseRule(s string) (Rule, error) {
	path, version, has := strings.Cut(s, "@")
	if err := module.CheckImportPath(strings.TrimSuffix(path, "/...")); err != nil && path != "std" {
		return Rule{}, fmt.Errorf("%q: %w", s, err)
	}
	if !has {
		return Rule{Path: path}, nil
	}
	op := "="
	for _, o := range []string{"<=", ">=", "<", ">", "="} {
		if rest, ok := strings.CutPrefix(version, o); ok {
			op, version = o, rest
			break
		}
	}
	if !semver.IsValid(canonical(version)) {
		return Rule{}, fmt.Errorf("%q: %q is no version, as v1.2.3", s, version)
	}
	return Rule{path, op, version}, nil
}

// String writes what [ParseRule] reads.
func (r Rule) String() string {
	if r.Op == "" {
		return r.Path
	}
	return r.Path + "@" + strings.TrimPrefix(r.Op, "=") + r.Than
}

func canonical(v string) string {
	if !strings.HasPrefix(v, "v") {
		return "v" + v // the standard library's
	}
	return v
}

func (r Rule) matches(path, version string) bool {
	if below, ok := strings.CutSuffix(r.Path, "/..."); ok {
		if path != below && !strings.HasPrefix(path, below+"/") {
			return false
		}
	} else if path != r.Path {
		return false
	}
	c := semver.Compare(canonical(version), canonical(r.Than))
	switch r.Op {
	case "=":
		return c == 0
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	case ">=":
		return c >= 0
	}
	return true
}

// at is the time for which a bundle is judged.
func (p Policy) at(now time.Time) time.Time {
	if !p.Accepted.IsZero() {
		return p.Accepted
	}
	return now
}

// judge holds what is known of a bundle against the policy.
func (p Policy) judge(v *Verified, now time.Time) error {
	now = p.at(now)
	if p.Signed && v.SignedBy == "" {
		e := *fail.As(v.unsigned)
		if e.Hint == "" {
			e.Hint = "sign it: `build: {sign: KEY}` in fairlead.yaml, with a key whose public half is allowed here"
		}
		return &e
	}
	if v.SignedBy != "" && !v.expires.IsZero() && now.After(v.expires) {
		return fail.New(fail.Preflight, "", "%s is signed with a key that expired on %s", v.Digest, v.expires.Format(time.DateOnly)).
			Hinted("sign it with a new key: `fairlead keys new`, and allow that key where it is verified")
	}
	if p.MaxAge > 0 {
		switch {
		case v.SignedAt.IsZero():
			return fail.New(fail.Preflight, "", "nobody says when %s was signed, and the policy has a max_age", v.Digest).Hinted("sign it with `fairlead build`")
		case now.Sub(v.SignedAt) > p.MaxAge:
			return fail.New(fail.Preflight, "", "%s was signed %s ago, the policy's max_age is %s", v.Digest, now.Sub(v.SignedAt).Round(time.Minute), p.MaxAge).
				Hinted("build and sign it again")
		}
	}
	if len(p.Forbid) > 0 && len(v.opaque) > 0 {
		return fail.New(fail.Preflight, "", "%s has no SBOM that can be trusted, and the policy forbids modules", v.opaque[0]).Hinted("build it with fairlead, which writes one")
	}
	return p.forbids(v.Digest, v.modules)
}

func (p Policy) forbids(what string, modules []sbom.Module) error {
	for _, r := range p.Forbid {
		for _, m := range modules {
			if r.matches(m.Path, m.Version) {
				return fail.New(fail.Preflight, "", "%s contains %s %s, which the policy forbids (%s)", what, m.Path, m.Version, r).
					Hinted("`go get %s@latest` or remove the dependency, and build again", m.Path)
			}
		}
	}
	return nil
}

// Forbids holds what a program says it contains against the policy; a forbidden module gives a [fail.Preflight].
func (p Policy) Forbids(name string, info *debug.BuildInfo) error {
	return p.forbids(name, sbom.Modules(sbom.Program{Info: info}))
}

// Describe says the policy in one line.
func (p Policy) Describe() string {
	var parts []string
	if p.Signed {
		parts = append(parts, fmt.Sprintf("signed with one of %d keys", len(p.Keys)))
	}
	if p.MaxAge > 0 {
		parts = append(parts, "at most "+p.MaxAge.String()+" ago")
	}
	for _, r := range p.Forbid {
		parts = append(parts, "without "+r.String())
	}
	if len(parts) == 0 {
		return "digests only"
	}
	return strings.Join(slices.Compact(parts), ", ")
}
