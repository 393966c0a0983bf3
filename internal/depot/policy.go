package depot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// Policy is the file that says what a machine starts.
type Policy struct {
	Require string   `yaml:"require,omitempty" json:"require,omitempty"` // signed, or digest (also "")
	Keys    []string `yaml:"keys,omitempty" json:"keys,omitempty"`       // allowed public keys: PEM, or the name of a file
	MaxAge  string   `yaml:"max_age,omitempty" json:"max_age,omitempty"` // since it was signed, as 720h
	Forbid  []string `yaml:"forbid,omitempty" json:"forbid,omitempty"`   // modules, see [bundle.ParseRule]
}

// ParsePolicy reads a policy file. Names of key files are relative to dir, and replaced by what the files say, so that the
// policy does not change when they do. What is wrong gives a [fail.Usage] with its place.
func ParsePolicy(b []byte, name string) (Policy, error) {
	var p Policy
	if len(b) > 1<<20 {
		return p, fail.New(fail.Usage, name, "it is too long for a policy")
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&p); err != nil {
		return p, fail.New(fail.Usage, name, "%w", err).Hinted("the keys are require, keys, max_age and forbid")
	}
	for i, k := range p.Keys {
		if strings.Contains(k, "-----BEGIN") {
			continue
		}
		if !filepath.IsAbs(k) {
			k = filepath.Join(filepath.Dir(name), k)
		}
		pem, err := os.ReadFile(k)
		if err != nil {
			return p, fail.New(fail.Usage, name, "keys[%d]: %w", i, err)
		}
		p.Keys[i] = string(pem)
	}
	_, err := p.Compile()
	if err != nil {
		e := *fail.As(err)
		e.Kind, e.Place = fail.Usage, name
		return p, &e
	}
	return p, nil
}

// Compile checks a policy and turns it into what bundles are judged by.
func (p Policy) Compile() (bundle.Policy, error) {
	var out bundle.Policy
	switch p.Require {
	case "signed":
		out.Signed = true
		if len(p.Keys) == 0 {
			return out, fail.New(fail.Usage, "", "require: signed needs keys").Hinted("list public keys: `keys: [release.pub]`")
		}
	case "", "digest":
	default:
		return out, fail.New(fail.Usage, "", "require: %q is neither signed nor digest", p.Require)
	}
	for i, k := range p.Keys {
		pub, err := sign.ParsePublic([]byte(k))
		if err != nil {
			return out, fmt.Errorf("keys[%d]: %w", i, err)
		}
		out.Keys = append(out.Keys, pub)
	}
	if p.MaxAge != "" {
		d, err := time.ParseDuration(p.MaxAge)
		if err != nil || d <= 0 {
			return out, fail.New(fail.Usage, "", "max_age: %q is no duration, as 720h", p.MaxAge)
		}
		out.MaxAge = d
		if !out.Signed {
			return out, fail.New(fail.Usage, "", "max_age counts from the signature and needs require: signed")
		}
	}
	for i, f := range p.Forbid {
		r, err := bundle.ParseRule(f)
		if err != nil {
			return out, fail.New(fail.Usage, "", "forbid[%d]: %w", i, err).Hinted("write PATH, PATH/..., PATH@v1.2.3 or PATH@<v1.2.3")
		}
		out.Forbid = append(out.Forbid, r)
	}
	return out, nil
}

// Policy returns the machine's policy; the zero one when none was set. One that cannot be read is an error: the machine
// then starts nothing rather than anything.
func (d Depot) Policy() (Policy, bundle.Policy, error) {
	var p Policy
	if err := home.ReadJSON(d.dirs.Policy(), &p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p, bundle.Policy{}, fail.New(fail.Preflight, "", "the machine's policy cannot be read: %w", err).Hinted("set it again: `fairlead agent policy FILE`")
	}
	c, err := p.Compile()
	return p, c, err
}

// SetPolicy replaces the machine's policy, after checking it.
func (d Depot) SetPolicy(p Policy) error {
	if _, err := p.Compile(); err != nil {
		return err
	}
	return home.WriteJSON(d.dirs.Policy(), p, 0o600)
}
