package tenancy

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
	"github.com/tenement-go/tenement/migrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// registryVersion is the newest of the migrations.
const registryVersion = 4

// registrySource is the migrations of the registry's own tables.
func registrySource() migrate.Source {
	root, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return migrate.Source{Name: "tenement", FS: root, Table: "goose_tenement"}
}

// registry reads and writes the registry's tables in the shared store. The SQL is the same on both backends, but for what
// is here.
type registry struct {
	db        *sql.DB
	d         backend.Dialect
	hostRules string // by which this process spells hosts
	// queries is called before each question of the resolver. Tests count in it.
	queries func()
}

// now is the time of the database in timeFormat: the clocks of several machines differ.
func (r *registry) now() string {
	if r.d == backend.Postgres {
		return `to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`
	}
	return `strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')`
}

// tables says what is in the shared store.
type tables struct{ registry, others bool }

func (r *registry) tables(ctx context.Context) (found tables, err error) {
	query := `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'`
	if r.d == backend.Postgres {
		query = `SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p') AND c.oid = ANY (` + sqltext.InSchema("pg_class", "'public'::regnamespace") + `)`
	}
	rows, err := r.db.QueryContext(ctx, query)
	if err != nil {
		return found, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return found, err
		}
		switch {
		case name == "goose_tenement":
			found.registry = true
		case !strings.HasPrefix(name, "tenement_") && !strings.HasPrefix(name, "goose_"):
			found.others = true
		}
	}
	return found, rows.Err()
}

// version is the newest of the registry's migrations that is applied.
func (r *registry) version(ctx context.Context) (version int64, err error) {
	err = r.db.QueryRowContext(ctx, `SELECT COALESCE(max(version_id), 0) FROM goose_tenement WHERE is_applied`).Scan(&version)
	return version, err
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

const tenantColumns = `t.id, t.slug, t.name, t.status, t.reason, t.store, t.meta, t.version,
 t.created_at, t.updated_at, COALESCE(d.host, ''), COALESCE(d.is_primary, FALSE)`

const fromTenants = ` FROM tenement_tenants t LEFT JOIN tenement_domains d ON d.tenant_id = t.id`

// The ways to look one tenant up: one indexed query each.
const (
	selectByID    = `SELECT ` + tenantColumns + fromTenants + ` WHERE t.id = $1 ORDER BY d.host`
	selectBySlug  = `SELECT ` + tenantColumns + fromTenants + ` WHERE t.slug = $1 ORDER BY d.host`
	selectByStore = `SELECT ` + tenantColumns + fromTenants + ` WHERE t.store = $1 ORDER BY d.host`
	selectByHost  = `SELECT ` + tenantColumns + fromTenants + ` JOIN tenement_domains k ON k.tenant_id = t.id WHERE k.host = $1 ORDER BY d.host`
)

// timeFormat sorts as text, and reads the same from both backends.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// scanTenants yields the tenants of rows in which a tenant comes once per domain, one after the other.
func scanTenants(rows *sql.Rows) iter.Seq2[*Tenant, error] {
	return func(yield func(*Tenant, error) bool) {
		defer rows.Close()
		var last *Tenant
		for rows.Next() {
			var (
				t                       Tenant
				store, created, updated string
				meta                    []byte
				domain                  Domain
			)
			err := rows.Scan(&t.ID, &t.Slug, &t.Name, &t.Status, &t.Reason, &store, &meta, &t.Version,
				&created, &updated, &domain.Host, &domain.Primary)
			if err != nil {
				yield(nil, err)
				return
			}
			if last == nil || last.ID != t.ID {
				if last != nil && !yield(last, nil) {
					return
				}
				t.Meta = Meta(meta)
				if err := t.parse(store, created, updated); err != nil {
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

func (t *Tenant) parse(store, created, updated string) (err error) {
	if t.Store, err = backend.ParseStore(store); err == nil {
		t.Created, t.Updated, err = parseTimes(created, updated)
	}
	if err != nil {
		return fmt.Errorf("registry entry of %s: %w", t.ID, err)
	}
	return nil
}

func parseTimes(a, b string) (at, bt time.Time, err error) {
	if at, err = time.Parse(timeFormat, a); err == nil {
		bt, err = time.Parse(timeFormat, b)
	}
	return at, bt, err
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

// ahead reports whether a store is left alone by what goes through all stores, until whoever makes it enters it into the
// ledger: a spare, one that an operation is still at, and that of a tenant who is not here, since he is being moved here, say.
func (r *registry) ahead(ctx context.Context, s backend.StoreInfo) (ahead bool, err error) {
	if isSpare(s.Owner) {
		return true, nil
	}
	err = r.db.QueryRowContext(ctx, `SELECT NOT EXISTS (SELECT 1 FROM tenement_tenants WHERE id = $1)
		OR EXISTS (SELECT 1 FROM tenement_operations WHERE tenant = $1)`, s.Owner).Scan(&ahead)
	return ahead, err
}
