package spec

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span that must be written with its unit: 30s, 1m30s, 250ms, 7d.
type Duration time.Duration

// D returns the span as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String writes whole days as "7d" and everything else as [time.Duration] does.
func (d Duration) String() string {
	const day = Duration(24 * time.Hour)
	if d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

func (d *Duration) parse(s string) error {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			*d = Duration(n) * Duration(24*time.Hour)
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		if _, e := strconv.ParseFloat(s, 64); e == nil {
			return fmt.Errorf("%s has no unit: write %ss for seconds, or ms, m, h, d", s, s)
		}
		return fmt.Errorf("%q is not a duration: write 30s, 1m30s, 250ms, 2h or 7d", s)
	}
	if v < 0 {
		return fmt.Errorf("%s is negative", s)
	}
	*d = Duration(v)
	return nil
}

// number reads digits with at most one point among them. The standard library also takes 1e3, 0x10, Inf and NaN, which
// no person means here.
func number(s string) (float64, bool) {
	if strings.Trim(s, "0123456789.") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}

// Bytes is an amount of memory or disk, written with its unit: 512MiB, 1GB.
type Bytes int64

var byteUnits = []struct {
	suffix string
	size   float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// String writes the amount in the largest binary unit that leaves a whole number.
func (b Bytes) String() string {
	for i := 3; i >= 0; i-- {
		if u := Bytes(byteUnits[i].size); b >= u && b%u == 0 {
			return strconv.FormatInt(int64(b/u), 10) + byteUnits[i].suffix
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// Set reads a size as a flag (pflag.Value).
func (b *Bytes) Set(s string) error { return b.parse(s) }

// Type names the value in help.
func (b *Bytes) Type() string { return "size" }

func (b *Bytes) parse(s string) error {
	for _, u := range byteUnits {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, ok := number(strings.TrimSuffix(num, " "))
		if !ok || n*u.size > 1<<60 {
			break
		}
		*b = Bytes(n * u.size)
		return nil
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return fmt.Errorf("%s has no unit: write %sMiB, %sGiB or %sB", s, s, s, s)
	}
	return fmt.Errorf("%q is not an amount of memory: write 512MiB or 2GiB", s)
}

// CPU is a number of cores, kept in thousandths.
type CPU int64

// String writes cores, as 1.5.
func (c CPU) String() string { return strconv.FormatFloat(float64(c)/1000, 'f', -1, 64) }

// Cores returns the number of cores.
func (c CPU) Cores() float64 { return float64(c) / 1000 }

// Cores makes a value of a number of cores.
func Cores(n float64) CPU { return CPU(math.Round(n * 1000)) }

func (c *CPU) parse(s string) error {
	n, ok := number(s)
	if !ok || n < 0.001 || n > 100000 {
		return fmt.Errorf("%q is not a number of cores: write 0.5 or 2", s)
	}
	*c = CPU(math.Round(n * 1000))
	return nil
}

// Percent is a share, kept in thousandths of a percent.
type Percent int64

// String writes the share with its sign, as 5%.
func (p Percent) String() string { return strconv.FormatFloat(float64(p)/1000, 'f', -1, 64) + "%" }

// Float returns the share in percent, 0 to 100.
func (p Percent) Float() float64 { return float64(p) / 1000 }

func (p *Percent) parse(s string) error {
	num, sign := strings.CutSuffix(s, "%")
	n, ok := number(num)
	if !sign || !ok || n > 100 {
		return fmt.Errorf("%q is not a share: write 5%%", s)
	}
	*p = Percent(math.Round(n * 1000))
	return nil
}

// Amount is a number of instances or a share of them.
type Amount struct {
	N     int
	Share Percent
	Set   bool
}

// IsZero reports whether nothing was written.
func (a Amount) IsZero() bool { return !a.Set }

// Of returns the number of instances out of n; a share is rounded up when up is set, down otherwise.
func (a Amount) Of(n int, up bool) int {
	if a.Share == 0 {
		return a.N
	}
	const whole = 100 * 1000 // of a Share
	x := int64(n) * int64(a.Share)
	if up {
		x += whole - 1
	}
	return int(x / whole)
}

// String writes the amount as it stood in the file.
func (a Amount) String() string {
	if a.Share != 0 {
		return a.Share.String()
	}
	return strconv.Itoa(a.N)
}

func (a *Amount) parse(s string) error {
	if strings.HasSuffix(s, "%") {
		a.Set = true
		return a.Share.parse(s)
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is neither a number of instances nor a share of them: write 1 or 25%%", s)
	}
	a.N, a.Set = n, true
	return nil
}

// Secret is a reference to a value, as env://NAME or file://PATH. The value itself is never part of a Spec.
type Secret string

// Scheme returns what stands before "://".
func (s Secret) Scheme() string { scheme, _, _ := strings.Cut(string(s), "://"); return scheme }

// Rest returns what stands behind "://".
func (s Secret) Rest() string { _, rest, _ := strings.Cut(string(s), "://"); return rest }

// String returns the reference.
func (s Secret) String() string { return string(s) }

func (s *Secret) parse(v string) error {
	*s = Secret(v)
	switch s.Scheme() {
	case "env", "file", "sops":
		if s.Rest() != "" {
			return nil
		}
	}
	return fmt.Errorf("a secret is a reference, not a value: write env://NAME or file://PATH")
}

// parser is a value that is written as one YAML scalar of its own form.
type parser interface{ parse(string) error }

func marshalText(s fmt.Stringer) ([]byte, error) { return json.Marshal(s.String()) }

func unmarshalText(b []byte, p parser) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	return p.parse(s)
}

// The values cross the wire in the form a person writes them.

// MarshalJSON implements [json.Marshaler].
func (d Duration) MarshalJSON() ([]byte, error) { return marshalText(d) }

// UnmarshalJSON implements [json.Unmarshaler].
func (d *Duration) UnmarshalJSON(b []byte) error { return unmarshalText(b, d) }

// MarshalJSON implements [json.Marshaler].
func (b Bytes) MarshalJSON() ([]byte, error) { return marshalText(b) }

// UnmarshalJSON implements [json.Unmarshaler].
func (b *Bytes) UnmarshalJSON(t []byte) error { return unmarshalText(t, b) }

// MarshalJSON implements [json.Marshaler].
func (c CPU) MarshalJSON() ([]byte, error) { return marshalText(c) }

// UnmarshalJSON implements [json.Unmarshaler].
func (c *CPU) UnmarshalJSON(b []byte) error { return unmarshalText(b, c) }

// MarshalJSON implements [json.Marshaler].
func (p Percent) MarshalJSON() ([]byte, error) { return marshalText(p) }

// UnmarshalJSON implements [json.Unmarshaler].
func (p *Percent) UnmarshalJSON(b []byte) error { return unmarshalText(b, p) }

// MarshalJSON implements [json.Marshaler].
func (a Amount) MarshalJSON() ([]byte, error) { return marshalText(a) }

// UnmarshalJSON implements [json.Unmarshaler].
func (a *Amount) UnmarshalJSON(b []byte) error { return unmarshalText(b, a) }
