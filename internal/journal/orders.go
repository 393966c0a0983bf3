package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

// Orders implements [rollout.Journal]. While the database does not answer, what it said last holds.
func (r *Running) Orders() rollout.Orders {
	ctx, cancel := context.WithTimeout(context.Background(), ordersWait)
	defer cancel()
	o, err := scanOrders(r.j.db.QueryRowContext(ctx, ordersQuery, r.ID))
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.orders = o
	}
	return r.orders
}

// ordersWait bounds how long a rollout waits to hear its orders.
const ordersWait = time.Second

const ordersQuery = "SELECT paused, frozen, past, approved, approval FROM rollout WHERE id = ? AND outcome = ''"

func scanOrders(row *sql.Row) (o rollout.Orders, err error) {
	return o, row.Scan(&o.Paused, &o.Frozen, &o.Past, &o.Approved, &o.Approval)
}

// Pause implements [rollout.Journal].
func (r *Running) Pause(ctx context.Context, why string) error {
	return r.exec(ctx, "UPDATE rollout SET paused = ? WHERE id = ?", why, r.ID)
}

// Tell changes the orders of a rollout under way, [fail.NotFound] when it is none.
func (j *Journal) Tell(ctx context.Context, id int64, change func(*rollout.Orders)) error {
	return j.tx(ctx, func(tx *sql.Tx) error {
		o, err := scanOrders(tx.QueryRowContext(ctx, ordersQuery, id))
		if errors.Is(err, sql.ErrNoRows) {
			return fail.New(fail.NotFound, "", "rollout %d does not run (any more)", id)
		}
		if err != nil {
			return err
		}
		change(&o)
		_, err = tx.ExecContext(ctx, "UPDATE rollout SET paused = ?, frozen = ?, past = ?, approved = ?, approval = ? WHERE id = ?",
			o.Paused, o.Frozen, o.Past, o.Approved, o.Approval, id)
		return err
	})
}

// Decide implements [rollout.Journal].
func (r *Running) Decide(ctx context.Context, d rollout.Decision) error {
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return r.exec(ctx, "INSERT INTO decision (rollout, body) VALUES (?, ?)", r.ID, string(b))
}

// Decisions returns what was decided in a rollout, and why, in order.
func (j *Journal) Decisions(ctx context.Context, id int64) ([]rollout.Decision, error) {
	return query(ctx, j.db, func(rows *sql.Rows) (d rollout.Decision, err error) {
		var body string
		if err := rows.Scan(&body); err != nil {
			return d, err
		}
		return d, json.Unmarshal([]byte(body), &d)
	}, "SELECT body FROM decision WHERE rollout = ? ORDER BY seq", id)
}
