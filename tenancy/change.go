package tenancy

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// registryTx is a transaction that changes the registry.
type registryTx struct {
	*sql.Tx
	reg     *registry
	touched []touch
	hosts   bool // it registers hosts, which goes by the rules that are in force
}

// touch is a change of a tenant.
type touch struct {
	id     ID
	kind   EventKind
	detail string
	actor  string
	mark
}

func newTouch(id ID, kind EventKind, detail, actor string) touch {
	return touch{id: id, kind: kind, detail: detail, actor: actor, mark: mark{nonce: rand.Text()}}
}

// purges reports whether the tenant is not in the registry any more.
func (c touch) purges() bool { return c.kind == EventPurged }

// enters reports whether the tenant may have come into the registry by the change: an adoption begins with a claim, and a spare
// is a tenant at once.
func (c touch) enters() bool {
	return c.kind == EventClaimed || c.kind == EventCreated || c.kind == EventEnrolled
}

// touch notes that a tenant was changed, so that every process learns about it.
func (tx *registryTx) touch(id ID, kind EventKind, detail string) {
	tx.touched = append(tx.touched, newTouch(id, kind, detail, ""))
}

// actorOf is who does it, as the registry can keep it.
func actorOf(ctx context.Context) string {
	actor := ActorFrom(ctx)
	if len(actor) > maxActor {
		actor = strings.ToValidUTF8(actor[:maxActor], "")
	}
	return strings.ReplaceAll(actor, "\x00", "")
}

// errRetry: somebody else changed the tenant between reading and writing it. It does not leave [registry.change], which
// calls its function again.
var errRetry = fmt.Errorf("%w; read it again", ErrChanged)

const (
	// keepChanges is how many revisions the list of changes reaches back. A process that missed more forgets all it
	// knows.
	keepChanges = 10_000
	// keepHistory is how many changes of each tenant are kept for longer.
	keepHistory = 200
	// maxActor is the greatest length of an actor's name, in bytes.
	maxActor = 200
)

// change runs fn in a transaction, and counts the revision up for each tenant it touched. The revision is one row that
// all changes write, which makes revisions become visible in their order; it is written last, so that they queue for
// no longer than a commit takes. The changes that were made are returned.
func (r *registry) change(ctx context.Context, fn func(ctx context.Context, tx *registryTx) error) ([]touch, error) {
	for attempt := 0; ; attempt++ {
		touched, err := r.tryChange(ctx, fn)
		switch {
		case errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil:
			// database/sql rolls a transaction back when its context ends, and says no more than that it is over.
			return nil, fmt.Errorf("%w: %w", ctx.Err(), err)
		case !errors.Is(err, errRetry):
			return touched, err
		case attempt == 10:
			return nil, ErrChanged
		}
	}
}

func (r *registry) tryChange(ctx context.Context, fn func(ctx context.Context, tx *registryTx) error) ([]touch, error) {
	sqlTx, err := r.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	tx := &registryTx{Tx: sqlTx, reg: r}
	defer sqlTx.Rollback() //nolint:errcheck // it was committed, or failed for a reason that is returned
	if err := fn(ctx, tx); err != nil {
		return nil, err
	}
	if len(tx.touched) > 0 {
		actor := actorOf(ctx)
		for i := range tx.touched {
			tx.touched[i].actor = actor
		}
		if err := tx.enter(ctx); err != nil {
			return nil, err
		}
	}
	return tx.touched, sqlTx.Commit()
}

// enter writes the list of what was touched.
func (tx *registryTx) enter(ctx context.Context) error {
	n := len(tx.touched)
	last, err := tx.count(ctx)
	switch {
	case tx.hosts && errors.Is(err, sql.ErrNoRows):
		return otherHostRules()
	case err != nil:
		return err
	}
	for i := range tx.touched {
		tx.touched[i].revision = last - int64(n-1-i)
	}
	return nil
}

