package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/mod/semver"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Push sends the bundle at root with all that hangs on it, and calls it by the tags when everything is there.
func (r *Remote) Push(ctx context.Context, from bundle.Layout, root v1.Descriptor, tags []string) error {
	manifests, err := r.transfer(ctx, from, root, "send ", func(ctx context.Context, b v1.Descriptor) error { return r.send(ctx, b, from) })
	if err != nil {
		return err
	}
	for _, m := range manifests {
		if err := r.sendManifest(ctx, m, from); err != nil {
			return r.explain("send "+m.Digest.String(), err)
		}
	}
	var body []byte
	if err := bundle.Document(ctx, from, root, &body); err != nil {
		return err
	}
	for _, t := range tags {
		if _, err := r.putManifest(ctx, t, root.MediaType, body); err != nil {
			return r.explain("tag "+t, err)
		}
	}
	return nil
}

// pushed remembers, beside the layout, where a blob is and where an upload of it broke off.
type pushed struct {
	Repository string `json:"repository,omitempty"` // one that has it
	Upload     string `json:"upload,omitempty"`     // address to go on at
}

func (r *Remote) memo(d v1.Descriptor, what string) string {
	return "push\x00" + what + "\x00" + r.ref.repo.RegistryStr() + "\x00" + d.Digest.String()
}

// send brings one blob to the registry: not at all where it is there, by a mount where another of its repositories has it,
// in chunks otherwise.
func (r *Remote) send(ctx context.Context, d v1.Descriptor, from bundle.Layout) error {
	has, err := r.has(ctx, d)
	if err != nil {
		return err
	}
	var known pushed
	from.Recall(r.memo(d, ""), &known)
	if !has && known.Repository != "" && known.Repository != r.ref.repo.RepositoryStr() {
		if has, err = r.mount(ctx, d, known.Repository); err != nil {
			return err
		}
	}
	if has {
		r.progress(d.Size)
		return nil
	}
	if err := r.upload(ctx, d, from); err != nil {
		return err
	}
	return from.Remember(r.memo(d, ""), pushed{Repository: r.ref.repo.RepositoryStr()})
}

func (r *Remote) has(ctx context.Context, d v1.Descriptor) (bool, error) {
	has := false
	err := retry(ctx, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodHead, r.url("blobs", d.Digest.String()), nil)
		if err != nil {
			return err
		}
		res, err := r.do(req, http.StatusOK, http.StatusNotFound)
		if err != nil {
			return err
		}
		has = res.StatusCode == http.StatusOK
		return res.Body.Close()
	})
	return has, err
}

// mount asks the registry to take the blob from another of its repositories; it may decline, and then begins an upload
// that is left to expire.
func (r *Remote) mount(ctx context.Context, d v1.Descriptor, repository string) (bool, error) {
	q := url.Values{"mount": {d.Digest.String()}, "from": {repository}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url("blobs", "uploads", "?"+q.Encode()), nil)
	if err != nil {
		return false, err
	}
	res, err := r.do(req, http.StatusCreated, http.StatusAccepted)
	if _, refused := errors.AsType[*problem](err); refused {
		return false, nil // not allowed to look there: then it is sent
	}
	if err != nil {
		return false, err
	}
	return res.StatusCode == http.StatusCreated, res.Body.Close()
}

// chunk is how much of a blob one request brings, in bytes: so much is sent again at worst when the network fails.
const chunk = 8 << 20

// upload sends a blob in chunks and goes on, also in another run, where the registry says that it has come to.
func (r *Remote) upload(ctx context.Context, d v1.Descriptor, from bundle.Layout) error {
	u := &upload{r: r, d: d, from: from, key: r.memo(d, r.ref.repo.RepositoryStr())}
	var known pushed
	if from.Recall(u.key, &known) && known.Upload != "" {
		u.at = known.Upload
		if u.ask(ctx) != nil {
			u.at, u.offset = "", 0 // it expired
		}
		r.progress(u.offset)
	}
	if err := retry(ctx, func() error { return u.run(ctx) }); err != nil {
		return err
	}
	return from.Remember(u.key, pushed{})
}

type upload struct {
	r      *Remote
	d      v1.Descriptor
	from   bundle.Layout
	key    string
	at     string // where the next chunk goes
	offset int64
	failed bool
}

// run goes on with the upload until it is done or fails. One that the registry has forgotten meanwhile begins anew, once.
func (u *upload) run(ctx context.Context) error {
	err := u.goOn(ctx)
	if p, ok := errors.AsType[*problem](err); ok && p.status == http.StatusNotFound && u.offset > 0 {
		u.r.progress(-u.offset)
		u.at, u.offset = "", 0
		err = u.goOn(ctx)
	}
	return err
}

func (u *upload) goOn(ctx context.Context) error {
	if u.failed && u.at != "" && u.ask(ctx) != nil {
		u.at, u.offset = "", 0
	}
	u.failed = true
	if u.at == "" {
		if err := u.begin(ctx); err != nil {
			return err
		}
	}
	in, err := u.from.Open(ctx, u.d)
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := in.(io.Seeker).Seek(u.offset, io.SeekStart); err != nil {
		return err
	}
	buf := make([]byte, min(chunk, u.d.Size))
	for u.offset < u.d.Size {
		n, err := io.ReadFull(in, buf[:min(int64(len(buf)), u.d.Size-u.offset)])
		if err != nil {
			return err
		}
		if err := u.patch(ctx, buf[:n]); err != nil {
			return err
		}
	}
	return u.finish(ctx)
}

