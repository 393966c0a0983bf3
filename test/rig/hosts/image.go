//go:build linux

package hosts

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// suite is the Debian release that the hosts run: the stable one of the time.
const suite = "trixie"

// packages are what a small server has; everything else a test brings along.
var packages = []string{
	"systemd", "systemd-sysv", "dbus", "openssh-server", "iproute2", "libpam-systemd", "procps", "ca-certificates", "sudo",
}

// finish makes the image that of no host in particular, and keeps hosts from working for themselves while a test measures:
// Debian's daily jobs would start at an hour of their own. The journal outlives a power cut, as it does on a server.
const finish = `set -e
cd "$1"
rm -f etc/ssh/ssh_host_* etc/resolv.conf etc/hostname etc/machine-id
mkdir -p var/log/journal root/.ssh
chmod 700 root/.ssh
chroot . useradd --create-home --shell /bin/bash deploy
mkdir -m 700 home/deploy/.ssh
chroot . chown deploy:deploy /home/deploy/.ssh
echo 'deploy ALL=(ALL) NOPASSWD: ALL' >etc/sudoers.d/deploy
chmod 440 etc/sudoers.d/deploy
echo 'LANG=C.UTF-8' >etc/default/locale
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer; do
	ln -sf /dev/null "etc/systemd/system/$unit"
done
`

const (
	makeWithin = 10 * time.Minute
	unusedFor  = 30 * 24 * time.Hour // an image of an old recipe goes after this time
)

// cacheDir is where images and the records of living fleets are kept.
func cacheDir(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "fairlead", "test", "hosts")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// image returns the folder of the tree that all hosts share and none writes to. It is made when there is none of this
// recipe yet; a second test that wants it meanwhile waits.
func image(t testing.TB) string {
	t.Helper()
	cache := cacheDir(t)
	recipe := sha256.Sum256([]byte(strings.Join(append([]string{suite, runtime.GOARCH, finish}, packages...), "\x00")))
	dir := filepath.Join(cache, fmt.Sprintf("image-%x", recipe[:8]))
	lock, err := lockFile(filepath.Join(cache, "image.lock"), unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err == nil {
		return dir
	}
	if err := tidyImages(cache, now); err != nil {
		t.Fatal(err)
	}
	making, err := os.MkdirTemp(cache, "image-*.making")
	if err != nil {
		t.Fatal(err)
	}
	if err := makeImage(t, making); err != nil {
		rig.Missing(t, "no image for the hosts: %v", err)
	}
	if err := errors.Join(os.Chmod(making, 0o755), os.Chtimes(making, now, now), os.Rename(making, dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tidyImages removes what a killed run half made, and images that nobody used for long. The caller holds the lock.
func tidyImages(cache string, now time.Time) error {
	images, err := filepath.Glob(filepath.Join(cache, "image-*"))
	if err != nil {
		return err
	}
	for _, path := range images {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".making") || now.Sub(info.ModTime()) > unusedFor {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeImage runs mmdebstrap in namespaces of its own, so that nothing of it runs or stays mounted once this process is gone.
func makeImage(t testing.TB, dir string) error {
	tool := rig.Tool(t, "mmdebstrap", "mmdebstrap")
	mirror, err := mirror(t)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // Pdeathsig means the death of this thread
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithTimeout(t.Context(), makeWithin)
	defer cancel()
	began := time.Now()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
		tool, "--mode=root", "--variant=minbase", "--include="+strings.Join(packages, ","),
		"--aptopt=Acquire::Retries \"3\"", "--aptopt=Acquire::Languages \"none\"",
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
		"--customize-hook="+finish, suite, dir, mirror)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 10 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mmdebstrap %s from %s: %w\n%s", suite, mirror, err, out[max(0, len(out)-4<<10):])
	}
	t.Logf("image of Debian %s made in %s", suite, time.Since(began).Round(time.Second))
	return nil
}

// mirror is where this machine takes its own packages from.
func mirror(t testing.TB) (string, error) {
	out, err := rig.Command(t, "", nil, "apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(ORIGIN)", "Created-By: Packages")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) == 3 && words[2] == "Debian" && !strings.Contains(words[1], "-") { // not -security, not -updates
			return words[0], nil
		}
	}
	return "", errors.New("apt-get knows no mirror of Debian, or has not fetched its lists")
}

// lockFile opens a file and takes a lock on it, which ends when the file is closed or the process dies.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
	}
}
