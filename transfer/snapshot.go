package transfer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// snapshot is a tenant's store as of one moment, however long it is read.
type snapshot struct {
	reader
	sources []migrate.AppliedSource
	without []string
}

// leave are the tables that are not moved: goose's version tables, which belong to the migrations, and those that the
// caller does without.
func leave(sources []migrate.AppliedSource, without []string) map[string]bool {
	set := map[string]bool{}
	for _, s := range sources {
		set[s.Table] = true
	}
	for _, name := range without {
		set[name] = true
	}
	return set
}

// own is the route to the tenant's store as t has it, whatever has become of him since.
func own(t tenancy.Tenant) backend.Route { return backend.Route{Store: t.Store, Owner: string(t.ID)} }

// withSnapshot reads a store in one transaction, which sees nothing that others write meanwhile: on Postgres it
// is REPEATABLE READ, READ ONLY, on SQLite a read transaction. It returns ErrMigrated when it was not covered by that.
func withSnapshot(ctx context.Context, app *tenancy.App, rt backend.Route, without []string, fn func(s *snapshot) error) error {
	ctx = tenancy.Leave(ctx)
	opt := &sql.TxOptions{ReadOnly: true}
	if app.Backend().Dialect() == backend.Postgres {
		opt.Isolation = sql.LevelRepeatableRead
	}
	applied, err := app.Migrator().Applied(ctx, rt)
	if err != nil {
		return err
	}
	db := app.Backend().DBFor(rt)
	defer db.Close()
	return within(ctx, db, opt, func(conn *sql.Conn, tx *sql.Tx) error {
		s := &snapshot{without: without}
		var err error
		if s.sources, err = applied(ctx, tx); err != nil {
			return err
		}
		set := leave(s.sources, without)
		if app.Backend().Dialect() == backend.Postgres {
			s.reader, err = openPostgres(ctx, conn, tx, set)
		} else {
			s.reader, err = openSQLite(ctx, tx, set)
		}
		if err != nil {
			return err
		}
		return s.readBy(ctx, fn)
	})
}

// readBy has fn read, and sees to it that what it has read was as of one moment.
func (s *snapshot) readBy(ctx context.Context, fn func(s *snapshot) error) error {
	if err := fn(s); err != nil {
		return err
	}
	return s.unrewritten(ctx)
}

// within calls fn within a transaction, and commits it.
func within(ctx context.Context, db *sql.DB, opt *sql.TxOptions, fn func(conn *sql.Conn, tx *sql.Tx) error) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return withinOn(ctx, conn, opt, fn)
}

// withinOn is within on a connection that the caller has.
func withinOn(ctx context.Context, conn *sql.Conn, opt *sql.TxOptions, fn func(conn *sql.Conn, tx *sql.Tx) error) error {
	tx, err := conn.BeginTx(ctx, opt)
	if err != nil {
		return err
	}
	if err := fn(conn, tx); err != nil {
		if undo := tx.Rollback(); undo != nil && !errors.Is(undo, sql.ErrTxDone) && ctx.Err() == nil {
			return fmt.Errorf("%w (and the transaction could not be rolled back: %w)", err, undo)
		}
		return err
	}
	return tx.Commit()
}