func (u *upload) begin(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.r.url("blobs", "uploads", ""), nil)
	if err != nil {
		return err
	}
	res, err := u.r.do(req, http.StatusAccepted)
	if err != nil {
		return err
	}
	return errors.Join(u.follow(res), res.Body.Close())
}

// follow notes where the registry wants what comes next.
func (u *upload) follow(res *http.Response) error {
	l, err := res.Location()
	if err != nil {
		return fmt.Errorf("the registry does not say where the upload goes: %w", err)
	}
	u.at = l.String()
	return u.from.Remember(u.key, pushed{Upload: u.at})
}

func (u *upload) patch(ctx context.Context, b []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, u.at, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Content-Range", fmt.Sprintf("%d-%d", u.offset, u.offset+int64(len(b))-1))
	res, err := u.r.do(req, http.StatusAccepted, http.StatusNoContent)
	if err != nil {
		return err
	}
	u.offset += int64(len(b))
	u.r.progress(int64(len(b)))
	return errors.Join(u.follow(res), res.Body.Close())
}

// ask asks the registry how much it has.
func (u *upload) ask(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.at, nil)
	if err != nil {
		return err
	}
	res, err := u.r.do(req, http.StatusNoContent)
	if err != nil {
		return err
	}
	_, last, ok := strings.Cut(res.Header.Get("Range"), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || n >= u.d.Size {
		return fmt.Errorf("the registry says it has the bytes %q", res.Header.Get("Range"))
	}
	if u.offset = n + 1; n == 0 {
		u.offset = 0 // "0-0" is what registries say of nothing, too
	}
	return errors.Join(u.follow(res), res.Body.Close())
}

func (u *upload) finish(ctx context.Context) error {
	at, err := url.Parse(u.at)
	if err != nil {
		return err
	}
	q := at.Query()
	q.Set("digest", u.d.Digest.String())
	at.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, at.String(), http.NoBody)
	if err != nil {
		return err
	}
	res, err := u.r.do(req, http.StatusCreated)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// sendManifest puts a manifest under its digest. One about a subject is also listed for registries that do not list it
// themselves.
func (r *Remote) sendManifest(ctx context.Context, d v1.Descriptor, from bundle.Layout) error {
	var body []byte
	if err := bundle.Document(ctx, from, d, &body); err != nil {
		return err
	}
	listed, err := r.putManifest(ctx, d.Digest.String(), d.MediaType, body)
	if err != nil || listed {
		return err
	}
	var m v1.Manifest
	if err := json.Unmarshal(body, &m); err != nil || m.Subject == nil {
		return err
	}
	d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations
	return r.list(ctx, m.Subject.Digest, d)
}

// putManifest reports whether the registry says that it lists the manifest among its subject's referrers.
func (r *Remote) putManifest(ctx context.Context, ref string, mediaType types.MediaType, body []byte) (listed bool, err error) {
	err = retry(ctx, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, r.url("manifests", ref), bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", string(mediaType))
		res, err := r.do(req, http.StatusCreated, http.StatusOK, http.StatusAccepted)
		if err != nil {
			return err
		}
		listed = res.Header.Get("OCI-Subject") != ""
		return res.Body.Close()
	})
	return listed, err
}

// list adds a referrer to the list under the fallback tag. Two that do this at the same instant may lose one of both: the
// specification knows no lock. The next push puts it right.
func (r *Remote) list(ctx context.Context, subject v1.Hash, d v1.Descriptor) error {
	x, err := r.fallback(ctx, subject)
	if err != nil {
		return err
	}
	for _, m := range x.Manifests {
		if m.Digest == d.Digest {
			return nil
		}
	}
	x.SchemaVersion, x.MediaType = 2, types.OCIImageIndex
	x.Manifests = append(x.Manifests, d)
	body, err := json.Marshal(x)
	if err != nil {
		return err
	}
	_, err = r.putManifest(ctx, fallbackTag(subject), types.OCIImageIndex, body)
	return err
}

// Newer returns the version that a moving tag (latest, X.Y) names now, if that is newer than version; else "".
func (r *Remote) Newer(ctx context.Context, tag, version string) (string, error) {
	if tag != "latest" && !minor.MatchString(tag) || !semver.IsValid(version) {
		return "", nil
	}
	_, b, err := r.manifest(ctx, tag)
	if p, ok := errors.AsType[*problem](err); ok && (p.status == http.StatusNotFound || p.status == http.StatusForbidden) {
		return "", nil
	}
	if err != nil {
		return "", r.explain("look at the tag "+tag, err)
	}
	var x v1.IndexManifest
	if err := json.Unmarshal(b, &x); err != nil {
		return "", fail.New(fail.Preflight, "", "what the tag %s names cannot be read: %w", tag, err)
	}
	has := x.Annotations["org.opencontainers.image.version"]
	if semver.Prerelease(has) == "" && semver.Compare(has, version) > 0 {
		return has, nil
	}
	return "", nil
}

// minor is the tag of a minor version.
var minor = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)
