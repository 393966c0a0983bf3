package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

const environmentColumns = "service, environment, current, previous, listen, stopped, warm_release, warm_until"

func scanEnvironment(row interface{ Scan(...any) error }) (e Environment, err error) {
	var until int64
	err = row.Scan(&e.Service, &e.Environment, &e.Current, &e.Previous, &e.Listen, &e.Stopped, &e.WarmRelease, &until)
	if until != 0 {
		e.WarmUntil = time.Unix(0, until)
	}
	return e, err
}

// Environment returns what is known of a service in an environment, [fail.NotFound] when nothing is.
func (j *Journal) Environment(ctx context.Context, service, env string) (Environment, error) {
	e, err := scanEnvironment(j.db.QueryRowContext(ctx, "SELECT "+environmentColumns+" FROM environment WHERE service = ? AND environment = ?", service, env))
	if errors.Is(err, sql.ErrNoRows) {
		return e, fail.New(fail.NotFound, "", "there is no service %q in environment %q here", service, env).
			Hinted("run `fairlead status` for what there is, or `fairlead up` to deploy it")
	}
	return e, err
}

// Environments returns everything that was ever deployed here and not removed.
func (j *Journal) Environments(ctx context.Context) ([]Environment, error) {
	return query(ctx, j.db, func(r *sql.Rows) (Environment, error) { return scanEnvironment(r) },
		"SELECT "+environmentColumns+" FROM environment ORDER BY service, environment")
}

