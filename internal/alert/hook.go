package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// post sends body as JSON and asks for a status of 2xx. Errors name scheme and host at most, and are judged: what a server
// says of the request itself (4xx) another attempt does not cure, but for those that mean "later".
func post(ctx context.Context, c *http.Client, to Secret, login Login, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return permanent(err)
	}
	u, err := url.Parse(string(to))
	if err != nil {
		return permanent(errors.New("the url is none"))
	}
	where := u.Scheme + "://" + u.Host
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, string(to), bytes.NewReader(b))
	if err != nil {
		return permanent(fmt.Errorf("%s: the request cannot be made", where))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "fairlead")
	login.set(req)
	resp, err := c.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the outer text has the whole URL
		}
		return fmt.Errorf("%s: %w", where, err)
	}
	defer resp.Body.Close()
	const enough = 4 << 10 // to see what is wrong, and to use the connection again
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, enough))
	if resp.StatusCode/100 == 2 {
		return nil
	}
	return refusal(where, resp, string(answer))
}

func refusal(where string, resp *http.Response, answer string) error {
	text := fmt.Sprintf("%s answers %s", where, resp.Status)
	if answer = strings.Join(strings.Fields(answer), " "); answer != "" {
		text += ": " + cut(answer, 300)
	}
	e := &sendError{err: errors.New(text)}
	switch code := resp.StatusCode; {
	case code/100 == 3:
		e.err = fmt.Errorf("%s answers %s: redirects are not followed, give the address it leads to", where, resp.Status)
		e.permanent = true
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		e.after = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	case code == http.StatusRequestTimeout || code == http.StatusTooEarly || code/100 == 5:
	default:
		e.permanent = true
	}
	return e
}

// retryAfter reads the header of that name (RFC 9110, section 10.2.3), seconds or a date, up to ten minutes: no server may
// put us off for a day.
func retryAfter(header string, now time.Time) time.Duration {
	var d time.Duration
	if s, err := strconv.Atoi(header); err == nil {
		d = time.Duration(min(max(s, 0), 3600)) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), 10*time.Minute)
}