// count counts the revision up and writes what was touched beside it. It returns the last revision. On Postgres that is one
// statement; SQLite, which is asked without a round trip, has none that does both.
func (tx *registryTx) count(ctx context.Context) (last int64, err error) {
	n := len(tx.touched)
	up, args := `UPDATE tenement_revision SET revision = revision + $1, nonce = $2 WHERE id = 1`, []any{n, tx.touched[n-1].nonce}
	if tx.hosts {
		args = append(args, tx.reg.hostRules)
		up += ` AND host_rules = $3`
	}
	up += ` RETURNING revision`
	list := func(origin, from string, last int64) string {
		rows := make([]string, n)
		for i, t := range tx.touched {
			rows[i] = "(CAST(" + placeholders(len(args)+1, 1) + " AS BIGINT), " + placeholders(len(args)+2, 5) + ")"
			args = append(args, last+int64(i+1-n), string(t.id), string(t.kind), t.nonce, t.actor, t.detail)
		}
		// The time is that after the wait for the revision's row.
		return `INSERT INTO tenement_changes (revision, tenant_id, kind, nonce, actor, detail, at)
			SELECT ` + origin + `column1, column2, column3, column4, column5, column6, ` + tx.reg.now() + ` FROM ` + from + `(VALUES ` + strings.Join(rows, ",") + `) v`
	}
	if tx.reg.d == backend.Postgres {
		into := list(`r.revision + `, `r, `, 0)
		err = tx.QueryRowContext(ctx, `WITH r AS (`+up+`) `+into+` RETURNING (SELECT revision FROM r)`, args...).Scan(&last)
		return last, err
	}
	if err := tx.QueryRowContext(ctx, up, args...).Scan(&last); err != nil {
		return 0, err
	}
	args = args[:0]
	_, err = tx.ExecContext(ctx, list("", "", last), args...)
	return last, err
}

// update writes columns of the tenant as it was read, and errRetry when it was changed since. The assignments use $3
// and up. What it does besides is done to t too.
func (tx *registryTx) update(ctx context.Context, t *Tenant, kind EventKind, detail, set string, args ...any) error {
	var updated string
	err := tx.QueryRowContext(ctx, `UPDATE tenement_tenants SET version = version + 1, updated_at = `+tx.reg.now()+`, `+set+
		` WHERE id = $1 AND version = $2 RETURNING updated_at`, append([]any{string(t.ID), t.Version}, args...)...).Scan(&updated)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return errRetry
	case err != nil:
		return err
	}
	t.Version++
	t.Updated, err = time.Parse(timeFormat, updated)
	tx.touch(t.ID, kind, detail)
	return err
}

// selectTaken finds the tenants other than $1 whose slug, be it now or after a rename that is under way, is $2 or $3, or
// whose store is $3. A store may not be named after another tenant's slug: that is the name which the other one's store
// would have.
var selectTaken = takenBy("$1", "$2", "$3")

func takenBy(self, slug, store string) string {
	// One index each: of a condition with OR Postgres makes a scan of all tenants, until it has statistics of them.
	return strings.NewReplacer("$1", self, "$2", slug, "$3", store).Replace(`SELECT 'slug', slug FROM tenement_tenants WHERE slug = $2 AND id <> $1
		UNION ALL SELECT 'store', slug FROM tenement_tenants WHERE store = $3 AND id <> $1
		UNION ALL SELECT 'store', slug FROM tenement_tenants WHERE slug = $3 AND slug <> $2 AND id <> $1
		UNION ALL SELECT CASE WHEN o.slug = $2 THEN 'slug' ELSE 'store' END, t.slug FROM tenement_operations o
		JOIN tenement_tenants t ON t.id = o.tenant WHERE o.tenant <> $1 AND (o.slug = $2 OR o.slug = $3)`)
}

// conflict returns what is taken by a tenant other than self, or nil.
func (tx *registryTx) conflict(ctx context.Context, self ID, slug string, store backend.Store, hosts []string) error {
	if err := nameConflict(ctx, tx, self, slug, store); err != nil {
		return err
	}
	err := tx.domainConflict(ctx, self, hosts)
	var found *ConflictError
	if errors.As(err, &found) && found.By == slug {
		// It came between the two questions, which READ COMMITTED answers from two snapshots: what is taken is the slug.
		return &ConflictError{Field: "slug", Value: slug, By: slug}
	}
	return err
}

// nameConflict is conflict of slug and store alone.
func nameConflict(ctx context.Context, q querier, self ID, slug string, store backend.Store) error {
	rows, err := q.QueryContext(ctx, selectTaken, string(self), slug, store.String())
	if err != nil {
		return err
	}
	defer rows.Close()
	var found *ConflictError
	for rows.Next() {
		c := &ConflictError{Value: slug}
		if err := rows.Scan(&c.Field, &c.By); err != nil {
			return err
		}
		if c.Field == "store" {
			c.Value = store.String()
		}
		if found == nil || c.Field == "slug" {
			found = c
		}
	}
	if err := rows.Err(); err != nil || found == nil {
		return err
	}
	return found
}

