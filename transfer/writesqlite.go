package transfer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// sqliteWriter writes into a store of SQLite, or into a file, in one transaction. In a store it keeps foreign keys and
// triggers out of the way: a Maintenance handle's transaction enforces no keys, and has them checked before it commits, as
// withinUnenforced does for the shared store; triggers are dropped, and made again from their text, which SQLite keeps.
type sqliteWriter struct {
	conn     *sql.Conn // on which tx is
	tx       *sql.Tx
	triggers []string
}

var _ writer = (*sqliteWriter)(nil)

// withinUnenforced is [within] for the shared store, of which there is no Maintenance handle: foreign keys are not enforced, and
// are checked before the commit. To put them off to the commit would leave them their actions: a table that is left out and
// refers to one that is emptied would lose its rows.
func withinUnenforced(ctx context.Context, db *sql.DB, opt *sql.TxOptions, fn func(conn *sql.Conn, tx *sql.Tx) error) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, `PRAGMA foreign_keys = OFF`); err != nil { // until the connection is given back
		return err
	}
	return withinOn(ctx, conn, opt, func(conn *sql.Conn, tx *sql.Tx) error {
		if err := fn(conn, tx); err != nil {
			return err
		}
		return checkForeignKeys(ctx, tx)
	})
}

// checkForeignKeys returns an error when a row refers to one that is not there.
func checkForeignKeys(ctx context.Context, q querier) error {
	var table, parent string
	switch err := q.QueryRowContext(ctx, `SELECT "table", parent FROM pragma_foreign_key_check`).Scan(&table, &parent); {
	case err == nil:
		return fmt.Errorf("FOREIGN KEY constraint failed: a row of table %s refers to one of table %s that is not there", table, parent)
	case !errors.Is(err, sql.ErrNoRows):
		return err
	}
	return nil
}

// openSQLiteWriter empties the tables of a store, and takes its triggers away.
func openSQLiteWriter(ctx context.Context, conn *sql.Conn, tx *sql.Tx, list []Table) (*sqliteWriter, error) {
	w := &sqliteWriter{conn: conn, tx: tx}
	var names []string
	err := each(ctx, tx, `SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger' ORDER BY rowid`, nil, func(scan func(...any) error) error {
		var name, text string
		err := scan(&name, &text)
		names, w.triggers = append(names, name), append(w.triggers, text)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, err := tx.ExecContext(ctx, `DROP TRIGGER main.`+sqltext.Quote(name)); err != nil {
			return nil, err
		}
	}
	for _, t := range list {
		if _, err := tx.ExecContext(ctx, `DELETE FROM main.`+sqltext.Quote(t.Name)); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// finish puts the triggers back.
func (w *sqliteWriter) finish(ctx context.Context) error {
	for _, text := range w.triggers {
		if _, err := w.tx.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// sequence sets where AUTOINCREMENT goes on. A table without it has nowhere to keep that: SQLite itself gives out the
// highest number that is there, plus one.
func (w *sqliteWriter) sequence(ctx context.Context, s Sequence) error {
	if !s.Called {
		s.Last-- // the next one is what SQLite does not keep
	}
	if s.Table == "" || s.Last < 1 {
		return nil
	}
	var there bool
	err := w.tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence')`).Scan(&there)
	if err != nil || !there {
		return err
	}
	var name string
	err = w.tx.QueryRowContext(ctx, `SELECT name FROM main.sqlite_schema WHERE type = 'table' AND lower(name) = lower($1)
		AND sql LIKE '%AUTOINCREMENT%'`, s.Table).Scan(&name)
	if err == sql.ErrNoRows {
		return nil
	}
	if err != nil {
		return err
	}
	res, err := w.tx.ExecContext(ctx, `UPDATE main.sqlite_sequence SET seq = max(seq, $2) WHERE name = $1`, name, s.Last)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	_, err = w.tx.ExecContext(ctx, `INSERT INTO main.sqlite_sequence (name, seq) VALUES ($1, $2)`, name, s.Last)
	return err
}
