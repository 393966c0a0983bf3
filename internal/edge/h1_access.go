//go:build unix

package edge

// told implements [teller] for what the edge read itself.
func (a *reply) told(ex *exchange) told {
	c := a.c
	t := told{method: c.head.first, host: c.host, target: c.head.second, version: "1.1", client: c.peer, trace: c.head.Get("traceparent"), body: ex.upload.Load()}
	if ex.in != nil {
		t.client = ex.route.client(ex.in)
	}
	if c.tls != nil {
		t.tls = c.tls.Version
	}
	return t
}

// header implements [teller].
func (a *reply) header(name string, i int) (string, bool) {
	for _, x := range a.c.head.fields {
		if same(x.name, name) {
			if i == 0 {
				return x.value, true
			}
			i--
		}
	}
	return "", false
}
