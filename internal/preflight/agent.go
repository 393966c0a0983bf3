package preflight

import "context"

func checkAgent(ctx context.Context, r *run) []Finding {
	if r.Agent.Version == nil {
		return nil
	}
	version, running, err := r.Agent.Version(ctx)
	f := judgeAgent(version, r.Version, running, err)
	f.Fixable = f.Fixable && r.Agent.Ensure != nil
	return []Finding{f}
}

func judgeAgent(version, ours string, running bool, err error) Finding {
	switch {
	case err != nil:
		return Finding{ID: IDAgent, Severity: Warning, Found: "the agent cannot be asked: " + err.Error(), Need: "an agent that answers",
			Fix: "run `fairlead agent status`"}
	case !running:
		return Finding{ID: IDAgent, Severity: Info, Found: "no agent runs yet", Fix: "run `fairlead agent start`; `fairlead up` does so by itself", Fixable: true}
	case ours != "" && version != ours:
		return Finding{ID: IDAgent, Severity: Warning, Found: "the agent is version " + version, Need: ours + ", as this program is",
			Fix: "run `fairlead agent upgrade`", Fixable: true}
	}
	return Finding{ID: IDAgent, Severity: OK, Found: "the agent runs, version " + version}
}
