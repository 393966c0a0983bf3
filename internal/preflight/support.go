package preflight

import (
	"context"
	"runtime"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

func checkSupport(_ context.Context, r *run) []Finding {
	return judgeSupport(r.Spec, runtime.GOOS+"/"+runtime.GOARCH)
}

// judgeSupport finds what the spec asks for that this version cannot honour. To run it differently from what was
// written would be worse than to refuse.
func judgeSupport(s *spec.Spec, platform string) []Finding {
	var out []Finding
	no := func(found, fix string) {
		out = append(out, Finding{ID: IDUnsupported, Severity: Error, Found: found + " is not supported by this version", Fix: fix})
	}
	if len(s.Target.SSH) > 0 {
		platform = "linux/*" // which hosts are
	}
	if s.Target.Kubernetes != nil {
		no("target.kubernetes", "remove target.kubernetes: the service then runs on this machine")
	}
	if m := s.Route.Mode; (m == spec.ModeKernel || m == spec.ModeAdaptive) && !strings.HasPrefix(platform, "linux/") {
		out = append(out, Finding{ID: IDUnsupported, Severity: Warning, Found: "route.mode: " + m + " needs Linux; here connections go through the proxy", Fix: "set route.mode: proxy for this environment"})
	}
	if s.Run.Port != 0 && !strings.HasPrefix(platform, "linux/") {
		no("run.port on "+platform, "let the service read the environment variable PORT, or pass {{.Port}} in run.args")
	}
	for _, name := range sopsSecrets(s) {
		no("run.secrets."+name+" from sops", "write file://PATH, or env://NAME and start fairlead inside `sops exec-env FILE`")
	}
	here := len(s.Target.SSH) == 0 && s.Target.Kubernetes == nil
	if here && len(s.Build.Platforms) > 0 && !slices.ContainsFunc(s.Build.Platforms, func(p string) bool { return p == platform || strings.HasPrefix(p, platform+"/") }) {
		out = append(out, Finding{ID: IDUnsupported, Severity: Error, Found: "build.platforms is " + strings.Join(s.Build.Platforms, ", "),
			Need: platform + ", which is this machine", Fix: "add " + platform + " to build.platforms"})
	}
	if len(out) == 0 {
		return []Finding{{ID: IDUnsupported, Severity: OK, Found: "every setting of " + spec.FileName + " is supported"}}
	}
	return out
}

func sopsSecrets(s *spec.Spec) []string {
	var out []string
	for name, ref := range s.Run.Secrets {
		if ref.Scheme() == "sops" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
