// Package build makes static, reproducible programs out of a Go module, for every platform that is asked for, and looks
// at the results rather than trusting them.
package build

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/lockedfile"
	"golang.org/x/crypto/blake2b"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/inspect"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Params say what to build.
type Params struct {
	Dir       string              // the service's folder, inside a Go module
	Build     spec.Build          // of the spec
	Name      string              // the program's file name
	Platforms []platform.Platform // none: this machine's
	Cache     string              // folder for outputs; "" for the user's cache folder
	Go        string              // the go command; "" for the one on PATH
	Fresh     string              // folder for an empty build cache of Go; "" for the user's, which is warm
	Reading   *sync.WaitGroup     // who reads programs since [EventLinked]; the files stay locked until they are done
}

// Output is what was built. The files lie in the cache and stay locked against other builds until Close.
type Output struct {
	Source    Source
	GoVersion string  // of the toolchain that made the programs, as they say themselves
	Builds    []Built // one a platform, in the order they were asked for
	unlock    []func()
}

// Close lets other builds of the same service write the files again.
func (o *Output) Close() {
	for _, f := range o.unlock {
		f()
	}
	o.unlock = nil
}

// Built is the programs for one platform.
type Built struct {
	Platform platform.Platform
	Programs []Program // the service's own first, the others by name
	Args     []string  // of the go command for the first program, without where its output goes
	Env      []string  // what stood in the go command's environment beside the user's own
}

// Program is one built executable file.
type Program struct {
	Name      string // its file name
	Path      string // where it lies now
	Main      string // import path of its main package
	Size      int64  // bytes
	Digest    string // blake2b:... as [Digest] writes it
	BuildID   string // Go's, which changes with the content; "" where it was switched off
	GoVersion string
}

// Run builds every program for every platform, as many at once as there are processors. A program that does not compile
// gives a [fail.Build] with the compiler's own lines, one that is not what was asked for a [fail.Build] that says what it
// is instead. The caller closes the output.
func Run(ctx context.Context, p Params, sink event.Sink) (*Output, error) {
	if p.Go == "" {
		p.Go = "go"
	}
	if len(p.Platforms) == 0 {
		p.Platforms = []platform.Platform{platform.Host()}
	}
	out := &Output{Source: Describe(ctx, p.Dir), Builds: make([]Built, len(p.Platforms))}
	var mu sync.Mutex
	j := &job{Params: p, source: out.Source, sink: func(e event.Event) {
		mu.Lock()
		defer mu.Unlock()
		sink.Send(e)
	}}
	mains, err := j.mains(ctx, p.Platforms[0])
	if err != nil {
		return nil, err
	}
	j.sink.Send(event.Event{Type: "build", Text: fmt.Sprintf("build %s for %s", mains[0].ImportPath, j.platforms())})
	if out.unlock, err = j.lock(); err != nil {
		return nil, err
	}
	if p.Reading != nil {
		out.unlock = append([]func(){p.Reading.Wait}, out.unlock...)
	}
	if err := j.all(ctx, out.Builds); err != nil {
		out.Close()
		return nil, err
	}
	out.GoVersion = out.Builds[0].Programs[0].GoVersion
	j.sink.Send(event.Event{Type: "build", Text: fmt.Sprintf("built %s %s (%s)", p.Name, out.Source.Version, out.GoVersion), Data: out.Builds})
	return out, nil
}

// job is one run.
type job struct {
	Params
	source Source
	sink   event.Sink
}

func (j *job) platforms() string {
	var names []string
	for _, p := range j.Platforms {
		names = append(names, p.String())
	}
	return strings.Join(names, ", ")
}

// all builds the platforms side by side. The first error ends the others, which would only repeat it.
func (j *job) all(ctx context.Context, builds []Built) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	errs := make([]error, len(builds))
	var first sync.Once
	var cause error
	var wg sync.WaitGroup
	for i, pl := range j.Platforms {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if ctx.Err() != nil {
				return
			}
			if builds[i], errs[i] = j.one(ctx, pl); errs[i] != nil {
				first.Do(func() {
					cause = errs[i]
					cancel()
				})
			}
		})
	}
	wg.Wait()
	if len(builds) > 1 && fail.KindOf(cause) == fail.Build {
		for i, err := range errs {
			if err == cause { //nolint:errorlint // the same error, not one like it
				e := *fail.As(err)
				e.Op = strings.TrimSpace(j.Platforms[i].String() + " " + e.Op)
				return &e
			}
		}
	}
	if cause == nil {
		return context.Cause(ctx)
	}
	return cause
}

