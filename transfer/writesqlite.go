package transfer

import (
	"context"
	"database/sql"
	"strings"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// sqliteWriter writes into a store of SQLite, or into a file, in one transaction. In a store it keeps foreign keys and
// triggers out of the way: a Maintenance handle's transaction enforces no keys, and has them checked before it commits;
// triggers are dropped, and made again from their text, which SQLite keeps.
type sqliteWriter struct {
	tx       *sql.Tx
	triggers []string
}

var _ writer = (*sqliteWriter)(nil)

// openSQLiteWriter empties the tables of a store, and takes its triggers away. In the shared store, which is no Maintenance
// handle's, foreign keys are put off to the commit.
func openSQLiteWriter(ctx context.Context, tx *sql.Tx, list []Table, shared bool) (*sqliteWriter, error) {
	w := &sqliteWriter{tx: tx}
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

const (
	maxVariables = 32766 // of a statement, SQLite's own limit
	maxBatch     = 64    // rows
)

// fill inserts rows while produce makes the next ones ready: what reads them and what writes them take about as long.
func (w *sqliteWriter) fill(ctx context.Context, table string, columns []Column, produce func(put func(row []any) error) error) error {
	in := &sqliteInserter{tx: w.tx, columns: len(columns), most: max(1, min(maxBatch, maxVariables/len(columns)))}
	in.head = "INSERT INTO main." + sqltext.Quote(table) + " (" + quoted(columns, "") + ") VALUES "
	in.tuple = "(?" + strings.Repeat(",?", len(columns)-1) + ")"
	b := newBatches(in.most * len(columns))
	inserted := make(chan error, 1)
	go func() { inserted <- in.insertAll(ctx, b) }()
	err := produce(b.put)
	if err == nil {
		err = b.flush()
	}
	close(b.full)
	if failed := <-inserted; failed != nil {
		return failed // which stopped produce
	}
	return err
}

// batches are rows on their way from who reads them to who inserts them. Their memory goes round.
type batches struct {
	mine    []any
	full    chan []any
	empty   chan []any
	stopped chan struct{} // nobody takes them any more
}

// newBatches makes batches of so many values.
func newBatches(size int) *batches {
	const ahead = 2
	b := &batches{mine: make([]any, 0, size), full: make(chan []any, ahead), empty: make(chan []any, ahead+1), stopped: make(chan struct{})}
	for range ahead {
		b.empty <- make([]any, 0, size)
	}
	return b
}

func (b *batches) put(row []any) error {
	b.mine = append(b.mine, row...)
	if len(b.mine)+len(row) <= cap(b.mine) {
		return nil
	}
	return b.flush()
}

func (b *batches) flush() error {
	if len(b.mine) == 0 {
		return nil
	}
	select {
	case b.full <- b.mine:
	case <-b.stopped:
		return errStopped
	}
	select {
	case b.mine = <-b.empty:
		return nil
	case <-b.stopped:
		return errStopped
	}
}

// sqliteInserter inserts several rows by one statement.
type sqliteInserter struct {
	tx            *sql.Tx
	head, tuple   string
	columns, most int
	full          *sql.Stmt
}

// insertAll inserts batches until there are no more, or until one cannot be inserted.
func (in *sqliteInserter) insertAll(ctx context.Context, b *batches) error {
	defer in.close()
	for args := range b.full {
		if err := in.insert(ctx, args); err != nil {
			close(b.stopped)
			return err
		}
		clear(args)
		b.empty <- args[:0]
	}
	return nil
}

func (in *sqliteInserter) insert(ctx context.Context, args []any) (err error) {
	n := len(args) / in.columns
	text := func() string { return in.head + in.tuple + strings.Repeat(","+in.tuple, n-1) }
	if n < in.most {
		_, err = in.tx.ExecContext(ctx, text(), args...)
		return err
	}
	if in.full == nil {
		if in.full, err = in.tx.PrepareContext(ctx, text()); err != nil {
			return err
		}
	}
	_, err = in.full.ExecContext(ctx, args...)
	return err
}

func (in *sqliteInserter) close() {
	if in.full != nil {
		_ = in.full.Close()
	}
}

// sequence sets where AUTOINCREMENT goes on. A table without it has nowhere to keep that: SQLite itself gives out the
// highest number that is there, plus one.
func (w *sqliteWriter) sequence(ctx context.Context, s Sequence) error {
	if s.Table == "" || !s.Called {
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
