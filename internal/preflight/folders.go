package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// volume is the room where a folder lies.
type volume struct {
	free   int64
	inodes int64  // free ones; -1 where the file system does not count them
	device uint64 // names the file system
}

func checkFolders(_ context.Context, r *run) []Finding {
	temp := r.tempDir()
	out := []Finding{checkTemp(temp)}
	if r.Dirs.State != "" {
		out = append(out, checkState(r))
	}
	places := []place{{"state", r.Dirs.State}, {"temporary files", temp}}
	if env, err := r.goEnv(); err == nil && env.GOCACHE != "off" {
		places = append(places, place{"build cache", env.GOCACHE})
	}
	return append(out, checkDisk(places)...)
}

// tempDir is where the go command puts its work.
func (r *run) tempDir() string {
	for _, name := range []string{"GOTMPDIR", "TMPDIR"} {
		if d := r.getenv(name); d != "" {
			return d
		}
	}
	return os.TempDir()
}

// checkTemp writes a file: a mode says too little on a read-only or full disk.
func checkTemp(dir string) Finding {
	f, err := os.CreateTemp(dir, "fairlead-preflight-*")
	if err == nil {
		_, err = f.WriteString("x")
		err = errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	if err != nil {
		return Finding{ID: IDTemp, Severity: Error, Found: "cannot write a temporary file: " + err.Error(), Need: "a folder for temporary files",
			Fix: "type `export TMPDIR=FOLDER` with one that this user may write to"}
	}
	return Finding{ID: IDTemp, Severity: OK, Found: dir + " is writable"}
}

func checkState(r *run) Finding {
	for _, dir := range []string{r.Dirs.State, r.Dirs.Run} {
		at := existing(dir)
		fi, err := os.Stat(at)
		switch {
		case err != nil:
			return stateError(err.Error())
		case !fi.IsDir():
			return stateError(at + " is not a folder")
		}
		if err := writable(at); err != nil {
			return stateError(fmt.Sprintf("this user may not write to %s: %v", at, err))
		}
		if shut := closed(filepath.Dir(r.Dirs.State)); shut != "" && os.Geteuid() == 0 {
			return Finding{ID: IDState, Severity: Error, Found: "only root may pass through " + shut,
				Need: "a way for the services' own users to their programs", Fix: "type `chmod o+x " + shut + "`, or choose another FAIRLEAD_DIR"}
		}
		if at != filepath.Clean(dir) {
			return Finding{ID: IDState, Severity: Info, Found: dir + " is not there yet; `fairlead up` makes it", Fixable: true}
		}
	}
	return Finding{ID: IDState, Severity: OK, Found: r.Dirs.State + " is writable"}
}

// closed returns the first folder at or above dir that other users may not pass through, "" when there is none.
func closed(dir string) string {
	for dir = existing(dir); ; dir = filepath.Dir(dir) {
		if fi, err := os.Stat(dir); err == nil && fi.Mode().Perm()&0o001 == 0 {
			return dir
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

func stateError(found string) Finding {
	return Finding{ID: IDState, Severity: Error, Found: found, Need: "a folder of this user for fairlead's state",
		Fix: "type `export FAIRLEAD_DIR=FOLDER` with one that this user may write to"}
}

// existing returns the nearest folder at or above dir that is there.
func existing(dir string) string {
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
	}
}

// place is a folder with what it is used for.
type place struct{ use, dir string }

// checkDisk gives one finding for each file system, which names everything that lies on it.
func checkDisk(places []place) []Finding {
	uses := map[uint64][]string{}
	volumes := map[uint64]volume{}
	var order []uint64
	for _, p := range places {
		if p.dir == "" {
			continue
		}
		v, err := space(existing(p.dir))
		if err != nil {
			continue // not known on this system; a missing folder was found by the other checks
		}
		if _, seen := volumes[v.device]; !seen {
			order = append(order, v.device)
		}
		volumes[v.device] = v
		uses[v.device] = append(uses[v.device], p.use+" "+p.dir)
	}
	var out []Finding
	for _, dev := range order {
		out = append(out, judgeDisk(strings.Join(uses[dev], ", "), volumes[dev]))
	}
	return out
}

func judgeDisk(uses string, v volume) Finding {
	f := Finding{ID: IDDisk, Severity: OK, Found: fmt.Sprintf("%s free for %s", size(v.free), uses)}
	const clean = "free some space there; `go clean -cache` empties the build cache"
	switch {
	case v.free < leastDisk:
		f.Severity, f.Need, f.Fix = Error, size(leastDisk)+", better "+size(wantDisk), clean
	case v.inodes >= 0 && v.inodes < leastInodes:
		f.Severity, f.Found = Error, fmt.Sprintf("%d inodes free for %s", v.inodes, uses)
		f.Need, f.Fix = fmt.Sprintf("%d, better %d", leastInodes, wantInodes), "remove small files there"
	case v.free < wantDisk:
		f.Severity, f.Need, f.Fix = Warning, size(wantDisk), clean
	case v.inodes >= 0 && v.inodes < wantInodes:
		f.Severity, f.Found = Warning, fmt.Sprintf("%d inodes free for %s", v.inodes, uses)
		f.Need, f.Fix = fmt.Sprint(wantInodes), "remove small files there"
	}
	return f
}
