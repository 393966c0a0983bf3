package proc

import (
	"os"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// The program goes on as before, and less of its file is in its memory.
func TestDropText(t *testing.T) {
	if os.Getenv("DROP_TEXT") == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestDropText$", "-test.v")
		cmd.Env = append(os.Environ(), "DROP_TEXT=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	had := fileMemory(t)
	n, err := DropText()
	if err != nil || n <= 0 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if has := fileMemory(t); has >= had {
		t.Errorf("%d kB of files are in memory, before it was %d", has, had)
	}
	if out, err := exec.Command("true").CombinedOutput(); err != nil {
		t.Errorf("%s %v", out, err)
	}
}

// fileMemory is what of files is mapped and in memory, in kB.
func fileMemory(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "RssFile:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestMappings(t *testing.T) {
	got := mappings(`00400000-01b6e000 r-xp 00000000 fe:00 1234                               /opt/a program
Size:              24000 kB
Rss:                2560 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
7f00-7f10 rw-p 00000000 00:00 0
Rss:                   4 kB
Anonymous:             4 kB
`)
	want := []mapping{{from: 0x400000, to: 0x1b6e000, perms: "r-xp", path: "/opt/a program", resident: 2560 << 10}, {from: 0x7f00, to: 0x7f10, perms: "rw-p", resident: 4 << 10, changed: true}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got := mappings("Rss: 4 kB\nzz-1 r--p\n"); got != nil {
		t.Errorf("%+v", got)
	}
}
