package spec

import (
	"encoding/json"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestValues(t *testing.T) {
	for _, c := range []struct {
		in   string
		p    parser
		want string // as String writes it; "" for refused
	}{
		{"30s", new(Duration), "30s"}, {"1m30s", new(Duration), "1m30s"}, {"90s", new(Duration), "1m30s"}, {"250ms", new(Duration), "250ms"},
		{"7d", new(Duration), "7d"}, {"24h", new(Duration), "1d"}, {"36h", new(Duration), "36h"}, {"0d", new(Duration), "0s"}, {"0", new(Duration), "0s"},
		{"60m", new(Duration), "1h"}, {"1.5h", new(Duration), "1h30m"},
		{"30", new(Duration), ""}, {"-1s", new(Duration), ""}, {"-1d", new(Duration), ""}, {"d", new(Duration), ""}, {"1w", new(Duration), ""},
		{"70000d", new(Duration), ""}, {"1e3s", new(Duration), ""}, {"", new(Duration), ""}, {"9999999999h", new(Duration), ""},

		{"512MiB", new(Bytes), "512MiB"}, {"1GB", new(Bytes), "1000000000B"}, {"1.5GiB", new(Bytes), "1536MiB"}, {"2 KiB", new(Bytes), "2KiB"},
		{"0B", new(Bytes), "0B"}, {"1024KiB", new(Bytes), "1MiB"}, {".5KiB", new(Bytes), "512B"}, {"1048576TiB", new(Bytes), "1048576TiB"},
		{"512", new(Bytes), ""}, {"512M", new(Bytes), ""}, {"512Mi", new(Bytes), ""}, {"-1MiB", new(Bytes), ""}, {"MiB", new(Bytes), ""}, {"1e3MiB", new(Bytes), ""},
		{"0x10B", new(Bytes), ""}, {"NaNB", new(Bytes), ""}, {"InfB", new(Bytes), ""}, {"1048577TiB", new(Bytes), ""}, {"1mib", new(Bytes), ""}, {"1.2.3B", new(Bytes), ""},

		{"1.5", new(CPU), "1.5"}, {"2", new(CPU), "2"}, {"0.001", new(CPU), "0.001"}, {"0.25", new(CPU), "0.25"},
		{"0", new(CPU), ""}, {"-1", new(CPU), ""}, {"100001", new(CPU), ""}, {"NaN", new(CPU), ""}, {"Inf", new(CPU), ""}, {"500m", new(CPU), ""}, {"1e2", new(CPU), ""},

		{"5%", new(Percent), "5%"}, {"0.5%", new(Percent), "0.5%"}, {"100%", new(Percent), "100%"}, {"0%", new(Percent), "0%"},
		{"5", new(Percent), ""}, {"101%", new(Percent), ""}, {"-1%", new(Percent), ""}, {"%", new(Percent), ""}, {"NaN%", new(Percent), ""}, {"5 %", new(Percent), ""},

		{"1", new(Amount), "1"}, {"25%", new(Amount), "25%"}, {"0", new(Amount), "0"}, {"0%", new(Amount), "0"},
		{"-1", new(Amount), ""}, {"1.5", new(Amount), ""}, {"101%", new(Amount), ""}, {"x", new(Amount), ""}, {"", new(Amount), ""},

		{"env://A", new(Secret), "env://A"}, {"file://a b", new(Secret), "file://a b"}, {"sops://f#k", new(Secret), "sops://f#k"},
		{"env://", new(Secret), ""}, {"A", new(Secret), ""}, {"http://x", new(Secret), ""}, {"", new(Secret), ""},
	} {
		err := c.p.parse(c.in)
		if got := c.p.(interface{ String() string }).String(); (err != nil) != (c.want == "") || err == nil && got != c.want {
			t.Errorf("%T %q: %q (%v), want %q", c.p, c.in, got, err, c.want)
		}
	}
}

// back reports whether v is the same after it was written and read.
func back[T comparable, P interface {
	*T
	parser
	String() string
}](t *rapid.T, v T) {
	var a, b T
	text := P(&v).String()
	if err := P(&a).parse(text); err != nil || a != v {
		t.Fatalf("%T %v is written as %s and read as %v (%v)", v, v, text, a, err)
	}
	j, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(j, &b)
	}
	if err != nil || b != v {
		t.Fatalf("%s is read as %v (%v)", j, b, err)
	}
}

func TestValuesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.SampledFrom([]time.Duration{1, 1e3, 1e6, 1e9, 60e9, 3600e9, 86400e9})
		back(t, Duration(rapid.Int64Range(0, 65535).Draw(t, "n"))*Duration(unit.Draw(t, "unit")))
		back(t, Bytes(rapid.Int64Range(0, 1<<53).Draw(t, "bytes")))
		back(t, Bytes(rapid.Int64Range(0, 1<<10).Draw(t, "bytes")<<rapid.SampledFrom([]int{0, 10, 20, 30, 40}).Draw(t, "unit")))
		back(t, CPU(rapid.Int64Range(1, 1e8).Draw(t, "cpu")))
		back(t, Percent(rapid.Int64Range(0, 1e5).Draw(t, "percent")))
		back(t, Amount{N: rapid.IntRange(0, 1e6).Draw(t, "n"), Set: true})
		back(t, Amount{Share: Percent(rapid.Int64Range(1, 1e5).Draw(t, "share")), Set: true})
	})
}

func TestAmountOfIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, share := rapid.IntRange(0, maxInstances).Draw(t, "n"), rapid.Int64Range(1, 100000).Draw(t, "share")
		x := big.NewRat(int64(n)*share, 100000)
		floor := int(new(big.Int).Div(x.Num(), x.Denom()).Int64())
		ceil := floor
		if !x.IsInt() {
			ceil++
		}
		a := Amount{Share: Percent(share), Set: true}
		if a.Of(n, true) != ceil || a.Of(n, false) != floor {
			t.Fatalf("%s of %d: %d and %d, want %d and %d", a, n, a.Of(n, true), a.Of(n, false), ceil, floor)
		}
	})
}
