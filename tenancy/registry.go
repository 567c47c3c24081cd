package tenancy

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// registrySource is the migrations of the registry's own tables. Its version table is not one of the application's.
func registrySource() migrate.Source {
	root, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return migrate.Source{Name: "tenement", FS: root, Table: "goose_tenement"}
}

// registry reads and writes the registry's tables in the shared store. The SQL is the same on both backends.
type registry struct {
	db *sql.DB
	// queries is called before each question of the resolver. Tests count in it.
	queries func()
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// pendingOp is an operation of several steps that was begun and not finished.
type pendingOp struct {
	kind  string        // "", "rename" or "purge"
	slug  string        // the slug before a rename
	store backend.Store // where a rename takes the store; zero when the store stays
}

const (
	opRename = "rename"
	opPurge  = "purge"
)

const tenantColumns = `t.id, t.slug, t.name, t.status, t.reason, t.store, t.meta, t.Version, t.op, t.op_slug,
 COALESCE(t.op_store, ''), t.created_at, t.updated_at, COALESCE(d.host, ''), COALESCE(d.is_primary, FALSE)`

const fromTenants = ` FROM tenement_tenants t LEFT JOIN tenement_domains d ON d.tenant_id = t.id`

// The three ways to look one tenant up: one indexed query each.
const (
	selectByID   = `SELECT ` + tenantColumns + fromTenants + ` WHERE t.id = $1 ORDER BY d.host`
	selectBySlug = `SELECT ` + tenantColumns + fromTenants + ` WHERE t.slug = $1 ORDER BY d.host`
	selectByHost = `SELECT ` + tenantColumns + fromTenants + ` JOIN tenement_domains k ON k.tenant_id = t.id WHERE k.host = $1 ORDER BY d.host`
)

// timeFormat sorts as text, and reads the same from both backends.
const timeFormat = "2006-01-02T15:04:05.000000Z"

func now() string { return time.Now().UTC().Format(timeFormat) }

// scanTenants yields the tenants of rows in which a tenant comes once per domain, one after the other.
func scanTenants(rows *sql.Rows) iter.Seq2[*Tenant, error] {
	return func(yield func(*Tenant, error) bool) {
		defer rows.Close()
		var last *Tenant
		for rows.Next() {
			var (
				t                                Tenant
				store, opStore, created, updated string
				meta                             []byte
				domain                           Domain
			)
			err := rows.Scan(&t.ID, &t.Slug, &t.Name, &t.Status, &t.Reason, &store, &meta, &t.Version, &t.pending.kind,
				&t.pending.slug, &opStore, &created, &updated, &domain.Host, &domain.Primary)
			if err != nil {
				yield(nil, err)
				return
			}
			if last == nil || last.ID != t.ID {
				if last != nil && !yield(last, nil) {
					return
				}
				t.Meta = Meta(meta)
				if err := t.parse(store, opStore, created, updated); err != nil {
					yield(nil, err)
					return
				}
				last = &t
			}
			if domain.Host != "" {
				last.Domains = append(last.Domains, domain)
			}
		}
		if err := rows.Err(); err != nil {
			yield(nil, err)
			return
		}
		if last != nil {
			yield(last, nil)
		}
	}
}

func (t *Tenant) parse(store, opStore, created, updated string) error {
	var err error
	if t.Store, err = backend.ParseStore(store); err != nil {
		return fmt.Errorf("registry entry of %s: %w", t.ID, err)
	}
	if opStore != "" {
		if t.pending.store, err = backend.ParseStore(opStore); err != nil {
			return fmt.Errorf("registry entry of %s: %w", t.ID, err)
		}
	}
	if t.Created, err = time.Parse(timeFormat, created); err != nil {
		return fmt.Errorf("registry entry of %s: %w", t.ID, err)
	}
	if t.Updated, err = time.Parse(timeFormat, updated); err != nil {
		return fmt.Errorf("registry entry of %s: %w", t.ID, err)
	}
	return nil
}

// one returns the tenant that query finds, or ErrNotFound.
func one(ctx context.Context, q querier, query, key string) (*Tenant, error) {
	rows, err := q.QueryContext(ctx, query, key)
	if err != nil {
		return nil, err
	}
	for t, err := range scanTenants(rows) {
		return t, err
	}
	return nil, ErrNotFound
}

// maxIn is the greatest number of values in one IN list.
const maxIn = 256

// many returns those of the tenants that there are.
func many(ctx context.Context, q querier, ids []ID) ([]*Tenant, error) {
	var found []*Tenant
	for len(ids) > 0 {
		n := min(len(ids), maxIn)
		// Few different texts, so that prepared statements stay few: the list is filled up with what is in it already.
		size := 1
		for size < n {
			size *= 4
		}
		args := make([]any, size)
		for i := range args {
			args[i] = string(ids[min(i, n-1)])
		}
		rows, err := q.QueryContext(ctx, `SELECT `+tenantColumns+fromTenants+
			` WHERE t.id IN (`+placeholders(1, size)+`) ORDER BY t.id, d.host`, args...)
		if err != nil {
			return nil, err
		}
		for t, err := range scanTenants(rows) {
			if err != nil {
				return nil, err
			}
			found = append(found, t)
		}
		ids = ids[n:]
	}
	return found, nil
}

func placeholders(from, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "$%d", from+i)
	}
	return b.String()
}

