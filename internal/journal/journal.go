// Package journal is the agent's durable memory: releases, what each environment serves, and every step of every rollout.
//
// It is one SQLite database with a write-ahead log and a full sync at each commit, so that a step that was noted is on disk
// before it is taken.
package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver; pure Go, so the binary stays static

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

// schema holds one entry for each version of the database; entry n brings it from version n to n+1.
var schema = []string{`
CREATE TABLE environment (
	service TEXT NOT NULL, environment TEXT NOT NULL,
	current INTEGER NOT NULL DEFAULT 0, previous INTEGER NOT NULL DEFAULT 0,
	listen TEXT NOT NULL DEFAULT '', stopped INTEGER NOT NULL DEFAULT 0,
	warm_release INTEGER NOT NULL DEFAULT 0, warm_until INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (service, environment)) STRICT;
CREATE TABLE release (
	service TEXT NOT NULL, environment TEXT NOT NULL, id INTEGER NOT NULL,
	body TEXT NOT NULL, pruned INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (service, environment, id)) STRICT;
CREATE TABLE rollout (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	service TEXT NOT NULL, environment TEXT NOT NULL, kind TEXT NOT NULL,
	plan TEXT NOT NULL, step INTEGER NOT NULL DEFAULT 0, undoing INTEGER NOT NULL DEFAULT 0,
	outcome TEXT NOT NULL DEFAULT '', cause TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT '',
	holder TEXT NOT NULL, started INTEGER NOT NULL, ended INTEGER NOT NULL DEFAULT 0,
	baseline TEXT NOT NULL DEFAULT '', receipt TEXT NOT NULL DEFAULT '') STRICT;
CREATE UNIQUE INDEX lease ON rollout (service, environment) WHERE outcome = '';
CREATE TABLE event (
	rollout INTEGER NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL,
	PRIMARY KEY (rollout, seq)) STRICT;
`, `
ALTER TABLE rollout ADD COLUMN paused TEXT NOT NULL DEFAULT '';
ALTER TABLE rollout ADD COLUMN frozen INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollout ADD COLUMN past INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollout ADD COLUMN approved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollout ADD COLUMN approval TEXT NOT NULL DEFAULT '';
CREATE TABLE decision (
	seq INTEGER PRIMARY KEY AUTOINCREMENT,
	rollout INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE INDEX decision_of ON decision (rollout);
`}

// Journal is the open database. Its methods may be called from several goroutines.
type Journal struct{ db *sql.DB }

