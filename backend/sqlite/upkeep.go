package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// What migrations do with foreign keys. SQLite's own procedure for changing a table (lang_altertable.html, "Making Other
// Kinds Of Table Schema Changes") is to turn them off, to make the table anew, and to look with foreign_key_check, before
// the commit, whether all of them still hold; with them on, dropping the old table deletes or refuses its children. It
// cannot be done from within the transaction that a migration runs in, so it is done around it.

// ForeignKeyError says that a migration would leave rows behind whose parents are missing. It is not committed.
type ForeignKeyError struct {
	Table  string // the table with the foreign key
	Parent string // the table that it refers to
	Rows   int    // how many rows of Table are concerned
}

// Error says what is wrong and what to do.
func (e *ForeignKeyError) Error() string {
	return fmt.Sprintf("FOREIGN KEY constraint failed: %d rows of table %q refer to rows of table %q that are not there; "+
		"delete or mend them in the same migration", e.Rows, e.Table, e.Parent)
}

// SharedParentError says that a migration makes a foreign key to a shared table. It is not committed.
type SharedParentError struct {
	Table  string // the tenant's table
	Parent string // the shared table that it refers to
}

// Error says what is wrong and what to do.
func (e *SharedParentError) Error() string {
	return fmt.Sprintf("table %q has a foreign key to the shared table %q: SQLite has none between files, and each insert would "+
		"fail with \"no such table: main.%s\"; leave REFERENCES out on SQLite (a file named NAME.sqlite.sql is for SQLite alone)",
		e.Table, e.Parent, e.Parent)
}

// each calls fn for each row of a query on a connection that nobody else uses.
func each(ctx context.Context, r raw, query string, fn func(row []driver.Value)) error {
	rs, err := r.QueryContext(ctx, query, nil)
	if err != nil {
		return err
	}
	row := make([]driver.Value, len(rs.Columns()))
	for err == nil {
		if err = rs.Next(row); err == nil {
			fn(row)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, rs.Close())
}

// checkUpkeep is called before a migration's commit. The caller holds c.mu.
func (s *session) checkUpkeep(ctx context.Context) error {
	c := s.c
	c.own = true
	defer func() { c.own = false }()
	return s.b.checkKeys(ctx, c.raw, s.st.path, s.defined)
}

// execAhead executes all statements of a migration's text but the last, which it returns: each is then looked at as one
// that comes alone. They get what the driver gives to the statements of a text, the same arguments each.
func (s *session) execAhead(ctx context.Context, query string, args []driver.NamedValue) (last string, err error) {
	if !s.upkeep || alone(query) {
		return query, nil
	}
	spans := sqltext.Statements(sqltext.SQLite, query)
	if len(spans) < 2 {
		return query, nil
	}
	for _, span := range spans[:len(spans)-1] {
		if _, err := s.execText(ctx, query[span.Start:span.End], args); err != nil {
			return "", err
		}
	}
	end := spans[len(spans)-1]
	return query[end.Start:end.End], nil
}

// relax has foreign keys not enforced in the migration's transaction that is about to begin, whatever PRAGMA foreign_keys
// said on the connection: within it, it could not be said any more. The caller holds c.mu.
func (s *session) relax(ctx context.Context) error {
	if !s.upkeep || s.c.lenient {
		return nil
	}
	err := s.c.setForeignKeys(ctx, false)
	s.strict = err == nil
	return err
}

// restore undoes relax once the transaction is over, or did not begin. The caller holds c.mu.
func (s *session) restore() {
	if !s.strict || s.c.raw == nil {
		return
	}
	s.strict = false
	if s.c.setForeignKeys(context.Background(), true) != nil {
		s.c.tainted = true
	}
}

// lone reports whether a statement is one for define.
func (s *session) lone(st *stmt) bool { return s.upkeep && s.tx == none && st.effects&defines != 0 }

// noRows are those of a statement that makes or alters a table.
type noRows struct{}

func (noRows) Columns() []string         { return nil }
func (noRows) Next([]driver.Value) error { return io.EOF }
func (noRows) Close() error              { return nil }

// define runs a statement of a migration without a transaction that makes or alters a table, in a transaction of its own, so
// that it can be taken back. The caller holds c.mu.
func (s *session) define(ctx context.Context, st *stmt, args []driver.NamedValue) (driver.Result, error) {
	c := s.c
	st.rows.in = noRows{} // in use: what comes ahead of it and behind may take its place in the cache
	defer func() { st.rows.in = nil }()
	if err := c.control(ctx, "BEGIN IMMEDIATE"); err != nil {
		return nil, err
	}
	res, err := st.driver.ExecContext(ctx, args)
	if err == nil {
		c.own = true
		err = s.b.checkParents(ctx, c.raw, s.st.path)
		c.own = false
	}
	if err == nil {
		err = c.control(context.WithoutCancel(ctx), "COMMIT")
	}
	if err != nil && c.inTransaction() {
		_ = c.control(context.Background(), "ROLLBACK")
	}
	return res, err
}
