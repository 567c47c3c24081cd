package tenancy

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

// Elsewhere opens the registry of another backend with this App's Config, less the hooks, the directory of files and the spares: for
// what takes tenants from the one to the other. The caller closes the App, and then the backend.
func (a *App) Elsewhere(ctx context.Context, be backend.Backend) (*App, error) {
	cfg := a.cfg
	cfg.Hooks, cfg.FilesDir, cfg.Spares = Hooks{}, "", 0
	return Open(ctx, be, cfg)
}

// CheckEnroll returns a [*ConflictError] when [App.Enroll] could not enter one of these tenants of another registry, because its
// ID, slug, store or a domain is taken. It changes nothing.
func (a *App) CheckEnroll(ctx context.Context, tenants []Tenant) error {
	_, err := a.reg.change(Leave(ctx), func(ctx context.Context, tx *registryTx) error {
		for i := range tenants {
			if err := tx.enrollable(ctx, &tenants[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return opError("enroll", "tenants", err)
}

// Enroll enters tenants of another registry into this one, as they are there: with their IDs, slugs, domains, those that are
// pending too, status, metadata and history. All of them are there at once, or none is. Their stores have to be there
// already, under the same names and with the tenants' stamps; files stay where they are, in a directory named after the
// ID. It returns ErrNotFound when from has no such tenant, a [*StatusError] for one that is not made yet, a
// [*ConflictError] when ID, slug, store or a domain is taken here, and backend.ErrStoreMissing when the store that a tenant has
// there is not here, or is another owner's: it was renamed since, say.
func (a *App) Enroll(ctx context.Context, from *App, ids []ID) error {
	ctx = Leave(ctx)
	var all []*enrolled
	for _, id := range ids {
		e, err := from.enrolled(ctx, id)
		if err != nil {
			return opError("enroll", string(id), err)
		}
		all = append(all, e)
	}
	if err := a.findStores(ctx, all); err != nil {
		return opError("enroll", "tenants", err)
	}
	err := a.write(ctx, func(ctx context.Context, tx *registryTx) (list []*Tenant, err error) {
		for _, e := range all {
			if err := tx.enroll(ctx, e, string(from.be.Dialect())); err != nil {
				return nil, fmt.Errorf("%s: %w", e.t.Slug, err)
			}
			own := *e.t
			own.live = nil
			list = append(list, &own)
		}
		for _, e := range all { // last, since others wait for it
			if err := tx.enterHistory(ctx, e.t.ID, e.history); err != nil {
				return nil, fmt.Errorf("%s: %w", e.t.Slug, err)
			}
		}
		return list, nil
	})
	return opError("enroll", "tenants", err)
}

// enrolled is all that a registry has of a tenant that is entered into another.
type enrolled struct {
	t         *Tenant
	restoreTo Status
	pending   [][]any // host, token, reason, created_at
	history   [][]any // kind, actor, detail, at

	owner string // of what is here under the name of its store; empty when nothing is
}

// findStores looks whose the stores are that the tenants are to have: in one list, which takes few round trips for many.
func (a *App) findStores(ctx context.Context, all []*enrolled) error {
	wanted := make(map[backend.Store]*enrolled, len(all))
	for _, e := range all {
		wanted[e.t.Store] = e
	}
	for info, err := range a.be.Stores(ctx) {
		if err != nil {
			return err
		}
		if e := wanted[info.Store]; e != nil {
			e.owner = info.Owner
		}
	}
	return nil
}

// enrolled reads a tenant in one transaction.
func (a *App) enrolled(ctx context.Context, id ID) (*enrolled, error) {
	tx, err := a.reg.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback() //nolint:errcheck // it has changed nothing
	e := &enrolled{}
	if e.t, err = one(ctx, tx, selectByID, string(id)); err != nil {
		return nil, err
	}
	if e.t.Status == Provisioning || e.t.Status == Failed {
		return nil, &StatusError{Op: "enroll", Slug: e.t.Slug, Status: e.t.Status, Remedy: "its creation has to be over"}
	}
	if e.restoreTo, err = restoreTo(ctx, tx, id); err != nil {
		return nil, err
	}
	e.pending, err = texts(ctx, tx, 4, `SELECT host, token, reason, created_at FROM tenement_pending_domains WHERE tenant_id = $1 ORDER BY host`, string(id))
	if err != nil {
		return nil, err
	}
	e.history, err = texts(ctx, tx, 4, `SELECT kind, actor, detail, at FROM tenement_changes WHERE tenant_id = $1 ORDER BY revision`, string(id))
	return e, err
}

// texts returns the rows of a query whose columns are texts.
func texts(ctx context.Context, q querier, columns int, query string, args ...any) (list [][]any, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		row, dest := make([]string, columns), make([]any, columns)
		for i := range row {
			dest[i] = &row[i]
		}
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		values := make([]any, columns)
		for i, text := range row {
			values[i] = text
		}
		list = append(list, values)
	}
	return list, rows.Err()
}

// enrollable returns what is in the way of a tenant.
func (tx *registryTx) enrollable(ctx context.Context, t *Tenant) error {
	switch other, err := one(ctx, tx, selectByID, string(t.ID)); {
	case err == nil:
		return &ConflictError{Field: "id", Value: string(t.ID), By: other.Slug}
	case !errors.Is(err, ErrNotFound):
		return err
	}
	var hosts []string
	for _, d := range t.Domains {
		hosts = append(hosts, d.Host)
	}
	return tx.conflict(ctx, t.ID, t.Slug, t.Store, hosts)
}

func (tx *registryTx) enroll(ctx context.Context, e *enrolled, origin string) error {
	t := e.t
	if err := tx.enrollable(ctx, t); err != nil {
		return err
	}
	if e.owner != string(t.ID) {
		return &backend.Error{Op: "enroll", Store: t.Store, Err: backend.ErrStoreMissing}
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO tenement_tenants (id, slug, name, status, reason, store, meta, version, restore_to, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`,
		string(t.ID), t.Slug, t.Name, string(t.Status), t.Reason, t.Store.String(), string(t.Meta), t.Version, string(e.restoreTo),
		t.Created.Format(timeFormat), t.Updated.Format(timeFormat))
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return errRetry // what is in the way came meanwhile
	}
	hosts := make([]string, 0, len(t.Domains))
	for _, d := range t.Domains {
		hosts = append(hosts, d.Host)
	}
	if err := tx.setDomains(ctx, t.ID, hosts, t.PrimaryDomain()); err != nil {
		return err
	}
	if err := tx.insertTexts(ctx, `tenement_pending_domains (tenant_id, host, token, reason, created_at)`, string(t.ID), e.pending); err != nil {
		return err
	}
	tx.touch(t.ID, EventEnrolled, "from "+origin)
	return nil
}

// insertTexts inserts rows that begin with the tenant's ID.
func (tx *registryTx) insertTexts(ctx context.Context, into, id string, rows [][]any) error {
	for _, row := range rows {
		args := append([]any{id}, row...)
		if _, err := tx.ExecContext(ctx, `INSERT INTO `+into+` VALUES (`+placeholders(1, len(args))+`)`, args...); err != nil {
			return err
		}
	}
	return nil
}

// historyNonce is the nonce of what was done to a tenant before he came here: nobody is told of it as of a change.
const historyNonce = "history"

// enterHistory enters what was done to a tenant before, with revisions of this registry.
func (tx *registryTx) enterHistory(ctx context.Context, id ID, history [][]any) error {
	if len(history) == 0 {
		return nil
	}
	var last int64
	err := tx.QueryRowContext(ctx, `UPDATE tenement_revision SET revision = revision + $1 WHERE id = 1 RETURNING revision`, len(history)).Scan(&last)
	if err != nil {
		return err
	}
	const most = 500
	for at := 0; at < len(history); at += most {
		part := history[at:min(at+most, len(history))]
		values, args := make([]string, len(part)), []any{string(id)}
		for i, row := range part {
			values[i] = fmt.Sprintf("(%d, $1, '"+historyNonce+"', %s)", last-int64(len(history)-1-at-i), placeholders(len(args)+1, len(row)))
			args = append(args, row...)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO tenement_changes (revision, tenant_id, nonce, kind, actor, detail, at) VALUES `+strings.Join(values, ","), args...); err != nil {
			return err
		}
	}
	return nil
}