// Open opens or creates the database at path.
func Open(ctx context.Context, path string) (*Journal, error) {
	q := url.Values{"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(10000)", "foreign_keys(1)"}, "_txlock": {"immediate"}}
	name := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()} // a path may hold what means something in a URL
	db, err := sql.Open("sqlite", name.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // SQLite has one writer anyway; a queue here is fairer than its busy loop
	j := &Journal{db}
	if err := j.migrate(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	return j, nil
}

// Close closes the database.
func (j *Journal) Close() error { return j.db.Close() }

func (j *Journal) migrate(ctx context.Context) error {
	var have int
	if err := j.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	if have > len(schema) {
		return fmt.Errorf("it was written by a newer fairlead (version %d, this one knows %d): install that version again", have, len(schema))
	}
	for ; have < len(schema); have++ {
		err := j.tx(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, schema[have]); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", have+1))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) tx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := j.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after a commit it does nothing; with one connection an open transaction would block every later call
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// Environment is what the journal knows of a service in an environment.
type Environment struct {
	Service     string     `json:"service"`
	Environment string     `json:"environment"`
	Current     release.ID `json:"current"`  // serves; 0 before the first deploy
	Previous    release.ID `json:"previous"` // served before
	Listen      string     `json:"listen"`   // public address that was chosen for it
	Stopped     bool       `json:"stopped"`
	WarmRelease release.ID `json:"warm_release,omitempty"` // its instances are kept up
	WarmUntil   time.Time  `json:"warm_until,omitzero"`
}

// Rollout is one row of the history.
type Rollout struct {
	ID       int64           `json:"id"`
	Kind     string          `json:"kind"` // deploy, rollback, restart
	Plan     rollout.Plan    `json:"plan"`
	Step     int             `json:"step"`
	Undoing  bool            `json:"undoing,omitempty"`
	Outcome  rollout.Outcome `json:"outcome,omitempty"` // empty while it runs
	Cause    string          `json:"cause,omitempty"`
	Error    *fail.Error     `json:"error,omitempty"`
	Holder   string          `json:"holder"` // user@host, pid
	Started  time.Time       `json:"started"`
	Ended    time.Time       `json:"ended,omitzero"`
	Baseline json.RawMessage `json:"baseline,omitempty"`
	Receipt  json.RawMessage `json:"receipt,omitempty"`
}

// Draft is a rollout that is about to begin. Release is nil when it goes to one that exists.
type Draft struct {
	Kind     string
	Release  *release.Release
	Plan     rollout.Plan
	Listen   string
	Holder   string
	Baseline any
}

// NextRelease returns the number the environment's next release will get.
func (j *Journal) NextRelease(ctx context.Context, service, env string) (release.ID, error) {
	var n release.ID
	err := j.db.QueryRowContext(ctx, "SELECT coalesce(max(id), 0) + 1 FROM release WHERE service = ? AND environment = ?", service, env).Scan(&n)
	return n, err
}

// ErrMoved says that a plan does not begin with what serves: another rollout ended since it was made.
var ErrMoved = errors.New("another rollout ended while this one was planned")

// Begin notes the release and the rollout and takes the lease on the environment. A second rollout meanwhile is refused
// with [fail.Busy] and the holder's name, one that was planned from what serves no more with a [fail.Busy] that is [ErrMoved].
func (j *Journal) Begin(ctx context.Context, d Draft) (*Running, error) {
	plan, err := json.Marshal(d.Plan)
	if err != nil {
		return nil, err
	}
	base, err := json.Marshal(d.Baseline)
	if err != nil {
		return nil, err
	}
	r := &Running{j: j, plan: d.Plan}
	s, env := d.Plan.Service, d.Plan.Environment
	err = j.tx(ctx, func(tx *sql.Tx) error {
		if err := leaseFree(ctx, tx, s, env); err != nil {
			return err
		}
		if err := unmoved(ctx, tx, d.Plan); err != nil {
			return err
		}
		if d.Release != nil {
			body, err := json.Marshal(d.Release)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "INSERT INTO release (service, environment, id, body) VALUES (?, ?, ?, ?)", s, env, d.Release.ID, string(body)); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO environment (service, environment, listen) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET listen = ?3",
			s, env, d.Listen); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, "INSERT INTO rollout (service, environment, kind, plan, holder, started, baseline) VALUES (?, ?, ?, ?, ?, ?, ?)",
			s, env, d.Kind, string(plan), d.Holder, time.Now().UnixNano(), string(base))
		if err != nil {
			return err
		}
		r.ID, err = res.LastInsertId()
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func leaseFree(ctx context.Context, tx *sql.Tx, service, env string) error {
	var id, started int64
	var holder, kind string
	err := tx.QueryRowContext(ctx, "SELECT id, kind, holder, started FROM rollout WHERE service = ? AND environment = ? AND outcome = ''", service, env).
		Scan(&id, &kind, &holder, &started)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return fail.New(fail.Busy, "begin a rollout of "+service, "a %s by %s is under way since %s", kind, holder,
		time.Unix(0, started).Format(time.DateTime)).Hinted("wait for it (`fairlead status %s`), or make it go back: `fairlead abort %s`", service, service)
}

// unmoved checks that a plan begins with the release that serves.
func unmoved(ctx context.Context, tx *sql.Tx, p rollout.Plan) error {
	e, err := scanEnvironment(tx.QueryRowContext(ctx, "SELECT "+environmentColumns+" FROM environment WHERE service = ? AND environment = ?", p.Service, p.Environment))
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	serves := e.Current
	if e.Stopped || serves == p.New {
		serves = 0
	}
	if serves != p.Old {
		return fail.New(fail.Busy, "begin a rollout of "+p.Service, "%w", ErrMoved).Hinted("run the command again")
	}
	return nil
}

// Running is a rollout under way; it is the engine's [rollout.Journal].
type Running struct {
	ID   int64
	j    *Journal
	plan rollout.Plan
	kind string
	// Receipt is called at the end; what it returns is kept with the rollout.
	Receipt func(rollout.Outcome, error) any

	mu     sync.Mutex
	orders rollout.Orders // as they were read last
}

var _ rollout.Journal = (*Running)(nil)

// Resume returns the journal of a rollout that was not ended.
func (j *Journal) Resume(r Rollout) *Running {
	return &Running{ID: r.ID, j: j, plan: r.Plan, kind: r.Kind}
}

// KindUndo is the kind of a rollout that makes an earlier one as if it had not been: what served before is then what had before that.
const KindUndo = "undo"

// Step implements [rollout.Journal].
func (r *Running) Step(ctx context.Context, i int) error {
	return r.exec(ctx, "UPDATE rollout SET step = ? WHERE id = ?", i, r.ID)
}

// Undo implements [rollout.Journal].
func (r *Running) Undo(ctx context.Context, cause error) error {
	return r.exec(ctx, "UPDATE rollout SET undoing = 1, cause = ? WHERE id = ?", cause.Error(), r.ID)
}

// End implements [rollout.Journal]: the outcome, what serves from now on and the receipt, in one commit.
func (r *Running) End(ctx context.Context, o rollout.Outcome, cause error) error {
	var receipt, failure, text string
	if r.Receipt != nil {
		b, err := json.Marshal(r.Receipt(o, cause))
		if err != nil {
			return err
		}
		receipt = string(b)
	}
	if cause != nil {
		b, err := json.Marshal(fail.As(cause))
		if err != nil {
			return err
		}
		failure, text = string(b), cause.Error()
	}
	p := r.plan
	return r.j.tx(ctx, func(tx *sql.Tx) error {
		if o == rollout.Done {
			warm, until := release.ID(0), int64(0)
			if n := len(p.Steps); n > 0 && p.Steps[n-1].Do == rollout.Warm {
				warm, until = p.Steps[n-1].Release, time.Now().Add(p.Steps[n-1].For).UnixNano()
			}
			if _, err := tx.ExecContext(ctx, `UPDATE environment SET current = ?1,
				previous = CASE WHEN current IN (0, ?1) THEN previous ELSE current END,
				stopped = 0, warm_release = ?2, warm_until = ?3 WHERE service = ?4 AND environment = ?5`,
				p.New, warm, until, p.Service, p.Environment); err != nil {
				return err
			}
			if r.kind == KindUndo {
				if _, err := tx.ExecContext(ctx, `UPDATE environment SET previous = coalesce((SELECT json_extract(plan, '$.old') FROM rollout
					WHERE service = ?1 AND environment = ?2 AND outcome = ?3 AND kind <> ?4 AND json_extract(plan, '$.new') = ?5 AND json_extract(plan, '$.old') > 0 ORDER BY id DESC LIMIT 1), 0)
					WHERE service = ?1 AND environment = ?2`, p.Service, p.Environment, string(rollout.Done), KindUndo, p.New); err != nil {
					return err
				}
			}
		}
		_, err := tx.ExecContext(ctx, "UPDATE rollout SET outcome = ?, cause = ?, error = ?, ended = ?, receipt = ? WHERE id = ?",
			string(o), text, failure, time.Now().UnixNano(), receipt, r.ID)
		return err
	})
}

// Event keeps an event of the rollout.
func (r *Running) Event(ctx context.Context, seq int, e event.Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return r.exec(ctx, "INSERT OR REPLACE INTO event (rollout, seq, body) VALUES (?, ?, ?)", r.ID, seq, string(b))
}

func (r *Running) exec(ctx context.Context, q string, args ...any) error {
	_, err := r.j.db.ExecContext(ctx, q, args...)
	return err
}