// registryTx is a transaction that changes the registry.
type registryTx struct {
	*sql.Tx
	touched []touch
	at      string
}

type touch struct {
	id   ID
	kind EventKind
}

// touch notes that a tenant was changed, so that every process learns about it.
func (tx *registryTx) touch(id ID, kind EventKind) {
	tx.touched = append(tx.touched, touch{id, kind})
}

// errRetry: somebody else changed the tenant between reading and writing it.
var errRetry = errors.New("the tenant was changed meanwhile")

// keepChanges is how many revisions the list of changes reaches back. A process that missed more forgets all it knows.
const keepChanges = 10_000

// change runs fn in a transaction, and counts the revision up for each tenant it touched. The revision is one row that
// all changes write, which makes revisions become visible in their order; it is written last, so that they queue for
// no longer than a commit takes. The revisions that the change got are returned.
func (r *registry) change(ctx context.Context, fn func(ctx context.Context, tx *registryTx) error) (first, last int64, err error) {
	for attempt := 0; ; attempt++ {
		first, last, err = r.tryChange(ctx, fn)
		if !errors.Is(err, errRetry) || attempt == 10 {
			return first, last, err
		}
	}
}

func (r *registry) tryChange(ctx context.Context, fn func(ctx context.Context, tx *registryTx) error) (first, last int64, err error) {
	sqlTx, err := r.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, 0, err
	}
	tx := &registryTx{Tx: sqlTx, at: now()}
	defer sqlTx.Rollback() //nolint:errcheck // it was committed, or failed for a reason that is returned
	if err := fn(ctx, tx); err != nil {
		return 0, 0, err
	}
	n := len(tx.touched)
	if n == 0 {
		return 0, 0, nil
	}
	err = tx.QueryRowContext(ctx, `UPDATE tenement_revision SET revision = revision + $1 WHERE id = 1 RETURNING revision`, n).Scan(&last)
	if err != nil {
		return 0, 0, err
	}
	first = last - int64(n) + 1
	values := make([]string, n)
	args := make([]any, 0, 3*n)
	for i, t := range tx.touched {
		values[i] = "(" + placeholders(3*i+1, 3) + ")"
		args = append(args, first+int64(i), string(t.id), string(t.kind))
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO tenement_changes (revision, tenant_id, kind) VALUES `+strings.Join(values, ","), args...)
	if err != nil {
		return 0, 0, err
	}
	if last%1024 < int64(n) {
		if _, err := tx.ExecContext(ctx, `DELETE FROM tenement_changes WHERE revision <= $1`, last-keepChanges); err != nil {
			return 0, 0, err
		}
	}
	return first, last, sqlTx.Commit()
}

// update writes columns of the tenant as it was read, and errRetry when it was changed since. The assignments use $4
// and up.
func (tx *registryTx) update(ctx context.Context, t *Tenant, kind EventKind, set string, args ...any) error {
	res, err := tx.ExecContext(ctx, `UPDATE tenement_tenants SET version = version + 1, updated_at = $3, `+set+` WHERE id = $1 AND version = $2`,
		append([]any{string(t.ID), t.Version, tx.at}, args...)...)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return errRetry
	}
	tx.touch(t.ID, kind)
	return nil
}

// conflict returns what of p is taken by a tenant other than self, or nil.
func (tx *registryTx) conflict(ctx context.Context, self ID, slug string, store backend.Store, hosts []string) error {
	rows, err := tx.QueryContext(ctx, `SELECT CASE WHEN slug = $2 THEN 'slug' ELSE 'store' END, slug FROM tenement_tenants
		WHERE id <> $1 AND (slug = $2 OR store = $3 OR op_store = $3)`, string(self), slug, store.String())
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
	if err := rows.Err(); err != nil {
		return err
	}
	if found != nil {
		return found
	}
	return tx.domainConflict(ctx, self, hosts)
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

// setDomains makes hosts the tenant's domains, the first of them primary. A host that another tenant took meanwhile is
// a *ConflictError.
func (tx *registryTx) setDomains(ctx context.Context, id ID, hosts []string) error {
	for part := range slices.Chunk(hosts, maxIn) {
		values := make([]string, len(part))
		args := []any{string(id)}
		for i, h := range part {
			values[i] = fmt.Sprintf("($%d, $1, %t)", i+2, h == hosts[0])
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
