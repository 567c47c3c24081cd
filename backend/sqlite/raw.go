package sqlite

import (
	"errors"

	"modernc.org/sqlite"

	"github.com/tenement-go/tenement/backend/driver"
)

var _ driver.Rawer = (*session)(nil)

// Raw is what Raw of the connection in [database/sql.Conn.Raw] returns, once a statement was run on it: what can be asked
// about the SQLite connection underneath. The connection itself is not handed out: with it one could replace the
// authorizer that keeps tenants apart, register functions that the next tenant would see, or put another database in its
// place. It is good for as long as the [database/sql.Conn] is held.
type Raw interface {
	// Status returns one of SQLite's counters for the connection.
	Status(op sqlite.DBStatusOp, reset bool) (current, high int, err error)
	// ColumnInfo describes the columns of a query, which is compiled and not run.
	ColumnInfo(query string) ([]sqlite.ColumnInfo, error)
}

// Raw implements [driver.Rawer].
func (s *session) Raw() any {
	if s.c == nil {
		return nil
	}
	return Raw(rawConn{s.c})
}

type rawConn struct{ c *conn }

func (r rawConn) Status(op sqlite.DBStatusOp, reset bool) (current, high int, err error) {
	r.c.mu.Lock()
	defer r.c.unlock()
	if err := r.c.usable("raw"); err != nil {
		return 0, 0, err
	}
	return r.c.raw.Status(op, reset)
}

func (r rawConn) ColumnInfo(query string) ([]sqlite.ColumnInfo, error) {
	r.c.mu.Lock()
	defer r.c.unlock()
	if err := r.c.usable("raw"); err != nil {
		return nil, err
	}
	if !alone(query) {
		return nil, errors.New("it must be one statement")
	}
	return r.c.raw.ColumnInfo(query)
}
