package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"

	"golang.org/x/sync/singleflight"

	"github.com/fairlead-dev/fairlead/internal/home"
)

func (l Layout) memoPath(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(l.Dir, ".memo", hex.EncodeToString(sum[:16])+".json")
}

// Recall fills v from the memo that was made for key, and reports whether there is one. Memos lie beside a layout's blobs:
// what was made of which inputs. Losing one costs time and nothing else.
func (l Layout) Recall(key string, v any) bool { return home.ReadJSON(l.memoPath(key), v) == nil }

// Remember writes a memo for key, in place of an older one.
func (l Layout) Remember(key string, v any) error {
	path := l.memoPath(key)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return noSpace(err)
	}
	return noSpace(home.WriteJSON(path, v, 0o644))
}

// layers are those that are being made in this process.
var layers singleflight.Group

// memoLayer returns the layer made before for key, if its blob is still there, or makes it; who asks for one that is being
// made gets that one.
func (l Layout) memoLayer(key string, write func() (Layer, error)) (Layer, error) {
	made, err, _ := layers.Do(l.Dir+"\x00"+key, func() (any, error) {
		var layer Layer
		if l.Recall(key, &layer) && l.Has(layer.Descriptor) {
			return layer, nil
		}
		layer, err := write()
		if err != nil {
			return layer, err
		}
		return layer, l.Remember(key, layer)
	})
	return made.(Layer), err
}

func keyOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // keys are made of plain values
	}
	return string(b)
}
