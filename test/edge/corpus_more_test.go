//go:build unix

package edge_test

import (
	"fmt"
	"strings"
)

// anyHost is for requests that name none: the instance must get one all the same.
const anyHost = "?"

// once is what a case of one request without a body reads as.
var once = []string{"GET /c~|"}

// heads are requests whose head is not what the grammar says.
var heads = []attack{
	{name: "a plain request", send: get + "\r\n", reads: once, valid: true},
	{name: "a value with blanks around it", send: get + "X: \t a b \t\r\n\r\n", reads: once, valid: true},
	{name: "an empty value", send: get + "X:\r\n\r\n", reads: once, valid: true},
	{name: "every character of a name", send: get + "!#$%&'*+-.^_`|1: x\r\n\r\n", reads: once, valid: true},
	{name: "a folded value", send: get + "X: a\r\n b\r\n\r\n", reads: once},
	{name: "a folded value, by tab", send: get + "X: a\r\n\tb\r\n\r\n", reads: once},
	{name: "a fold of nothing", send: "GET /c~ HTTP/1.1\r\n Host: b\r\nHost: a\r\n\r\n", closes: true},
	{name: "a folded encoding", send: post + "Content-Length: 4\r\nTransfer-Encoding:\r\n chunked\r\n\r\n" + chunked(hidden), closes: true},
	{name: "a folded length", send: post + "Content-Length:\r\n 5\r\n\r\nhello", reads: []string{"POST /c~|hello"}},
	{name: "a length folded in two", send: post + "Content-Length: 1\r\n 2\r\n\r\nhello, world", closes: true},
	{name: "lines that end by LF", send: "GET /c~ HTTP/1.1\nHost: a\n\n", reads: once},
	{name: "one line that ends by LF", send: get + "X: y\nZ: z\r\n\r\n", reads: once},
	{name: "an encoding after LF", send: post + "Content-Length: 4\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n" + chunked(hidden), closes: true},
	{name: "a head that ends by LF", send: get + "\n" + hidden, reads: []string{"GET /c~|", "GET /hidden~|"}},
	{name: "a head that ends by CR CR LF", send: get + "\r\r\n" + hidden, closes: true},
	{name: "a line that ends by CR CR LF", send: get + "X: y\r\r\n\r\n", closes: true},
	{name: "lines that end by CR", send: "GET /c~ HTTP/1.1\rHost: a\r\r", alone: true},
	{name: "CR in a value", send: get + "X: y\rz\r\n\r\n", closes: true},
	{name: "CR in a name", send: get + "X\rY: z\r\n\r\n", closes: true},
	{name: "NUL in a value", send: get + "X: y\x00z\r\n\r\n", closes: true},
	{name: "NUL in a name", send: get + "X\x00: z\r\n\r\n", closes: true},
	{name: "a control byte in a value", send: get + "X: \x01\r\n\r\n", closes: true},
	{name: "an escape in a value", send: get + "X: \x1b[31m\r\n\r\n", closes: true},
	{name: "DEL in a value", send: get + "X: \x7f\r\n\r\n", closes: true},
	{name: "a control byte in a name", send: get + "X\x01: z\r\n\r\n", closes: true},
	{name: "eight bits in a value", send: get + "X: \xe9\xff\r\n\r\n", reads: once},
	{name: "eight bits in a name", send: get + "X\xe9: z\r\n\r\n", closes: true},
	{name: "a space in a name", send: get + "X Y: z\r\n\r\n", closes: true},
	{name: "a space before the colon of any name", send: get + "X : z\r\n\r\n", closes: true},
	{name: "brackets in a name", send: get + "X(Y): z\r\n\r\n", closes: true},
	{name: "quotes in a name", send: get + "\"X\": z\r\n\r\n", closes: true},
	{name: "no name", send: get + ": z\r\n\r\n", closes: true},
	{name: "no colon in a line", send: get + "X\r\n\r\n", closes: true},
	{name: "underscores for dashes", send: post + "Content_Length: 99\r\nTransfer_Encoding: chunked\r\n\r\n", reads: []string{"POST /c~|"}},
	{name: "two spaces in the first line", send: "GET  /c~ HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "two spaces before the version", send: "GET /c~  HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "tabs in the first line", send: "GET\t/c~\tHTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "a space at the end of the first line", send: "GET /c~ HTTP/1.1 \r\nHost: a\r\n\r\n", closes: true},
	{name: "a space at the beginning", send: " GET /c~ HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "four words in the first line", send: "GET /c~ HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "an empty line first", send: "\r\n" + get + "\r\n", reads: once},
	{name: "no method", send: "/c~ HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "a method that is no token", send: "G@T /c~ HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "a method with a line end", send: "GE\nT /c~ HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "a method of our own", send: "FAIRLEAD /c~ HTTP/1.1\r\nHost: a\r\n\r\n", reads: []string{"FAIRLEAD /c~|"}},
	{name: "NUL in the target", send: "GET /c~\x00 HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "a control byte in the target", send: "GET /c~\x01 HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "LF in the target", send: "GET /c~\nX: y HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "CR in the target", send: "GET /c~\rX HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "a target without a slash", send: "GET c~ HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "an escaped line end in the target", send: "GET /c~%0d%0aX:%20y HTTP/1.1\r\nHost: a\r\n\r\n", reads: []string{"GET /c~%0d%0aX:%20y|"}, valid: true},
	{name: "CONNECT", send: "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n" + hidden, closes: true},
	{name: "CONNECT to a path", send: "CONNECT /c~ HTTP/1.1\r\nHost: a\r\n\r\n" + hidden, closes: true},
	{name: "TRACE with a body", send: "TRACE /c~ HTTP/1.1\r\nHost: a\r\n" + length(hidden) + "\r\n" + hidden, reads: []string{"TRACE /c~|" + hidden}},
}

// hosts are requests that leave open whom they are for.
var hosts = []attack{
	{name: "no host", send: "GET /c~ HTTP/1.1\r\n\r\n", closes: true},
	{name: "two hosts", send: get + "Host: b\r\n\r\n", closes: true},
	{name: "the same host twice", send: get + "Host: a\r\n\r\n", closes: true},
	{name: "two spellings of host", send: get + "hOST: b\r\n\r\n", closes: true},
	{name: "host with a port", send: "GET /c~ HTTP/1.1\r\nHost: a:81\r\n\r\n", reads: once, valid: true, host: "a:81"},
	{name: "host of numbers", send: "GET /c~ HTTP/1.1\r\nHost: [::1]:81\r\n\r\n", reads: once, valid: true, host: "[::1]:81"},
	{name: "host with a space", send: "GET /c~ HTTP/1.1\r\nHost: a b\r\n\r\n", closes: true},
	{name: "host with a tab", send: "GET /c~ HTTP/1.1\r\nHost: a\tb\r\n\r\n", closes: true},
	{name: "host with a path", send: "GET /c~ HTTP/1.1\r\nHost: a/b\r\n\r\n", closes: true},
	{name: "host with a user", send: "GET /c~ HTTP/1.1\r\nHost: b@a\r\n\r\n", closes: true},
	{name: "host with a question", send: "GET /c~ HTTP/1.1\r\nHost: a?b\r\n\r\n", closes: true},
	{name: "a list of hosts", send: "GET /c~ HTTP/1.1\r\nHost: a, b\r\n\r\n", closes: true},
	{name: "host with NUL", send: "GET /c~ HTTP/1.1\r\nHost: a\x00b\r\n\r\n", closes: true},
	{name: "host with CR", send: "GET /c~ HTTP/1.1\r\nHost: a\rb\r\n\r\n", closes: true},
	{name: "host in the target", send: "GET http://b/c~ HTTP/1.1\r\nHost: b\r\n\r\n", reads: once, valid: true, host: "b"},
	{name: "another host in the target", send: "GET http://b/c~ HTTP/1.1\r\nHost: a\r\n\r\n", reads: once, host: "b"},
	{name: "host in the target only", send: "GET http://b/c~ HTTP/1.1\r\n\r\n", reads: once, host: "b"},
	{name: "host and user in the target", send: "GET http://b@c/c~ HTTP/1.1\r\nHost: a\r\n\r\n"},
	{name: "two slashes in the target", send: "GET //b/c~ HTTP/1.1\r\nHost: a\r\n\r\n", reads: []string{"GET //b/c~|"}},
	{name: "another scheme in the target", send: "GET ftp://b/c~ HTTP/1.1\r\nHost: a\r\n\r\n", reads: once, host: "b"},
}

// chunks are bodies in parts.
var chunks = []attack{
	{name: "plain chunks", send: post + te + "\r\n" + hello, reads: []string{"POST /c~|hello"}, valid: true},
	{name: "several chunks", send: post + te + "\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", reads: []string{"POST /c~|hello"}, valid: true},
	{name: "chunks in upper case", send: post + "TRANSFER-ENCODING: CHUNKED\r\n\r\n" + hello, reads: []string{"POST /c~|hello"}, valid: true},
	{name: "chunks without a blank", send: post + "Transfer-Encoding:chunked\r\n\r\n" + hello, reads: []string{"POST /c~|hello"}, valid: true},
	{name: "chunks with blanks", send: post + "Transfer-Encoding: \tchunked \t\r\n\r\n" + hello, reads: []string{"POST /c~|hello"}},
	{name: "chunks and a comma", send: post + "Transfer-Encoding: chunked,\r\n\r\n" + hello, reads: []string{"POST /c~|hello"}, closes: true},
	{name: "a comma and chunks", send: post + "Transfer-Encoding: , chunked\r\n\r\n" + hello, reads: []string{"POST /c~|hello"}, closes: true},
	{name: "chunks of a GET", send: get + te + "\r\n" + chunked(hidden), reads: []string{"GET /c~|" + hidden}},
	{name: "a chunk is a request", send: post + te + "\r\n" + chunked(hidden), reads: []string{"POST /c~|" + hidden}, valid: true},
	{name: "a request behind chunks", send: post + te + "\r\n" + hello + hidden, reads: []string{"POST /c~|hello", "GET /hidden~|"}, valid: true},
	{name: "size with zeros", send: post + te + "\r\n0005\r\nhello\r\n000\r\n\r\n", reads: []string{"POST /c~|hello"}, valid: true},
	{name: "size with very many zeros", send: post + te + "\r\n" + strings.Repeat("0", 40) + "5\r\nhello\r\n0\r\n\r\n", reads: []string{"POST /c~|hello"}, broken: true},
	{name: "extension", send: post + te + "\r\n5;a=b\r\nhello\r\n0;c\r\n\r\n", reads: []string{"POST /c~|hello"}},
	{name: "quoted extension", send: post + te + "\r\n5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", reads: []string{"POST /c~|hello"}},
	{name: "quoted CR LF in an extension", send: post + te + "\r\n5;a=\"\r\nhello\r\n0\r\n\r\n", reads: []string{"POST /c~|hello"}, broken: true},
	{name: "LF in an extension", send: post + te + "\r\n5;a\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "LF hides a request in an extension", send: post + te + "\r\n2;\nxx\r\n2f\r\n0\r\n\r\n" + hidden, broken: true, closes: true},
	{name: "CR in an extension", send: post + te + "\r\n5;a\rb\r\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "NUL in an extension", send: post + te + "\r\n5;a\x00\r\nhello\r\n0\r\n\r\n", reads: []string{"POST /c~|hello"}, broken: true},
	{name: "a very long extension", send: post + te + "\r\n5;" + strings.Repeat("a", 20_000) + "\r\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "long extensions of small chunks", send: post + te + "\r\n" + strings.Repeat("1;"+strings.Repeat("a", 2000)+"\r\nx\r\n", 20) + "0\r\n\r\n", broken: true, closes: true},
	{name: "space behind the size", send: post + te + "\r\n5 \r\nhello\r\n0\r\n\r\n", reads: []string{"POST /c~|hello"}, broken: true},
	{name: "space before the size", send: post + te + "\r\n 5\r\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "size with a plus", send: post + te + "\r\n+5\r\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "negative size", send: post + te + "\r\n-1\r\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "size with 0x", send: post + te + "\r\n0x5\r\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "size with an underscore", send: post + te + "\r\n0_5\r\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "size that is no number", send: post + te + "\r\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "no size", send: post + te + "\r\n\r\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "size beyond 64 bits", send: post + te + "\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "size of 64 bits", send: post + te + "\r\nffffffffffffffff\r\nhello\r\n0\r\n\r\n", broken: true, closes: true, alone: true},
	{name: "size of 32 bits and a bit", send: post + te + "\r\n100000005\r\nhello\r\n0\r\n\r\n", broken: true, closes: true, alone: true},
	{name: "LF behind the size", send: post + te + "\r\n5\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "CR behind the size", send: post + te + "\r\n5\rhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "LF behind the data", send: post + te + "\r\n5\r\nhello\n0\r\n\r\n", broken: true, closes: true},
	{name: "nothing behind the data", send: post + te + "\r\n5\r\nhello0\r\n\r\n", broken: true, closes: true},
	{name: "more data than its size", send: post + te + "\r\n4\r\nhello\r\n0\r\n\r\n", broken: true, closes: true},
	{name: "two letters for CR LF behind the data", send: post + te + "\r\n5\r\nhelloXX0\r\n\r\n", broken: true, closes: true},
	{name: "no last line end", send: post + te + "\r\n5\r\nhello\r\n0\r\n", broken: true, alone: true},
	{name: "no last chunk", send: post + te + "\r\n5\r\nhello\r\n", broken: true, alone: true},
	{name: "a request in place of the last line end", send: post + te + "\r\n5\r\nhello\r\n0\r\n" + hidden, broken: true, closes: true},
	{name: "LF for the last line end", send: post + te + "\r\n5\r\nhello\r\n0\r\n\n" + hidden, broken: true, reads: []string{"POST /c~|hello", "GET /hidden~|"}},
	{name: "trailer", send: post + te + "\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n", reads: []string{"POST /c~|hello"}, valid: true},
	{name: "announced trailer", send: post + te + "Trailer: X\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n", reads: []string{"POST /c~|hello"}, valid: true},
	{name: "trailer with a length", send: post + te + "\r\n5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n", reads: []string{"POST /c~|hello"}, broken: true},
	{name: "trailer with an encoding", send: post + te + "\r\n5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", reads: []string{"POST /c~|hello"}, broken: true},
	{name: "trailer with a host", send: post + te + "\r\n5\r\nhello\r\n0\r\nHost: b\r\n\r\n", reads: []string{"POST /c~|hello"}, broken: true},
	{name: "trailer with a length behind an announced one", send: post + te + "Trailer: X\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n", reads: []string{"POST /c~|hello"}, broken: true},
	{name: "announced trailer with a length", send: post + te + "Trailer: Content-Length\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n", reads: []string{"POST /c~|hello"}, broken: true, closes: true},
	{name: "trailer without a colon", send: post + te + "\r\n5\r\nhello\r\n0\r\nX\r\n\r\n", broken: true, closes: true},
	{name: "trailer with a space before the colon", send: post + te + "\r\n5\r\nhello\r\n0\r\nX : y\r\n\r\n", reads: []string{"POST /c~|hello"}, broken: true},
	{name: "announced trailer with a space before the colon", send: post + te + "Trailer: X\r\n\r\n5\r\nhello\r\n0\r\nX : y\r\nX: z\r\n\r\n", reads: []string{"POST /c~|hello"}, broken: true},
	{name: "trailer of 80 KB", send: post + te + "\r\n5\r\nhello\r\n0\r\nX: " + strings.Repeat("y", 80_000) + "\r\n\r\n", broken: true, closes: true},
}

// versions are requests of other protocols and of other times.
var versions = []attack{
	{name: "HTTP/0.9", send: "GET /c~\r\n", alone: true},
	{name: "HTTP/0.9 as a version", send: "GET /c~ HTTP/0.9\r\nHost: a\r\n\r\n", closes: true},
	{name: "HTTP/1.0", send: "GET /c~ HTTP/1.0\r\nHost: a\r\n\r\n", reads: once, valid: true, closes: true},
	{name: "HTTP/1.0 without a host", send: "GET /c~ HTTP/1.0\r\n\r\n", reads: once, closes: true, host: anyHost},
	{name: "HTTP/1.0 that stays", send: "GET /c~ HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", reads: once, valid: true},
	{name: "HTTP/1.0 with chunks", send: "POST /c~ HTTP/1.0\r\nHost: a\r\n" + te + "\r\n" + hello, closes: true},
	{name: "HTTP/1.0 with chunks that stays", send: "POST /c~ HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n" + te + "\r\n" + chunked(hidden), closes: true},
	{name: "HTTP/1.0 whose chunks are a request", send: "POST /c~ HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n" + te + "\r\n" + hidden, closes: true},
	{name: "HTTP/1.0 with chunks and a length", send: "POST /c~ HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 4\r\n" + te + "\r\n" + chunked(hidden), closes: true},
	{name: "HTTP/1.2", send: "GET /c~ HTTP/1.2\r\nHost: a\r\n\r\n", reads: once},
	{name: "HTTP/1.10", send: "GET /c~ HTTP/1.10\r\nHost: a\r\n\r\n", closes: true},
	{name: "HTTP/01.1", send: "GET /c~ HTTP/01.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "HTTP/1", send: "GET /c~ HTTP/1\r\nHost: a\r\n\r\n", closes: true},
	{name: "HTTP/1.1x", send: "GET /c~ HTTP/1.1x\r\nHost: a\r\n\r\n", closes: true},
	{name: "HTTP/2.0", send: "GET /c~ HTTP/2.0\r\nHost: a\r\n\r\n", closes: true},
	{name: "HTTP/3.0", send: "GET /c~ HTTP/3.0\r\nHost: a\r\n\r\n", closes: true},
	{name: "http in lower case", send: "GET /c~ http/1.1\r\nHost: a\r\n\r\n", closes: true},
	{name: "another protocol", send: "GET /c~ ICAP/1.0\r\nHost: a\r\n\r\n", closes: true},
	{name: "the preface of HTTP/2 with a host", send: "PRI * HTTP/2.0\r\nHost: a\r\n\r\nSM\r\n\r\n", closes: true, alone: true},
	{name: "a handshake of TLS", send: "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", alone: true},
}

// sizes are requests of more than anybody needs.
func sizes() []attack {
	big := strings.Repeat("x", 80_000)
	var many strings.Builder
	for i := range 8000 {
		fmt.Fprintf(&many, "X-%d: y\r\n", i)
	}
	return []attack{
		{name: "a value of 80 KB", send: get + "X: " + big + "\r\n\r\n", closes: true},
		{name: "a name of 80 KB", send: get + big + ": x\r\n\r\n", closes: true},
		{name: "a target of 80 KB", send: "GET /c~" + big + " HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
		{name: "a method of 80 KB", send: big + " /c~ HTTP/1.1\r\nHost: a\r\n\r\n", closes: true},
		{name: "a version of 80 KB", send: "GET /c~ HTTP/1.1" + big + "\r\nHost: a\r\n\r\n", closes: true},
		{name: "a host of 80 KB", send: "GET /c~ HTTP/1.1\r\nHost: " + big + "\r\n\r\n", closes: true},
		{name: "8000 headers", send: get + many.String() + "\r\n", closes: true},
		{name: "a fold of 80 KB", send: get + "X: y\r\n" + strings.Repeat(" z\r\n", 20_000) + "\r\n", closes: true},
		{name: "80 KB of empty lines", send: strings.Repeat("\r\n", 40_000) + get + "\r\n", closes: true, reads: once},
		{name: "a value of 4 KB", send: get + "X: " + big[:4000] + "\r\n\r\n", reads: once, valid: true},
	}
}
