package spec

import (
	"testing"
	"time"
)

func TestKeptRefused(t *testing.T) {
	for _, c := range []struct{ yaml, place, text, hint string }{
		{"route: {compress: true}", "2:19", "keys and values is wanted", ""},
		{"route: {compress: {min: 0B}}", "2:25", "0B is less than any answer has", "write min: 1KiB"},
		{"route: {compress: {min: 5}}", "2:25", "5 has no unit", ""},
		{"route: {compress: {type: [text/html]}}", "2:20", `no key "type" under route.compress`, `did you mean "types"?`},
		{"route: {compress: {types: [text/*, html]}}", "2:36", `"html" is not a media type`, "[text/*, application/json]"},
		{"route: {compress: {types: [/html]}}", "2:28", `"/html" is not a media type`, ""},
		{"route: {compress: {types: [text/]}}", "2:28", `"text/" is not a media type`, ""},
		{"route: {compress: {types: ['text/html; charset=utf-8']}}", "2:28", "is not a media type", ""},
		{"route: {compress: {types: [TEXT/HTML]}}", "2:28", "is not a media type", ""},
		{"route: {compress: {types: [a/b, a/b]}}", "2:33", "a/b stands here a second time", ""},
		{"route: {cache: yes}", "2:16", "keys and values is wanted", ""},
		{"route: {cache: {size: 0B}}", "2:23", "0B is not between 1MiB and 64GiB", "write size: 64MiB"},
		{"route: {cache: {size: 1TiB}}", "2:23", "1TiB is not between", ""},
		{"route: {cache: {object: 0B}}", "2:25", "0B is not between 1B and the 64MiB of all", ""},
		{"route: {cache: {size: 2MiB, object: 3MiB}}", "2:37", "3MiB is not between 1B and the 2MiB of all", ""},
		{"route: {cache: {stale_if_error: 60}}", "2:33", "60 has no unit: write 60s", ""},
		{"route: {cache: {stale: 1h}}", "2:17", `no key "stale" under route.cache`, ""},
		{"route: {mode: kernel, compress: {}}", "2:33", "done by who reads requests", "route.mode: proxy"},
		{"route: {mode: adaptive, cache: {}}", "2:32", "done by who reads requests", "route.mode: proxy"},
	} {
		t.Run(c.yaml, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte("service: a\n"+c.yaml+"\n"), "/srv", "")
			checkError(t, err, "f.yaml:"+c.place, c.text, c.hint)
		})
	}
}

func TestKeptDefaults(t *testing.T) {
	hour := Duration(time.Hour)
	for text, want := range map[string]Route{
		"":                      {},
		"route: {compress: {}}": {Compress: Compress{Min: 1 << 10}},
		"route: {compress: {types: [text/*, '*/*+json', '*/*'], min: 1B}}": {Compress: Compress{Types: []string{"text/*", "*/*+json", "*/*"}, Min: 1}},
		"route: {cache: {}}":           {Cache: Cache{Size: 64 << 20, Object: 4 << 20, StaleIfError: hour}},
		"route: {cache: {size: 2MiB}}": {Cache: Cache{Size: 2 << 20, Object: 2 << 20, StaleIfError: hour}},
		"route: {cache: {size: 1GiB, object: 1GiB, default: 10s, stale_if_error: 0s, across_releases: true}}": {Cache: Cache{Size: 1 << 30, Object: 1 << 30,
			Default: Duration(10 * time.Second), Across: true}},
	} {
		s, err := Parse("f", []byte("service: a\n"+text), "/srv", "")
		if err != nil {
			t.Fatal(err)
		}
		if d := diff(want.Compress, s.Route.Compress) + diff(want.Cache, s.Route.Cache); d != "" || s.Route.Compress.On() != (want.Compress.Min > 0) || s.Route.Cache.On() != (want.Cache.Size > 0) {
			t.Errorf("%s: %s", text, d)
		}
	}
}
