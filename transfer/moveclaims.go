package transfer

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

// claims are the stores that moves have made in the target and that are in service nowhere: what a move may remove when it is
// gone on with. They are kept in the target's shared store, in a table that is there while a move is not finished.
type claims struct {
	db    *sql.DB
	token string
}

// tokenRow is a row that tells the target from all other places.
const tokenRow = "token"

// open makes the table. unfinished says that there are claims.
func (c *claims) open(ctx context.Context) (unfinished bool, err error) {
	if _, err := c.db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS tenement_transfer (tenant TEXT PRIMARY KEY, store TEXT NOT NULL)`); err != nil {
		return false, err
	}
	err = c.db.QueryRowContext(ctx, `SELECT count(*) > 0 FROM tenement_transfer WHERE tenant <> $1`, tokenRow).Scan(&unfinished)
	if err != nil {
		return false, err
	}
	c.token = rand.Text()
	return unfinished, c.put(ctx, tokenRow, c.token)
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

// of returns the store that was claimed for a tenant; zero when there is none.
func (c *claims) of(ctx context.Context, id tenancy.ID) (s backend.Store, err error) {
	var name string
	err = c.db.QueryRowContext(ctx, `SELECT store FROM tenement_transfer WHERE tenant = $1`, string(id)).Scan(&name)
	if errors.Is(err, sql.ErrNoRows) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	return backend.ParseStore(name)
}

func (c *claims) release(ctx context.Context, id tenancy.ID) error {
	_, err := c.db.ExecContext(ctx, `DELETE FROM tenement_transfer WHERE tenant = $1`, string(id))
	return err
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

// removeGone removes what was copied of tenants that were purged in the source since, and forgets the claims on those
// that are in service.
func (m *move) removeGone(ctx context.Context) error {
	list, err := m.claims.all(ctx)
	if err != nil {
		return err
	}
	for id, store := range list {
		switch _, err := m.to.ByID(ctx, id); {
		case err == nil: // they were enrolled, and the process died
		case !errors.Is(err, tenancy.ErrNotFound):
			return err
		default:
			if _, err := m.from.ByID(ctx, id); err == nil {
				continue
			} else if !errors.Is(err, tenancy.ErrNotFound) {
				return err
			}
			if err := m.drop(m.target(ctx), backend.Route{Store: store, Owner: string(id)}); err != nil {
				return fmt.Errorf("remove what was copied of a tenant that is gone: %w", err)
			}
		}
		if err := m.claims.release(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
