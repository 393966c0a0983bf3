package agent

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/fairlead-dev/fairlead/internal/depot"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/rpc"
)

// offer takes a bundle's documents, verifies them and says what is missing.
func (a *Agent) offer(r *http.Request) (any, error) {
	o, err := rpc.Decode[depot.Offer](r)
	if err != nil {
		return nil, err
	}
	_, policy, err := a.depot.Policy()
	if err != nil {
		return nil, err
	}
	w, err := a.depot.Take(r.Context(), o, policy)
	return w, noSpace(err)
}

// putLayer takes a layer with programs. It gets its name only when it is whole and has the digest.
func (a *Agent) putLayer(r *http.Request) (any, error) {
	h, err := v1.NewHash(r.PathValue("digest"))
	if err != nil {
		return nil, fail.New(fail.Usage, "", "%q is not a sha256 digest", r.PathValue("digest"))
	}
	err = a.depot.Put(r.Context(), depot.Parcel{DiffID: h, Form: r.FormValue("form"), Base: r.FormValue("base"), Body: r.Body})
	return struct{}{}, noSpace(err)
}

func (a *Agent) setPolicy(r *http.Request) (any, error) {
	p, err := rpc.Decode[depot.Policy](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.depot.SetPolicy(p)
}

// pruneArtifacts removes artifacts that no release uses any more.
func (a *Agent) pruneArtifacts() {
	var used []string
	envs, err := a.journal.Environments(a.ctx)
	if err != nil {
		return
	}
	for _, e := range envs {
		all, err := a.journal.Releases(a.ctx, e.Service, e.Environment)
		if err != nil {
			return
		}
		for _, r := range all {
			used = append(used, r.Artifact.Digest)
		}
	}
	if err := a.depot.Prune(used); err != nil {
		a.log.Error("cannot remove artifacts", "error", err)
	}
}

// noSpace says what to do about a full disk.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fail.New(fail.Preflight, "receive the artifact", "%w", err).
			Hinted("free some space on the disk of fairlead's state (`fairlead check` names it); nothing was changed")
	}
	return err
}

// mkdirs makes a folder below the state; the services' part may be walked through by their users.
func mkdirs(d home.Dirs, path string) error {
	mode := os.FileMode(0o700)
	if rel, err := filepath.Rel(filepath.Join(d.State, "services"), path); err == nil && filepath.IsLocal(rel) {
		mode = 0o711
	}
	return os.MkdirAll(path, mode)
}
