package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

// Deliver hands a message on. Its context is in no tenant, so that it may use the shared store and enter the tenant. An
// error keeps the message, and those of the tenant that come after it, for the next round.
type Deliver func(ctx context.Context, t tenancy.Tenant, m Message) error

// Run delivers messages until ctx is done, and returns the cause of that. What fails is logged and tried again.
func (b *Box) Run(ctx context.Context, deliver Deliver) error {
	tick := time.NewTicker(b.cfg.Poll)
	defer tick.Stop()
	for {
		n, err := b.Dispatch(ctx, deliver)
		if err != nil && ctx.Err() == nil {
			b.cfg.Logger.WarnContext(ctx, "outbox: not everything was delivered", "error", err)
		}
		if n > 0 && err == nil {
			continue // there may be more
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// Dispatch goes once over the tenants that may have work, delivers up to a batch of each, and says how many messages were
// delivered. What failed for one tenant does not stop the others; it is in the error, as a [*tenancy.TenantError].
func (b *Box) Dispatch(ctx context.Context, deliver Deliver) (delivered int, err error) {
	ctx = tenancy.Leave(ctx)
	due, err := b.due(ctx)
	if err != nil {
		return 0, fmt.Errorf("tenement: outbox: %w", err)
	}
	var failed []error
	for i := range due {
		w := &due[i]
		n, err := b.dispatch(ctx, w, deliver)
		delivered += n
		if err != nil {
			failed = append(failed, &tenancy.TenantError{ID: w.tenant, Slug: w.slug, Err: err})
		}
		if ctx.Err() != nil {
			return delivered, errors.Join(append(failed, context.Cause(ctx))...)
		}
	}
	return delivered, errors.Join(failed...)
}

// work is a tenant that may have some.
type work struct {
	tenant tenancy.ID
	slug   string
	marked int64
	old    bool // the mark is twice as old as it is good for
}

func (b *Box) due(ctx context.Context) (due []work, err error) {
	rows, err := b.app.Shared().QueryContext(ctx, `SELECT tenant, marked, marked < `+b.now+` - CAST($1 AS BIGINT) FROM tenement_outbox_work
		WHERE leased_until <= `+b.now+` ORDER BY marked`, 2*b.cfg.Grace.Milliseconds())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var w work
		if err := rows.Scan(&w.tenant, &w.marked, &w.old); err != nil {
			return nil, err
		}
		due = append(due, w)
	}
	return due, rows.Err()
}

// dispatch delivers a batch of one tenant's.
func (b *Box) dispatch(ctx context.Context, w *work, deliver Deliver) (delivered int, err error) {
	t, err := b.app.ResolveID(ctx, w.tenant)
	if errors.Is(err, tenancy.ErrNotFound) {
		_, err := b.app.Shared().ExecContext(ctx, `DELETE FROM tenement_outbox_work WHERE tenant = $1`, string(w.tenant))
		return 0, err
	} else if err != nil {
		return 0, err
	}
	w.slug = t.Slug
	if !t.Status.Served() {
		return 0, nil // its messages wait until it is in service again
	}
	if got, err := b.lease(ctx, w.tenant); err != nil || !got {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.endLease(ctx, w.tenant)) }()
	until := time.Now().Add(b.cfg.Lease)
	messages, err := b.read(ctx, t)
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		if time.Now().After(until) {
			return delivered, nil
		}
		if err := deliver(ctx, *t, m); err != nil {
			return delivered, fmt.Errorf("deliver message %d (%s): %w", m.ID, m.Kind, err)
		}
		if err := b.remove(ctx, t, m.ID); err != nil {
			return delivered, err
		}
		delivered++
	}
	if len(messages) == 0 && w.old {
		return 0, b.unmark(ctx, t, w)
	}
	return delivered, nil
}

// lease takes the tenant for a while, unless another dispatcher has it.
func (b *Box) lease(ctx context.Context, id tenancy.ID) (bool, error) {
	res, err := b.app.Shared().ExecContext(ctx, `UPDATE tenement_outbox_work SET leased_until = `+b.now+` + CAST($2 AS BIGINT)
		WHERE tenant = $1 AND leased_until <= `+b.now, string(id), b.cfg.Lease.Milliseconds())
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

func (b *Box) endLease(ctx context.Context, id tenancy.ID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, err := b.app.Shared().ExecContext(ctx, `UPDATE tenement_outbox_work SET leased_until = 0 WHERE tenant = $1`, string(id))
	return err
}

func (b *Box) read(ctx context.Context, t *tenancy.Tenant) (messages []Message, err error) {
	err = b.app.Run(ctx, t, tenancy.Policy{KeepGoing: true}, func(ctx context.Context, _ *tenancy.Tenant) error {
		rows, err := b.app.DB().QueryContext(ctx, `SELECT id, kind, payload FROM outbox_messages ORDER BY id LIMIT $1`, b.cfg.Batch)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var m Message
			var payload string
			if err := rows.Scan(&m.ID, &m.Kind, &payload); err != nil {
				return err
			}
			m.Payload = []byte(payload)
			messages = append(messages, m)
		}
		return rows.Err()
	})
	return messages, err
}

// remove takes out what was delivered, also of a tenant that has become read-only meanwhile.
func (b *Box) remove(ctx context.Context, t *tenancy.Tenant, id int64) error {
	return b.app.Run(ctx, t, tenancy.Policy{Operator: true}, func(ctx context.Context, _ *tenancy.Tenant) error {
		_, err := b.app.DB().ExecContext(ctx, `DELETE FROM outbox_messages WHERE id = $1`, id)
		return err
	})
}

// unmark removes an old mark when there is nothing that relies on it. Who relies on it has added a message before it
// expired, and so has the table's lock (on SQLite, the writer's turn) until the transaction ends; nobody can add one later.
func (b *Box) unmark(ctx context.Context, t *tenancy.Tenant, w *work) error {
	empty := false
	err := b.app.Run(ctx, t, tenancy.Policy{Operator: true}, func(ctx context.Context, _ *tenancy.Tenant) error {
		tx, err := b.app.DB().BeginTx(ctx, &sql.TxOptions{})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if b.app.Backend().Dialect() == backend.Postgres {
			// Not waited for: whoever adds something meanwhile would wait behind this.
			if _, err := tx.ExecContext(ctx, `LOCK TABLE outbox_messages IN SHARE MODE NOWAIT`); err != nil {
				return nil // somebody is at it; another time
			}
		}
		return tx.QueryRowContext(ctx, `SELECT NOT EXISTS (SELECT 1 FROM outbox_messages)`).Scan(&empty)
	})
	if err != nil || !empty {
		return err
	}
	_, err = b.app.Shared().ExecContext(ctx, `DELETE FROM tenement_outbox_work WHERE tenant = $1 AND marked = $2`, string(w.tenant), w.marked)
	return err
}
