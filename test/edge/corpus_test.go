//go:build unix

package edge_test

import (
	"fmt"
	"strings"
)

// attack is what one client sends, and what of it may arrive. "~" in the texts stands for the case's number.
type attack struct {
	name  string
	send  string
	reads []string // the requests that may arrive whole, in this order, as "METHOD target|body"; none: it must be refused
	// valid says that they must.
	valid bool
	// closes says that nothing behind them may be read as a request: whoever sent this may mean something else by it.
	closes bool
	// broken says that the head is fine and the body is not: it may arrive without its end.
	broken bool
	// alone says that nothing follows: the client closes its sending side.
	alone bool
	host  string // for which it may arrive; "a" when empty
}

func (c attack) wantHost() string {
	if c.host == "" {
		return "a"
	}
	return c.host
}

const (
	get    = "GET /c~ HTTP/1.1\r\nHost: a\r\n"
	post   = "POST /c~ HTTP/1.1\r\nHost: a\r\n"
	hidden = "GET /hidden~ HTTP/1.1\r\nHost: a\r\n\r\n"
	te     = "Transfer-Encoding: chunked\r\n"
	end    = "\r\n0\r\n\r\n"
	hello  = "5\r\nhello\r\n0\r\n\r\n"
)

// idLength is how much longer a text gets when "~" becomes the number.
const idLength = 2

// length is a Content-Length line for a text in which "~" stands once.
func length(text string) string {
	return fmt.Sprintf("Content-Length: %d\r\n", len(text)+strings.Count(text, "~")*idLength)
}

// chunked is a text as one chunk and the last.
func chunked(text string) string {
	return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(text)+strings.Count(text, "~")*idLength, text)
}

// corpus is all the attacks on the first version of the protocol.
func corpus() []attack {
	all := []attack{
		{name: "CL.TE", send: post + length(end[2:]+hidden) + te + "\r\n" + end[2:] + hidden, closes: true},
		{name: "TE.CL", send: post + "Content-Length: 4\r\n" + te + "\r\n" + chunked(hidden), closes: true},
		{name: "TE before CL", send: post + te + "Content-Length: 4\r\n\r\n" + chunked(hidden), closes: true},
		{name: "TE.CL of a long head", send: post + "X: " + strings.Repeat("x", 20_000) + "\r\nContent-Length: 4\r\n" + te + "\r\n" + chunked(hidden), closes: true},
		{name: "TE.CL behind chunks", send: post + te + "\r\n5;x\r\nhello\r\n0\r\n\r\n" + "POST /c~ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n" + te + "\r\n" + chunked(hidden),
			reads: []string{"POST /c~|hello"}, valid: true, closes: true},
	}
	for _, o := range obscured {
		// Who overlooks this line reads the length, who does not reads chunks. Whichever the instance would be, the other
		// reading must not have gone through the edge.
		all = append(all,
			attack{name: "CL." + o.name, send: post + length(end[2:]+hidden) + o.line + "\r\n" + end[2:] + hidden, closes: true},
			attack{name: o.name + ".CL", send: post + "Content-Length: 4\r\n" + o.line + "\r\n" + chunked(hidden), closes: true})
	}
	all = append(all, lengths...)
	all = append(all, heads...)
	all = append(all, hosts...)
	all = append(all, chunks...)
	all = append(all, versions...)
	return append(all, sizes()...)
}

// obscured are lines that some servers take for a Transfer-Encoding of chunks and others do not.
var obscured = []struct{ name, line string }{
	{"space before the colon", "Transfer-Encoding : chunked\r\n"},
	{"tab before the colon", "Transfer-Encoding\t: chunked\r\n"},
	{"vertical tab", "Transfer-Encoding: \x0bchunked\r\n"},
	{"form feed", "Transfer-Encoding: chunked\x0c\r\n"},
	{"xchunked", "Transfer-Encoding: xchunked\r\n"},
	{"chunkedx", "Transfer-Encoding: chunkedx\r\n"},
	{"chunked, identity", "Transfer-Encoding: chunked, identity\r\n"},
	{"identity, chunked", "Transfer-Encoding: identity, chunked\r\n"},
	{"gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n"},
	{"chunked, gzip", "Transfer-Encoding: chunked, gzip\r\n"},
	{"chunked, chunked", "Transfer-Encoding: chunked, chunked\r\n"},
	{"chunked then identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"},
	{"identity then chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"},
	{"chunked twice", "Transfer-Encoding: chunked\r\nTransfer-encoding: chunked\r\n"},
	{"quoted", "Transfer-Encoding: \"chunked\"\r\n"},
	{"parameter", "Transfer-Encoding: chunked;x=y\r\n"},
	{"empty", "Transfer-Encoding:\r\n"},
	{"identity", "Transfer-Encoding: identity\r\n"},
	{"NUL", "Transfer-Encoding: chunked\x00\r\n"},
	{"bare CR before", "X: y\rTransfer-Encoding: chunked\r\n"},
	{"bare CR in the value", "Transfer-Encoding:\rchunked\r\n"},
	{"leading space", " Transfer-Encoding: chunked\r\n"},
	{"no break space", "Transfer-Encoding: \xa0chunked\r\n"},
	{"two words", "Transfer Encoding: chunked\r\n"},
	{"no colon", "Transfer-Encoding chunked\r\n"},
}

