package alert

import (
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Matcher is a condition on one label, as PromQL has it: regular expressions must fit the whole value, and a label that is
// not there is the empty text. Make it with [ParseMatcher]; it is text in JSON.
type Matcher struct {
	compiled *labels.Matcher
}

// matchTypes are tried in this order: = is part of the others.
var matchTypes = []struct {
	op   string
	kind labels.MatchType
}{{"=~", labels.MatchRegexp}, {"!~", labels.MatchNotRegexp}, {"!=", labels.MatchNotEqual}, {"=", labels.MatchEqual}}

// ParseMatcher reads LABEL=VALUE, LABEL!=VALUE, LABEL=~REGEXP or LABEL!~REGEXP; the value may stand in double quotes. The
// error is of kind [fail.Usage].
func ParseMatcher(text string) (Matcher, error) {
	at := strings.IndexAny(text, "=!")
	if at > 0 {
		name := strings.TrimSpace(text[:at])
		for _, t := range matchTypes {
			value, ok := strings.CutPrefix(text[at:], t.op)
			if !ok {
				continue
			}
			value = strings.TrimSpace(value)
			if strings.HasPrefix(value, `"`) {
				var err error
				if value, err = strconv.Unquote(value); err != nil {
					return Matcher{}, fail.New(fail.Usage, "matcher "+text, "its value begins with a quote and is no quoted text")
				}
			}
			if name == "" || !model.UTF8Validation.IsValidLabelName(name) || !model.LabelValue(value).IsValid() {
				break
			}
			m, err := labels.NewMatcher(t.kind, name, value)
			if err != nil {
				return Matcher{}, fail.New(fail.Usage, "matcher "+text, "%w", err)
			}
			return Matcher{m}, nil
		}
	}
	return Matcher{}, fail.New(fail.Usage, "matcher "+text, "it is no condition on a label").
		Hinted(`write service=shop, severity!=info, alertname=~"Fairlead.*" or path!~"/tmp.*"`)
}

// fits reports whether the labels of an alert meet the condition.
func (m Matcher) fits(labels map[string]string) bool {
	return m.compiled != nil && m.compiled.Matches(labels[m.compiled.Name])
}

func allFit(all []Matcher, labels map[string]string) bool {
	for _, m := range all {
		if !m.fits(labels) {
			return false
		}
	}
	return true
}

// String writes what ParseMatcher reads.
func (m Matcher) String() string {
	if m.compiled == nil {
		return ""
	}
	return m.compiled.Name + m.compiled.Type.String() + strconv.Quote(m.compiled.Value)
}

// MarshalText implements [encoding.TextMarshaler].
func (m Matcher) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (m *Matcher) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMatcher(string(b))
	return err
}
