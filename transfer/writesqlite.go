package transfer

import (
	"context"
	"database/sql"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// sqliteWriter writes into a store of SQLite, or into a file, in one transaction. In a store it keeps foreign keys and
// triggers out of the way: a Maintenance handle's transaction enforces no keys, and has them checked before it commits;
// triggers are dropped, and made again from their text, which SQLite keeps.
type sqliteWriter struct {
	conn     *sql.Conn // on which tx is
	tx       *sql.Tx
	triggers []string
}

var _ writer = (*sqliteWriter)(nil)

// openSQLiteWriter empties the tables of a store, and takes its triggers away. In the shared store, which is no Maintenance
// handle's, foreign keys are put off to the commit.
func openSQLiteWriter(ctx context.Context, conn *sql.Conn, tx *sql.Tx, list []Table, shared bool) (*sqliteWriter, error) {
	w := &sqliteWriter{conn: conn, tx: tx}
	if shared {
		if _, err := tx.ExecContext(ctx, `PRAGMA defer_foreign_keys = ON`); err != nil {
			return nil, err
		}
	}
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
