package spec

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/platform"
)

var (
	programForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	// repositoryForm is HOST[:PORT]/PATH of the distribution specification: lower case, a host that cannot be taken for a folder.
	repositoryForm = regexp.MustCompile(`^(localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+:[0-9]+|localhost:[0-9]+|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+:[0-9]+|\[[0-9a-f:]+\](:[0-9]+)?)(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+$`)
	tagForm        = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
)

func (d *decoder) checkBuild(s *Spec) error {
	b := s.Build
	seen := map[platform.Platform]bool{}
	for i, text := range b.Platforms {
		path := fmt.Sprintf("build.platforms[%d]", i)
		p, err := platform.Parse(text)
		if err != nil {
			return d.at(path, "%v", err)
		}
		if seen[p] {
			return d.at(path, "%q stands there twice", text)
		}
		seen[p] = true
	}
	for _, name := range sortedKeys(b.Programs) {
		if !programForm.MatchString(name) || name == s.Service {
			return d.at("build.programs."+name, "%q is not a file name beside %s", name, s.Service)
		}
		if b.Programs[name] == "" {
			return d.at("build.programs."+name, "names no main package").Hinted("write %s: ./cmd/%s", name, name)
		}
	}
	if err := d.checkVulns(b.Vulns); err != nil {
		return err
	}
	return d.checkImage(b.Image)
}

func (d *decoder) checkVulns(v Vulns) error {
	if v.Refuse != "" {
		if err := d.oneOf("build.vulns.refuse", v.Refuse, "reachable", "present"); err != nil {
			return err
		}
	}
	for i, a := range v.Allow {
		path := fmt.Sprintf("build.vulns.allow[%d]", i)
		switch _, err := time.Parse(time.DateOnly, a.Until); {
		case a.ID == "":
			return d.at(path, "names no vulnerability").Hinted("write {id: GO-2026-1234, until: 2026-12-31, reason: ...}")
		case err != nil:
			return d.at(path+".until", "%q is not a day", a.Until).Hinted("write it as 2026-12-31: an exception has an end")
		case a.Reason == "":
			return d.at(path, "%s is allowed without a reason", a.ID).Hinted("write why that is safe: reason: ...")
		}
	}
	return nil
}

func (d *decoder) checkImage(i Image) error {
	if i.Compression != "" {
		if err := d.oneOf("build.image.compression", i.Compression, "zstd", "gzip"); err != nil {
			return err
		}
	}
	if i.Repository != "" && !repositoryForm.MatchString(i.Repository) {
		return d.at("build.image.repository", "%q is not HOST/PATH in lower case and without a tag, as registry.example.com/team/shop", i.Repository)
	}
	if b := i.Base; b != "" && !strings.HasPrefix(b, "oci:") && !strings.Contains(b, "@sha256:") {
		return d.at("build.image.base", "%q has no digest, and what a tag means changes", b).Hinted("write NAME@sha256:DIGEST, or oci:FOLDER for an image layout")
	}
	for j, t := range i.Tags {
		if !tagForm.MatchString(t) {
			return d.at(fmt.Sprintf("build.image.tags[%d]", j), "%q is not a tag: letters, digits, dots, dashes and underscores, at most 128", t)
		}
	}
	return nil
}
