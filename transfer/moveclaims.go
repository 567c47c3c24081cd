package transfer

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

// claims are the stores that moves have made in the target and that are in service nowhere, unless the claims are from a backup:
// what a move may remove when it is gone on with, by the stamp of what arrives. They are kept in the target's shared store, in a
// table that is there while a move is not finished.
type claims struct {
	db    *sql.DB
	token string
	had   map[tenancy.ID]backend.Store // when it was opened; nobody else adds to them, who would need the target's lock
}

// tokenRow is a row that tells the target from all other places.
const tokenRow = "token"

// open makes the table, and reads what is in it. unfinished says that there are claims.
func (c *claims) open(ctx context.Context) (unfinished bool, err error) {
	if _, err := c.db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS tenement_transfer (tenant TEXT PRIMARY KEY, store TEXT NOT NULL)`); err != nil {
		return false, err
	}
	if c.had, err = c.all(ctx); err != nil {
		return false, err
	}
	c.token = rand.Text()
	return len(c.had) > 0, c.put(ctx, tokenRow, c.token)
}

func (c *claims) put(ctx context.Context, tenant, store string) error {
	_, err := c.db.ExecContext(ctx, `INSERT INTO tenement_transfer (tenant, store) VALUES ($1, $2)
		ON CONFLICT (tenant) DO UPDATE SET store = $2`, tenant, store)
	return err
}

// seenFrom reports whether the source is the target.
func (c *claims) seenFrom(ctx context.Context, from *tenancy.App) (bool, error) {
	query := `SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = 'tenement_transfer')`
	if from.Backend().Dialect() == backend.Postgres {
		query = `SELECT to_regclass('public.tenement_transfer') IS NOT NULL`
	}
	var there bool
	if err := from.Shared().QueryRowContext(ctx, query).Scan(&there); err != nil || !there {
		return false, err
	}
	var token string
	err := from.Shared().QueryRowContext(ctx, `SELECT store FROM tenement_transfer WHERE tenant = $1`, tokenRow).Scan(&token)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return token == c.token, err
}

func (c *claims) claim(ctx context.Context, id tenancy.ID, s backend.Store) error {
	return c.put(ctx, string(id), s.String())
}

// release forgets claims, many at once: each statement is a commit.
func (c *claims) release(ctx context.Context, ids ...tenancy.ID) error {
	for lot := range slices.Chunk(ids, 500) {
		list := make([]any, len(lot))
		for i, id := range lot {
			list[i] = string(id)
		}
		_, err := c.db.ExecContext(ctx, `DELETE FROM tenement_transfer WHERE tenant IN (`+numbered(len(lot))+`)`, list...)
		if err != nil {
			return err
		}
	}
	return nil
}

// numbered is a list of so many placeholders.
func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ", $%d", i+1)
	}
	return b.String()[2:]
}

// all returns the claims.
func (c *claims) all(ctx context.Context) (map[tenancy.ID]backend.Store, error) {
	list := map[tenancy.ID]backend.Store{}
	err := each(ctx, c.db, `SELECT tenant, store FROM tenement_transfer WHERE tenant <> $1`, []any{tokenRow}, func(scan func(...any) error) error {
		var id, name string
		if err := scan(&id, &name); err != nil {
			return err
		}
		s, err := backend.ParseStore(name)
		list[tenancy.ID(id)] = s
		return err
	})
	return list, err
}

// close removes the table when there are no claims any more.
func (c *claims) close(ctx context.Context) error {
	left, err := c.all(ctx)
	if err != nil || len(left) > 0 {
		return err
	}
	_, err = c.db.ExecContext(ctx, `DROP TABLE tenement_transfer`)
	return err
}

// mayBeLater returns the target when it is one server of Postgres: what the move loads need not wait for the disk one by one
// then, see settle.
func (m *move) mayBeLater() backend.ScriptRunner {
	if runner, able := m.to.Backend().(backend.ScriptRunner); able && m.to.Backend().Dialect() == backend.Postgres && len(m.to.Places()) < 2 {
		return runner
	}
	return nil
}

// settle makes durable what was loaded. Should the server have failed meanwhile, and forgotten some of it, then it has
// lost the lock too, which is a session's: the move ends, and looks at all of it when it is gone on with.
func (m *move) settle(ctx context.Context) error {
	if m.later == nil {
		return nil
	}
	if err := m.later.Flush(ctx); err != nil {
		return err
	}
	return m.lock.Check(ctx)
}

// removeStale removes what was copied of tenants that were purged in the source since, or whose store has another name there by
// now, and forgets the claims on those and on the ones that are in service. again are those of the result that are to be copied
// anew.
func (m *move) removeStale(ctx context.Context) (again []tenancy.Tenant, err error) {
	list, err := m.claims.all(ctx)
	if err != nil {
		return nil, err
	}
	for id, store := range list {
		switch _, err := m.to.ByID(ctx, id); {
		case err == nil: // they were enrolled, and the process died
		case !errors.Is(err, tenancy.ErrNotFound):
			return nil, err
		default:
			now, err := m.from.ByID(ctx, id)
			gone := errors.Is(err, tenancy.ErrNotFound)
			if err != nil && !gone {
				return nil, err
			}
			if now.Store == store {
				continue
			}
			if err := m.drop(m.lock.Fence(ctx), id, store); err != nil {
				return nil, fmt.Errorf("remove what was copied of a tenant that is gone or renamed: %w", err)
			}
			if undone := m.undo(id); undone && !gone {
				again = append(again, now)
			}
			m.arrived.remove(id)
		}
		if err := m.claims.release(ctx, id); err != nil {
			return nil, err
		}
	}
	return again, nil
}

// undo takes a tenant, of which there is nothing in the target any more, out of the result, if it is in there.
func (m *move) undo(id tenancy.ID) (undone bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.res.Tenants)
	m.res.Tenants = slices.DeleteFunc(m.res.Tenants, func(t MovedTenant) bool { return t.Tenant.ID == id })
	delete(m.claims.had, id)
	return len(m.res.Tenants) < before
}
