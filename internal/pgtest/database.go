package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that this package looks for.
const (
	objectInUse         = "55006" // the template, or a database with connections
	tooManyConnections  = "53300"
	dependentObjects    = "2BP01"
	undefinedObject     = "42704"
	serializationDelete = "XX000" // "tuple concurrently updated" in shared catalogues
)

// NewDatabase makes a database, owned by a log-in role of its own that is no superuser but may create roles, as an
// application's role in production is, and returns the URL of that role. The role owns the schema public too. drop
// removes the database, whoever is connected, then the role, and the roles that only it is a member of.
func (c *Cluster) NewDatabase(ctx context.Context) (databaseURL string, drop func(context.Context) error, err error) {
	return c.newDatabase(ctx, "")
}

// NewCollatedDatabase is NewDatabase with a collation of ICU's, such as "en-US", instead of the cluster's.
func (c *Cluster) NewCollatedDatabase(ctx context.Context, icuLocale string) (databaseURL string, drop func(context.Context) error, err error) {
	return c.newDatabase(ctx, fmt.Sprintf(` ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE '%s'`, icuLocale))
}

func (c *Cluster) newDatabase(ctx context.Context, terms string) (databaseURL string, drop func(context.Context) error, err error) {
	name := randomName("t_")
	password := randomName("p_")
	u := *c.admin
	u.User = url.UserPassword(name, password)
	u.Path = "/" + name

	drop = func(ctx context.Context) error { return c.dropDatabase(ctx, name) }
	err = c.everywhere(ctx, c.maintenance(), func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, fmt.Sprintf(`CREATE ROLE %s LOGIN CREATEROLE PASSWORD '%s'`, name, password)); err != nil {
			return err
		}
		// template0, to which nobody can be connected: template1 is refused while somebody is.
		return retry(ctx, func() error {
			_, err := conn.Exec(ctx, fmt.Sprintf(`CREATE DATABASE %s OWNER %s TEMPLATE template0`, name, name)+terms)
			return err
		})
	})
	if err == nil {
		err = c.joinNodes(ctx, name)
	}
	if err == nil {
		err = c.everywhere(ctx, name, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `ALTER SCHEMA public OWNER TO `+name)
			return err
		})
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("pgtest: database: %w", err), drop(context.WithoutCancel(ctx)))
	}
	return u.String(), drop, nil
}

func (c *Cluster) dropDatabase(ctx context.Context, name string) error {
	err := c.everywhere(ctx, c.maintenance(), func(conn *pgx.Conn) error {
		return retry(ctx, func() error {
			_, err := conn.Exec(ctx, fmt.Sprintf(`DROP DATABASE IF EXISTS %s WITH (FORCE)`, name))
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("pgtest: dropping database %s: %w", name, err)
	}
	err = c.everywhere(ctx, c.maintenance(), func(conn *pgx.Conn) error {
		// Roles belong to the cluster, not to the database: those that the test made would be there for the next one.
		rows, err := conn.Query(ctx, `
			SELECT quote_ident(r.rolname) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles o ON o.oid = m.member
			WHERE o.rolname = $1 AND r.rolname NOT LIKE 'pg\_%'
			AND NOT EXISTS (SELECT FROM pg_auth_members other WHERE other.roleid = m.roleid AND other.member <> m.member)`, name)
		if err != nil {
			return err
		}
		roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, role := range append(roles, name) {
			err := retry(ctx, func() error {
				_, err := conn.Exec(ctx, `DROP ROLE IF EXISTS `+role)
				return err
			})
			// A role that owns something in another database stays: that is the business of whoever made it there.
			if err != nil && !hasSQLState(err, dependentObjects, undefinedObject) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("pgtest: dropping the roles of database %s: %w", name, err)
	}
	return nil
}

// maintenance names the database that the superuser connects to.
func (c *Cluster) maintenance() string { return strings.TrimPrefix(c.admin.Path, "/") }

// NewRole makes another log-in role, without rights of its own, and returns its URL to the database of databaseURL.
// drop removes the role and what it owns there.
func (c *Cluster) NewRole(ctx context.Context, databaseURL string) (roleURL string, drop func(context.Context) error, err error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "", nil, fmt.Errorf("pgtest: %w", err)
	}
	name, password := randomName("r_"), randomName("p_")
	u.User = url.UserPassword(name, password)
	err = c.everywhere(ctx, c.maintenance(), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD '%s'`, name, password))
		return err
	})
	if err != nil {
		return "", nil, fmt.Errorf("pgtest: role: %w", err)
	}
	drop = func(ctx context.Context) error {
		err := c.everywhere(ctx, strings.TrimPrefix(u.Path, "/"), func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, fmt.Sprintf(`DROP OWNED BY %s; DROP ROLE %s`, name, name))
			return err
		})
		if err != nil {
			return fmt.Errorf("pgtest: dropping role %s: %w", name, err)
		}
		return nil
	}
	return u.String(), drop, nil
}

// retry runs fn again while it fails for what other tests do at the same moment.
func retry(ctx context.Context, fn func() error) error {
	for delay := 5 * time.Millisecond; ; delay = min(2*delay, 200*time.Millisecond) {
		err := fn()
		if !hasSQLState(err, objectInUse, tooManyConnections, serializationDelete) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(delay):
		}
	}
}

func hasSQLState(err error, states ...string) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	for _, state := range states {
		if pgErr.Code == state {
			return true
		}
	}
	return false
}