// one builds for one platform: the programs one after the other, because the second needs most of what the first made.
func (j *job) one(ctx context.Context, pl platform.Platform) (Built, error) {
	b := Built{Platform: pl}
	mains, err := j.mains(ctx, pl)
	if err != nil {
		return b, err
	}
	dir, err := j.outputDir(pl)
	if err != nil {
		return b, err
	}
	for i, m := range mains {
		args, env := j.args(m, pl), j.env(pl)
		if i == 0 {
			b.Args, b.Env = args, env
		}
		path := filepath.Join(dir, j.programName(m, pl))
		if err := j.compile(ctx, append([]string{"build", "-v", "-o", path}, args...), env, m.ImportPath); err != nil {
			return b, err
		}
		prog, err := linked(path)
		if err != nil {
			return b, err
		}
		prog.Name, prog.Main = m.Program, m.ImportPath
		b.Programs = append(b.Programs, prog)
	}
	j.sink.Send(event.Event{Type: EventLinked, Data: slices.Clone(b.Programs)})
	size := int64(0)
	for i := range b.Programs {
		if err := j.look(&b.Programs[i], pl); err != nil {
			return b, err
		}
		size += b.Programs[i].Size
	}
	j.sink.Send(event.Event{Type: "built", Text: fmt.Sprintf("%s (%.1f MB, %s, %s)", pl, float64(size)/1e6, j.linkage(), b.Programs[0].GoVersion), Data: b.Programs})
	return b, nil
}

func (j *job) linkage() string {
	if j.Build.Race {
		return "with the race detector"
	}
	return "static"
}

func (j *job) programName(m main, pl platform.Platform) string {
	if pl.OS == "windows" {
		return m.Program + ".exe"
	}
	return m.Program
}

// EventLinked is the type of the event that tells of a platform's programs, a []Program without digests, before they are
// looked at: what takes long can begin with them.
const EventLinked = "linked"

// memoFile keeps what was found out about a program, beside it.
const memoFile = ".memo.json"

// look inspects a built program, or recalls what it found when the program's Go build ID says that it is the same as
// last time: the ID's last part is a hash of the content (cmd/go/internal/work/buildid.go). The file's times say nothing,
// since the go command touches what it does not build again.
func (j *job) look(p *Program, pl platform.Platform) error {
	memos := map[string]Program{}
	memo := filepath.Join(filepath.Dir(p.Path), memoFile)
	if err := home.ReadJSON(memo, &memos); err != nil {
		memos = map[string]Program{} // it can be made again
	}
	if m, ok := memos[p.Path]; ok && p.BuildID != "" && m.BuildID == p.BuildID && m.Size == p.Size {
		p.Digest, p.GoVersion = m.Digest, m.GoVersion
		return nil
	}
	info, err := inspect.File(p.Path, inspect.Options{FileOnly: true})
	if err != nil {
		return err
	}
	if err := j.verify(info, pl); err != nil {
		return err
	}
	p.GoVersion = info.Go.Version
	if p.Digest, p.Size, err = Digest(p.Path); err != nil {
		return err
	}
	memos[p.Path] = *p
	return home.WriteJSON(memo, memos, 0o644)
}

// linked is what can be said of a program without reading it.
func linked(path string) (Program, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return Program{}, fail.New(fail.Build, "", "the go command left no program at %s: %w", path, err).Hinted("remove -o, -n and -buildmode from build.flags")
	}
	id, err := inspect.BuildID(path)
	if err != nil {
		id = ""
	}
	return Program{Path: path, BuildID: id, Size: fi.Size()}, nil
}

// outputDir is where the programs go: the same place for the same service, so that the go command sees when there is
// nothing to do.
func (j *job) outputDir(pl platform.Platform) (string, error) {
	cache := j.Cache
	if cache == "" {
		var err error
		if cache, err = home.Cache("build"); err != nil {
			return "", err
		}
	}
	dir, err := filepath.Abs(j.Dir)
	if err != nil {
		return "", err
	}
	name := strings.ReplaceAll(pl.String(), "/", "-")
	if j.Build.Race {
		name += "-race"
	}
	out := filepath.Join(cache, home.Key(dir+"\x00"+j.Build.Main), name)
	return out, os.MkdirAll(out, 0o755)
}

// lock keeps other builds of the service away. The folders are locked in one order, or two builds could wait for each other.
func (j *job) lock() ([]func(), error) {
	var dirs []string
	for _, pl := range j.Platforms {
		d, err := j.outputDir(pl)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, d)
	}
	sort.Strings(dirs)
	var held []func()
	for i, d := range dirs {
		if i > 0 && d == dirs[i-1] {
			continue
		}
		unlock, err := lockedfile.MutexAt(filepath.Join(d, ".lock")).Lock()
		if err != nil {
			(&Output{unlock: held}).Close()
			return nil, err
		}
		held = append(held, unlock)
	}
	return held, nil
}

// Digest returns a file's BLAKE2b-512 (RFC 7693) as blake2b:HEX, which the b2sum command prints, and its size in bytes. On a
// processor without instructions for SHA-256 it takes a quarter of that one's time, and every byte of a program goes through
// SHA-256 twice already, for the digests that OCI asks for.
func Digest(path string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	h, err := blake2b.New512(nil)
	if err != nil {
		panic(err) // only a key can be wrong
	}
	n, err := io.Copy(h, f)
	return "blake2b:" + hex.EncodeToString(h.Sum(nil)), n, errors.Join(err, f.Close())
}