func (tx *registryTx) domainConflict(ctx context.Context, self ID, hosts []string) error {
	for part := range slices.Chunk(hosts, maxIn) {
		args := []any{string(self)}
		for _, h := range part {
			args = append(args, h)
		}
		c := &ConflictError{Field: "domain"}
		err := tx.QueryRowContext(ctx, `SELECT d.host, t.slug FROM tenement_domains d JOIN tenement_tenants t ON t.id = d.tenant_id
			WHERE d.tenant_id <> $1 AND d.host IN (`+placeholders(2, len(part))+`) ORDER BY d.host LIMIT 1`, args...).Scan(&c.Value, &c.By)
		if err == nil {
			return c
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	return nil
}

// setDomains adds hosts to the tenant's domains; primary, unless it is empty, is the primary one. A host that another
// tenant took meanwhile is a *ConflictError.
func (tx *registryTx) setDomains(ctx context.Context, id ID, hosts []string, primary string) error {
	tx.hosts = tx.hosts || len(hosts) > 0
	for part := range slices.Chunk(hosts, maxIn) {
		values := make([]string, len(part))
		args := []any{string(id)}
		for i, h := range part {
			values[i] = fmt.Sprintf("($%d, $1, %t)", i+2, h == primary)
			args = append(args, h)
		}
		res, err := tx.ExecContext(ctx, `INSERT INTO tenement_domains (host, tenant_id, is_primary) VALUES `+strings.Join(values, ",")+
			` ON CONFLICT (host) DO NOTHING`, args...)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if int(n) != len(part) {
			if err := tx.domainConflict(ctx, id, part); err != nil {
				return err
			}
			return errRetry
		}
	}
	return nil
}

// write changes the registry and makes this process act on it. fn returns the tenants as they are after the change.
func (a *App) write(ctx context.Context, fn func(ctx context.Context, tx *registryTx) ([]*Tenant, error)) error {
	var changed []*Tenant
	touched, err := a.reg.change(ctx, func(ctx context.Context, tx *registryTx) (err error) {
		changed, err = fn(ctx, tx)
		return err
	})
	if err != nil || len(touched) == 0 {
		return err
	}
	a.noted(ctx, touched, changed)
	return nil
}

// noted makes this process act on changes that it has made.
func (a *App) noted(ctx context.Context, touched []touch, changed []*Tenant) {
	a.own.add(touched)
	a.gen.Add(1)
	a.prune(touched)
	for _, t := range changed {
		if tells(touched, t.ID, touch.purges) {
			a.lives.forget(t.ID)
		} else {
			a.learned(t, tells(touched, t.ID, touch.enters))
		}
	}
	for _, c := range touched {
		for _, t := range changed {
			if t.ID == c.id {
				a.tell(ctx, Event{Kind: c.kind, Tenant: *t, Actor: c.actor})
			}
		}
	}
}

// prune forgets old changes of what was touched, now and then, and behind who has changed it: one of a hundred of them would
// wait for that, and in a transaction all who come after it. What fails is tried again with other changes. A program that
// changes something and ends gets it done, too: Close waits for it, within bounds.
func (a *App) prune(touched []touch) {
	n := len(touched)
	last := touched[n-1].revision
	if last%64 >= int64(n) {
		return
	}
	a.background(func() {
		ctx, cancel := afterwards(a.ctx)
		defer cancel()
		for _, t := range touched {
			_, err := a.reg.db.ExecContext(ctx, `DELETE FROM tenement_changes WHERE tenant_id = $1 AND revision <= $2 AND revision <= COALESCE(
				(SELECT revision FROM tenement_changes WHERE tenant_id = $1 ORDER BY revision DESC LIMIT 1 OFFSET $3), 0)`,
				string(t.id), last-keepChanges, keepHistory)
			if err != nil {
				return
			}
		}
	})
}

// tells reports whether one of the changes is of that tenant and of that sort.
func tells(touched []touch, id ID, sort func(touch) bool) bool {
	return slices.ContainsFunc(touched, func(c touch) bool { return c.id == id && sort(c) })
}
