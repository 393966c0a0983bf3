package preflight

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

func checkVCS(ctx context.Context, r *run) []Finding {
	// Without the optional lock a look does not get in the way of the user's own git.
	env := append(slices.Clone(r.Environ), "GIT_OPTIONAL_LOCKS=0", "LC_ALL=C")
	return []Finding{judgeVCS(command(ctx, r.Dir, env, "git", "status", "--porcelain=v1", "-z", "--untracked-files=normal"))}
}

// judgeVCS reads the answer of git status.
func judgeVCS(out, stderr string, err error) Finding {
	first, _, _ := strings.Cut(strings.TrimSpace(stderr), "\n")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return Finding{ID: IDDirty, Severity: Info, Found: "no git on PATH: the release will not name its commit"}
	case err != nil && strings.Contains(stderr, "not a git repository"):
		return Finding{ID: IDDirty, Severity: Info, Found: "not a git repository: the release will not name its commit", Fix: "type `git init` and commit"}
	case err != nil && strings.Contains(stderr, "dubious ownership"):
		return Finding{ID: IDDirty, Severity: Warning, Found: "git refuses to read the repository: it belongs to another user",
			Need: "a repository of this user", Fix: "type `git config --global --add safe.directory FOLDER`"}
	case err != nil:
		return Finding{ID: IDDirty, Severity: Warning, Found: fmt.Sprintf("git status: %v: %s", err, first)}
	}
	changed, untracked := parseStatus(out)
	files := append(changed, untracked...)
	if len(files) == 0 {
		return Finding{ID: IDDirty, Severity: OK, Found: "the working tree is as committed"}
	}
	return Finding{ID: IDDirty, Severity: Warning,
		Found: fmt.Sprintf("%d changed and %d untracked: %s", len(changed), len(untracked), list(files)),
		Need:  "a committed tree, so that the release can be built again", Fix: "commit, or type `git stash -u` to put the changes aside"}
}

// parseStatus reads "XY PATH" fields ended by NUL; a renamed file is followed by a field with its old name.
func parseStatus(out string) (changed, untracked []string) {
	fields := strings.Split(out, "\x00")
	for i := 0; i < len(fields); i++ {
		f := fields[i]
		if len(f) < 4 {
			continue
		}
		if f[:2] == "??" {
			untracked = append(untracked, f[3:])
			continue
		}
		changed = append(changed, f[3:])
		if strings.ContainsAny(f[:2], "RC") {
			i++
		}
	}
	return changed, untracked
}

// list names up to five.
func list(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