// lengths are bodies whose length is a matter of opinion.
var lengths = []attack{
	{name: "a plain length", send: post + "Content-Length: 5\r\n\r\nhello", reads: []string{"POST /c~|hello"}, valid: true},
	{name: "the body is a request", send: post + length(hidden) + "\r\n" + hidden, reads: []string{"POST /c~|" + hidden}, valid: true},
	{name: "two requests in one write", send: post + "Content-Length: 5\r\n\r\nhello" + hidden, reads: []string{"POST /c~|hello", "GET /hidden~|"}, valid: true},
	{name: "two lengths", send: post + "Content-Length: 0\r\n" + length(hidden) + "\r\n" + hidden, closes: true},
	{name: "two lengths, the longer first", send: post + length(hidden) + "Content-Length: 0\r\n\r\n" + hidden, closes: true},
	{name: "the same length twice", send: post + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", reads: []string{"POST /c~|hello"}},
	{name: "a list of the same length", send: post + "Content-Length: 5, 5\r\n\r\nhello", reads: []string{"POST /c~|hello"}},
	{name: "a list of two lengths", send: post + "Content-Length: 0, 5\r\n\r\nhello", closes: true},
	{name: "negative length", send: post + "Content-Length: -1\r\n\r\n" + hidden, closes: true},
	{name: "length with a plus", send: post + "Content-Length: +5\r\n\r\nhello", closes: true},
	{name: "length in hex", send: post + "Content-Length: 0x5\r\n\r\nhello", closes: true},
	{name: "length with a point", send: post + "Content-Length: 5.0\r\n\r\nhello", closes: true},
	{name: "length with an exponent", send: post + "Content-Length: 5e0\r\n\r\nhello", closes: true},
	{name: "length with an underscore", send: post + "Content-Length: 0_5\r\n\r\nhello", closes: true},
	{name: "length beyond 64 bits", send: post + "Content-Length: 18446744073709551621\r\n\r\nhello", closes: true},
	{name: "length beyond 63 bits", send: post + "Content-Length: 9223372036854775813\r\n\r\nhello", closes: true},
	{name: "length with zeros before it", send: post + "Content-Length: 0000000000000000000000000005\r\n\r\nhello", reads: []string{"POST /c~|hello"}},
	{name: "empty length", send: post + "Content-Length:\r\n\r\n" + hidden, closes: true},
	{name: "blank length", send: post + "Content-Length: \t \r\n\r\n" + hidden, closes: true},
	{name: "length and junk", send: post + "Content-Length: 5 x\r\n\r\nhello", closes: true},
	{name: "junk and length", send: post + "Content-Length: x5\r\n\r\nhello", closes: true},
	{name: "quoted length", send: post + "Content-Length: \"5\"\r\n\r\nhello", closes: true},
	{name: "length and a comma", send: post + "Content-Length: 5,\r\n\r\nhello", closes: true, reads: []string{"POST /c~|hello"}},
	{name: "length in other digits", send: post + "Content-Length: \xd9\xa5\r\n\r\nhello", closes: true},
	{name: "length with a vertical tab", send: post + "Content-Length: \x0b5\r\n\r\nhello", closes: true},
	{name: "length with a NUL", send: post + "Content-Length: 5\x00\r\n\r\nhello", closes: true},
	{name: "length, a space, the colon", send: post + "Content-Length : 5\r\n\r\nhello", closes: true},
	{name: "a leading space and the length", send: "POST /c~ HTTP/1.1\r\n Content-Length: 5\r\nHost: a\r\n\r\nhello", closes: true},
	{name: "length of a GET", send: get + length(hidden) + "\r\n" + hidden, reads: []string{"GET /c~|" + hidden}},
	{name: "length taken back", send: post + "Content-Length: 5\r\nConnection: content-length\r\n\r\nhello", reads: []string{"POST /c~|hello"}},
	{name: "encoding taken back", send: post + te + "Connection: transfer-encoding\r\n\r\n" + hello, reads: []string{"POST /c~|hello"}},
	{name: "host taken back", send: get + "Connection: host\r\n\r\n", reads: []string{"GET /c~|"}},
	{name: "more promised than sent", send: post + "Content-Length: 9\r\n\r\nhello", broken: true, alone: true},
	{name: "less promised than sent", send: post + "Content-Length: 4\r\n\r\nhello", reads: []string{"POST /c~|hell", "oGET /after~|"}, closes: true},
	{name: "expectation and body at once", send: post + "Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello", reads: []string{"POST /c~|hello"}, valid: true},
	{name: "two expectations", send: post + "Content-Length: 5\r\nExpect: 100-continue\r\nExpect: x\r\n\r\nhello", reads: []string{"POST /c~|hello"}},
	{name: "unknown expectation", send: post + "Content-Length: 5\r\nExpect: y 100-continue\r\n\r\nhello", reads: []string{"POST /c~|hello"}},
}
