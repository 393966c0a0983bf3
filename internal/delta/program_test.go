package delta

import (
	"encoding/binary"
	"math/rand/v2"
)

// A program is a stand-in for a Go program that a linker laid out: functions that call each other and load data by
// displacements, a table with the offset of each, and pointers to them.
type program struct {
	bodies [][]byte // bytes that do not depend on the layout
	calls  [][]call // by function
	head   []byte
	data   []byte
}

type call struct{ at, to int }

func newProgram(functions int, seed uint64) *program {
	r := rand.New(rand.NewPCG(seed, 1))
	p := &program{head: make([]byte, 0x1000), data: make([]byte, functions*40)}
	for i := range p.data {
		p.data[i] = byte(r.IntN(1 + i%97))
	}
	for range functions {
		body := make([]byte, 40+r.IntN(300))
		for i := range body {
			body[i] = byte(r.IntN(256) & r.IntN(256))
		}
		var calls []call
		for at := 8; at+12 < len(body); at += 9 + r.IntN(40) {
			calls = append(calls, call{at, r.IntN(functions)})
		}
		p.bodies, p.calls = append(p.bodies, body), append(p.calls, calls)
	}
	return p
}

// edit puts n bytes into a function.
func (p *program) edit(function, n int) {
	body := append([]byte(nil), p.bodies[function][:4]...)
	for i := range n {
		body = append(body, byte(i*37))
	}
	p.bodies[function] = append(body, p.bodies[function][4:]...)
	for i := range p.calls[function] {
		p.calls[function][i].at += n
	}
}

// link lays the program out.
func (p *program) link() []byte {
	starts := make([]int, len(p.bodies))
	out := append([]byte(nil), p.head...)
	for i, b := range p.bodies {
		starts[i] = len(out)
		out = append(out, b...)
		for len(out)%32 != 0 {
			out = append(out, 0xCC)
		}
	}
	for i, calls := range p.calls {
		for _, c := range calls {
			at := starts[i] + c.at
			out[at] = 0xE8
			binary.LittleEndian.PutUint32(out[at+1:], uint32(starts[c.to]-at-5))
		}
	}
	out = append(out, p.data...)
	for i, s := range starts {
		out = binary.LittleEndian.AppendUint32(out, uint32(s-0x1000))
		out = binary.LittleEndian.AppendUint32(out, uint32(i*24))
	}
	for _, s := range starts {
		out = binary.LittleEndian.AppendUint64(out, uint64(0x400000+s))
	}
	return out
}

// edited returns two layouts of a program, before and after an edit in its middle.
func edited(functions int) (old, newer []byte) {
	p := newProgram(functions, 7)
	old = p.link()
	p.edit(functions/2, 40)
	return old, p.link()
}
