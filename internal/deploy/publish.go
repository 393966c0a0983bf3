package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/delta"
	"github.com/fairlead-dev/fairlead/internal/depot"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

// When a machine is sent only what changed.
const (
	DeltaAuto   = "auto"   // where sending takes longer than finding out what changed: not to this machine itself
	DeltaAlways = "always" // whenever there is something to start from
	DeltaNever  = "never"
)

// deltaWorth is the share of the whole above which a delta is not worth its making.
const deltaWorth = 0.2

// publish gives the machine the artifact: its documents, which it verifies first, and of the programs what it lacks.
func (d Deploy) publish(ctx context.Context, c *api.Client, m *Made) error {
	offer, err := depot.NewOffer(ctx, m.Layout, m.Index)
	if err != nil {
		return err
	}
	wanted, err := c.Offer(ctx, offer)
	if err != nil || wanted.Has {
		return err
	}
	return d.send(ctx, c, m, wanted)
}

// send brings the programs: as a delta where that is small, else as they lie in the image.
func (d Deploy) send(ctx context.Context, c *api.Client, m *Made, w depot.Wanted) error {
	whole := w.Layer.Size
	sent := func(n int64, how string) {
		d.Events.Send(event.Event{Type: "publish", Done: n, Total: whole,
			Text: fmt.Sprintf("sent %.2f of %.1f MB %s(%s)", float64(n)/1e6, float64(whole)/1e6, how, w.Platform), Data: map[string]any{"bytes": n, "whole": whole, "delta": how != ""}})
	}
	if d.Delta == DeltaAlways {
		patch, base, err := m.delta(ctx, w)
		if err != nil {
			return err
		}
		if patch != nil {
			err := c.PutLayer(ctx, depot.Parcel{DiffID: w.Layer.DiffID, Form: depot.Delta, Base: base, Body: bytes.NewReader(patch)})
			if err == nil {
				sent(int64(len(patch)), "as a delta ")
				return nil
			}
			if k := fail.KindOf(err); k != fail.Preflight && k != fail.NotFound {
				return err
			}
			d.Events.Send(event.Event{Type: "publish", Level: event.Warn, Text: "the delta did not apply, sending the whole: " + err.Error()})
		}
	}
	in, err := m.Layout.Open(ctx, w.Layer.Descriptor)
	if err != nil {
		return err
	}
	defer in.Close()
	form := map[string]string{bundle.Zstd: depot.Zstd, bundle.Gzip: depot.Gzip}[bundle.Compression(w.Layer.MediaType)]
	if err := c.PutLayer(ctx, depot.Parcel{DiffID: w.Layer.DiffID, Form: form, Body: in}); err != nil {
		return err
	}
	sent(whole, "")
	return nil
}

// delta makes a patch from a layer that both sides have. There may be none, or none that is worth it. Several machines that lack the
// same have it made once.
func (m *Made) delta(ctx context.Context, w depot.Wanted) ([]byte, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := fmt.Sprint(w.Layer.DiffID, w.Bases)
	if p, ok := m.patches[key]; ok {
		return p.bytes, p.base, nil
	}
	b, base, err := m.patch(ctx, w)
	if err == nil {
		if m.patches == nil {
			m.patches = map[string]patch{}
		}
		m.patches[key] = patch{b, base}
	}
	return b, base, err
}

// patch is what leads from a layer to the one that was made; no bytes where there is none.
type patch struct {
	bytes []byte
	base  string
}

func (m *Made) patch(ctx context.Context, w depot.Wanted) (patch []byte, base string, err error) {
	old, base, err := m.common(ctx, w)
	if err != nil || old == nil {
		return nil, "", err
	}
	var next bytes.Buffer
	if err := bundle.CheckLayer(ctx, m.Layout, w.Layer, &next); err != nil {
		return nil, "", err
	}
	patch, err = delta.Make(ctx, old, next.Bytes(), int64(deltaWorth*float64(next.Len())))
	if errors.Is(err, delta.ErrTooBig) || err == nil && int64(len(patch)) >= w.Layer.Size {
		return nil, "", nil
	}
	return patch, base, err
}

// common is the newest layer of programs that the machine has and this user's store has, too.
func (m *Made) common(ctx context.Context, w depot.Wanted) ([]byte, string, error) {
	x, err := m.Layout.Index()
	if err != nil {
		return nil, "", err
	}
	ours := map[string]bundle.Layer{}
	for _, d := range x.Manifests {
		var index v1.IndexManifest
		if d.ArtifactType != "" || bundle.Document(ctx, m.Layout, d, &index) != nil {
			continue
		}
		for _, img := range index.Manifests {
			if p, err := bundle.ReadPrograms(ctx, m.Layout, img); err == nil {
				ours[p.Layer.DiffID.String()] = p.Layer
			}
		}
	}
	for _, base := range w.Bases {
		l, ok := ours[base]
		if !ok {
			continue
		}
		var old bytes.Buffer
		if err := bundle.CheckLayer(ctx, m.Layout, l, io.Writer(&old)); err == nil {
			return old.Bytes(), base, nil
		}
	}
	return nil, "", nil
}
