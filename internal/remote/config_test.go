package remote

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// home is a person's home with a configuration and other files.
func home(t *testing.T, config string, files ...string) Options {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, ".ssh", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("config", config)
	for i := 0; i < len(files); i += 2 {
		write(files[i], files[i+1])
	}
	return Options{Config: filepath.Join(dir, ".ssh", "config"), Getenv: func(name string) string {
		return map[string]string{"HOME": dir, "SOME_DIR": "/some/dir"}[name]
	}}
}

// cases are configurations that ssh(1) and we must read alike, for these hosts.
var cases = map[string]string{
	"empty":       "",
	"first wins":  "Host web*\n User a\n Port 1001\nHost web1\n User b\n HostName real\nHost *\n User c\n HostName %h.example.com\n",
	"equals":      "host=web1\n\tUser = a\n\tPort=1001 # a comment\n\tHostName=\"real\"\n",
	"patterns":    "Host *.example.com !db.example.com\n User a\nHost web?\n User b\nHost ?\n User one\nHost !web1 *\n User c\n",
	"quoted":      "Host \"web1\"\n User a\nHost 'web2'\n User b\n",
	"tabs":        "Host\tother\tweb1\n\tUser\ta\n",
	"identities":  "Host web1\n IdentityFile ~/.ssh/a\n IdentityFile %d/%h-%p-%r-%n\nHost *\n IdentityFile ~/.ssh/a\n IdentityFile ${SOME_DIR}/c\n",
	"known":       "UserKnownHostsFile ~/a \"~/b c\"\nUserKnownHostsFile ~/d\nGlobalKnownHostsFile none\n",
	"jump":        "Host web1\n ProxyJump a@b:23,c\nHost web2\n ProxyJump none\nHost *\n ProxyJump far\n",
	"proxy first": "Host web1\n ProxyJump a\n ProxyCommand nc %h %p\n",
	"times":       "ConnectTimeout 1m30s\nServerAliveInterval 7\nServerAliveCountMax 9\n",
	"include":     "Include more/*.conf nothere\nHost *\n User last\n",
	"within":      "Host web1\n Include more/*.conf\nHost *\n User last\n",
	"within not":  "Host nobody\n Include more/*.conf\n User x\nHost *\n User last\n",
	"match":       "Host web1\n HostName real\nMatch host real\n User matched\nMatch originalhost web1,x user matched\n Port 1001\nMatch host web1\n Port 1002\nMatch all\n User all\n",
	"match not":   "Match !host web1\n User a\nMatch host *.example.com,!db.example.com\n User b\nMatch all\n User c\n",
	"match exec":  "Match host nobody exec \"exit 0\"\n User a\nMatch originalhost nobody2\n User b\n",
	"alias":       "HostKeyAlias Alias\nHashKnownHosts yes\nIdentitiesOnly yes\nStrictHostKeyChecking accept-new\nAddressFamily inet6\n",
	"case":        "HOST web1\n USER a\n hOSTNAME Real\n",
	"last line":   "User a\nHost web1\n Port 1001",
	"windows":     "Host web1\r\n User a\r\n Port 1001\r\n",
	"escaped":     "Host web1\n User a\\\\b\n IdentityFile \"~/with \\\" quote\"\n",
}