// query collects the rows of a statement.
func query[T any](ctx context.Context, db *sql.DB, scan func(*sql.Rows) (T, error), q string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// Release returns one release, [fail.NotFound] when there is none or its files were pruned.
func (j *Journal) Release(ctx context.Context, service, env string, id release.ID) (release.Release, error) {
	var body string
	var pruned bool
	err := j.db.QueryRowContext(ctx, "SELECT body, pruned FROM release WHERE service = ? AND environment = ? AND id = ?", service, env, id).Scan(&body, &pruned)
	if errors.Is(err, sql.ErrNoRows) || err == nil && pruned {
		what := "does not exist"
		if pruned {
			what = "was pruned"
		}
		return release.Release{}, fail.New(fail.NotFound, "", "release %d of %s %s", id, service, what).
			Hinted("run `fairlead history %s`; set release.keep to keep more", service)
	}
	if err != nil {
		return release.Release{}, err
	}
	var r release.Release
	return r, json.Unmarshal([]byte(body), &r)
}

// Releases returns the releases that can be gone back to, newest first.
func (j *Journal) Releases(ctx context.Context, service, env string) ([]release.Release, error) {
	return query(ctx, j.db, func(rows *sql.Rows) (r release.Release, err error) {
		var body string
		if err := rows.Scan(&body); err != nil {
			return r, err
		}
		return r, json.Unmarshal([]byte(body), &r)
	}, "SELECT body FROM release WHERE service = ? AND environment = ? AND pruned = 0 ORDER BY id DESC", service, env)
}

const rolloutColumns = "id, kind, plan, step, undoing, outcome, cause, error, holder, started, ended, baseline, receipt"

func scanRollout(rows interface{ Scan(...any) error }) (r Rollout, err error) {
	var plan, failure, baseline, receipt string
	var started, ended int64
	if err := rows.Scan(&r.ID, &r.Kind, &plan, &r.Step, &r.Undoing, &r.Outcome, &r.Cause, &failure, &r.Holder, &started, &ended, &baseline, &receipt); err != nil {
		return r, err
	}
	r.Started = time.Unix(0, started)
	if ended != 0 {
		r.Ended = time.Unix(0, ended)
	}
	if failure != "" {
		r.Error = &fail.Error{}
		if err := json.Unmarshal([]byte(failure), r.Error); err != nil {
			return r, err
		}
	}
	r.Baseline, r.Receipt = json.RawMessage(baseline), json.RawMessage(receipt)
	return r, json.Unmarshal([]byte(plan), &r.Plan)
}

// History returns the environment's rollouts, newest first, at most n.
func (j *Journal) History(ctx context.Context, service, env string, n int) ([]Rollout, error) {
	return query(ctx, j.db, func(r *sql.Rows) (Rollout, error) { return scanRollout(r) },
		"SELECT "+rolloutColumns+" FROM rollout WHERE service = ? AND environment = ? ORDER BY id DESC LIMIT ?", service, env, n)
}

// Unfinished returns the rollouts that were under way when the agent died.
func (j *Journal) Unfinished(ctx context.Context) ([]Rollout, error) {
	return query(ctx, j.db, func(r *sql.Rows) (Rollout, error) { return scanRollout(r) },
		"SELECT "+rolloutColumns+" FROM rollout WHERE outcome = '' ORDER BY id")
}

// Rollout returns one rollout.
func (j *Journal) Rollout(ctx context.Context, id int64) (Rollout, error) {
	r, err := scanRollout(j.db.QueryRowContext(ctx, "SELECT "+rolloutColumns+" FROM rollout WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		return r, fail.New(fail.NotFound, "", "there is no rollout %d", id)
	}
	return r, err
}

// Events returns the rollout's events from number seq on.
func (j *Journal) Events(ctx context.Context, id int64, seq int) ([]event.Event, error) {
	return query(ctx, j.db, func(rows *sql.Rows) (e event.Event, err error) {
		var body string
		if err := rows.Scan(&body); err != nil {
			return e, err
		}
		return e, json.Unmarshal([]byte(body), &e)
	}, "SELECT body FROM event WHERE rollout = ? AND seq >= ? ORDER BY seq", id, seq)
}

// SetStopped notes that the user stopped the service, or that it runs again.
func (j *Journal) SetStopped(ctx context.Context, service, env string, stopped bool) error {
	_, err := j.db.ExecContext(ctx, "UPDATE environment SET stopped = ? WHERE service = ? AND environment = ?", stopped, service, env)
	return err
}

// Cooled notes that the warm release's instances were stopped.
func (j *Journal) Cooled(ctx context.Context, service, env string) error {
	_, err := j.db.ExecContext(ctx, "UPDATE environment SET warm_release = 0, warm_until = 0 WHERE service = ? AND environment = ?", service, env)
	return err
}

// Pruned notes that a release's files are gone.
func (j *Journal) Pruned(ctx context.Context, service, env string, id release.ID) error {
	_, err := j.db.ExecContext(ctx, "UPDATE release SET pruned = 1 WHERE service = ? AND environment = ? AND id = ?", service, env, id)
	return err
}

// Remove forgets a service in an environment, its releases and its history. A rollout under way is refused with [fail.Busy].
func (j *Journal) Remove(ctx context.Context, service, env string) error {
	return j.tx(ctx, func(tx *sql.Tx) error {
		if err := leaseFree(ctx, tx, service, env); err != nil {
			return err
		}
		for _, q := range []string{
			"DELETE FROM decision WHERE rollout IN (SELECT id FROM rollout WHERE service = ? AND environment = ?)",
			"DELETE FROM event WHERE rollout IN (SELECT id FROM rollout WHERE service = ? AND environment = ?)",
			"DELETE FROM rollout WHERE service = ? AND environment = ?",
			"DELETE FROM release WHERE service = ? AND environment = ?",
			"DELETE FROM environment WHERE service = ? AND environment = ?",
		} {
			if _, err := tx.ExecContext(ctx, q, service, env); err != nil {
				return err
			}
		}
		return nil
	})
}

// LastDrill returns when a drill of this kind last ended as it should: everything went back, and no request failed, or, where
// a gate had something to notice, one did. The zero time says that none did.
func (j *Journal) LastDrill(ctx context.Context, service, env, kind string) (time.Time, error) {
	var at sql.NullInt64
	err := j.db.QueryRowContext(ctx, `SELECT max(ended) FROM rollout WHERE service = ? AND environment = ? AND kind = ? AND outcome = ?
		AND CASE WHEN json_extract(receipt, '$.noticed') IS NULL THEN json_extract(receipt, '$.failed') = 0
			ELSE json_extract(receipt, '$.noticed.by') <> '' END`, service, env, kind, string(rollout.RolledBack)).Scan(&at)
	if err != nil || !at.Valid {
		return time.Time{}, err
	}
	return time.Unix(0, at.Int64), nil
}