func TestConfigAsSSHReadsIt(t *testing.T) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("no ssh to compare with")
	}
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range cases {
		dir := t.TempDir()
		// ssh(1) takes ~ from the user database, whatever HOME says: included files have whole paths here.
		o := home(t, strings.ReplaceAll(text, "more/", dir+"/.ssh/more/"))
		for file, text := range map[string]string{"1.conf": "Host web1\n User more1\nHost db.example.com\n User more2\n",
			"2.conf": "Port 1009\nInclude more/deep\n", "deep": "Host *.example.com\n HostKeyAlias deep\n"} {
			if err := os.MkdirAll(dir+"/.ssh/more", 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(dir+"/.ssh/more/"+file, []byte(strings.ReplaceAll(text, "more/", dir+"/.ssh/more/")), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, host := range []string{"web1", "web2", "me@web1", "db.example.com", "www.example.com", "w"} {
			d, err := parseDestination(host)
			if err != nil {
				t.Fatal(err)
			}
			s, err := settle(o, d)
			if err != nil {
				t.Errorf("%s, %s: %v", name, host, err)
				continue
			}
			who, err := whoAmI(o.Getenv)
			if err != nil {
				t.Fatal(err)
			}
			c, err := readConfig(o, who, d)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), ssh, "-G", "-F", o.Config, host)
			cmd.Env = append(os.Environ(), "SOME_DIR=/some/dir")
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s, %s: ssh -G: %v", name, host, err)
			}
			compare(t, name+", "+host, flat(s, c, u.HomeDir), string(out))
		}
	}
}

// flat is what we read, as ssh -G writes it; of what the configuration does not say, nothing.
func flat(s *settings, c *config, home string) map[string]string {
	m := map[string]string{"user": s.user, "hostname": strings.ToLower(s.host), "port": s.port, "stricthostkeychecking": s.strict, "proxyjump": "",
		"addressfamily":  map[string]string{"tcp": "any", "tcp4": "inet", "tcp6": "inet6"}[s.network],
		"identitiesonly": map[bool]string{true: "yes", false: "no"}[s.only], "hashknownhosts": map[bool]string{true: "yes", false: "no"}[s.hashed]}
	var files, jumps []string
	for _, v := range c.values["identityfile"] {
		if !slices.Contains(files, v.word()) {
			files = append(files, v.word())
		}
	}
	if files != nil {
		m["identityfile"] = strings.Join(files, "\n")
	}
	for _, j := range s.jumps {
		jumps = append(jumps, j.String())
	}
	m["proxyjump"] = strings.Join(jumps, ",")
	if v := c.get("userknownhostsfile"); v.words != nil {
		m["userknownhostsfile"] = strings.ReplaceAll(strings.Join(v.words, " "), "~", home)
	}
	for key, d := range map[string]time.Duration{"connecttimeout": s.timeout, "serveraliveinterval": s.interval} {
		if c.get(key).words != nil {
			m[key] = strconv.Itoa(int(d / time.Second))
		}
	}
	if s.alias != "" {
		m["hostkeyalias"] = s.alias
	}
	return m
}

func compare(t *testing.T, name string, ours map[string]string, theirs string) {
	t.Helper()
	got := map[string]string{}
	for line := range strings.Lines(theirs) {
		key, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if got[key] != "" {
			v = got[key] + "\n" + v
		}
		got[key] = v
	}
	got["hostkeyalias"] = strings.ToLower(got["hostkeyalias"])
	for key, want := range ours {
		if got[key] != want {
			t.Errorf("%s: %s is %q for us and %q for ssh", name, key, want, got[key])
		}
	}
}

func TestConfigThatIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"Host web1\n ProxyCommand nc %h %p\n":        "config:2: ProxyCommand is set for web1",
		"ProxyCommand nc %h %p\nProxyJump a\n":       "config:1: ProxyCommand is set",
		"\nMatch host web1 exec \"true\"\n User a\n": "config:2: Match exec cannot be told here",
		"Match final\n":                                 "config:1: Match final cannot be told",
		"Match tagged x\n":                              "Match tagged",
		"Match host\n":                                  "config:1: Match host has no pattern",
		"CanonicalizeHostname yes\n":                    "CanonicalizeHostname",
		"RevokedHostKeys /x\n":                          "RevokedHostKeys",
		"KnownHostsCommand /x\n":                        "KnownHostsCommand",
		"Port 0\n":                                      "config:1: Port:",
		"Port x\n":                                      "config:1: Port:",
		"HostName -x\n":                                 "config:1: HostName:",
		"HostName a b\nUser 'x;y'\n":                    "config:2: User:",
		"User \"a\n":                                    "config:1: a quote is not closed",
		"User\n":                                        "config:1: User has no value",
		"ConnectTimeout soon\n":                         "config:1: connecttimeout",
		"ServerAliveCountMax -1\n":                      "config:1: ServerAliveCountMax",
		"StrictHostKeyChecking maybe\n":                 "config:1: stricthostkeychecking",
		"IdentitiesOnly 1\n":                            "config:1: identitiesonly",
		"IdentityFile %z\n":                             "config:1: %z is not known here",
		"IdentityFile x%\n":                             "config:1: \"x%\" ends in %",
		"IdentityFile ${NOPE}/x\n":                      "config:1: the variable NOPE is not set",
		"IdentityFile ~bob/x\n":                         "config:1: ~bob/x: the home of another user",
		"ProxyJump -x\n":                                "config:1: ProxyJump:",
		"HostKeyAlgorithms ssh-dss\n":                   "config:1: HostKeyAlgorithms: none of ssh-dss",
		"Include config\n":                              "more than 16 deep",
		"ProxyJump a\nHost a\n HostName web1\n":         "ProxyJump leads in a circle",
		"ProxyJump " + strings.Repeat("a,", 20) + "b\n": "more than 16 machines",
		"Host a\nProxyJump b\nHost b\nProxyJump a\nHost web1\nProxyJump a\n": "ProxyJump leads in a circle",
	} {
		o := home(t, text)
		d, err := parseDestination("web1")
		if err != nil {
			t.Fatal(err)
		}
		_, err = route(o, d, nil)
		if err == nil || !strings.Contains(err.Error(), want) || fail.KindOf(err) != fail.Usage {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	o := home(t, "")
	o.Config += ".not"
	if _, err := settle(o, destination{host: "a"}); fail.KindOf(err) != fail.Usage {
		t.Errorf("a configuration that is named and not there: %v", err)
	}
	for _, text := range []string{"ProxyCommand none\n", "Host other\n ProxyCommand x\nMatch host other exec x\n ProxyCommand y\n", "ProxyJump none\n"} {
		if _, err := settle(home(t, text), destination{host: "web1"}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestHostKeyAlgorithms(t *testing.T) {
	all, err := hostKeyAlgorithms("+ssh-ed25519")
	if err != nil || all[0] != "ssh-ed25519-cert-v01@openssh.com" || !slices.Contains(all, "rsa-sha2-256") || slices.Contains(all, "ssh-rsa") {
		t.Fatalf("%v %v", all, err)
	}
	for list, want := range map[string]string{"ssh-ed25519,nope": "ssh-ed25519", "rsa-sha2-512,ssh-ed25519": "rsa-sha2-512 ssh-ed25519"} {
		if got, err := hostKeyAlgorithms(list); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v %v", list, got, err)
		}
	}
	if got, err := hostKeyAlgorithms("-*ed25519*"); err != nil || len(got) == 0 || slices.Contains(got, "ssh-ed25519") {
		t.Errorf("%v %v", got, err)
	}
	if got, err := hostKeyAlgorithms("^rsa-sha2-*"); err != nil || !strings.HasPrefix(got[0], "rsa-") || len(got) != len(all) {
		t.Errorf("%v %v", got, err)
	}
}

func FuzzConfig(f *testing.F) {
	for _, text := range cases {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(strings.ToLower(text), "include") {
			return // it would read this machine's files
		}
		dir := t.TempDir()
		o := Options{Config: dir + "/c", Getenv: func(string) string { return dir }}
		if err := os.WriteFile(o.Config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := settle(o, destination{host: "web1"})
		if err != nil {
			if fail.KindOf(err) != fail.Usage {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if checkHost(s.host) != nil || checkPort(s.port) != nil || checkUser(s.user) != nil || s.timeout <= 0 || s.interval <= 0 || s.missed < 1 {
			t.Fatalf("%q: %+v", text, s)
		}
	})
}
