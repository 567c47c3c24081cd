package migrate_test

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// countQueries returns be with a shared handle that counts the statements that reach the driver underneath.
func countQueries(t testing.TB, be *site) *countingBackend {
	t.Helper()
	c := &countingBackend{Backend: be.Backend}
	c.shared = sql.OpenDB(countingConnector{c})
	c.shared.SetMaxIdleConns(-1) // each holds a real one
	t.Cleanup(func() { require.NoError(t, c.shared.Close()) })
	return c
}

type countingBackend struct {
	backend.Backend
	shared  *sql.DB
	queries atomic.Int64
}

func (c *countingBackend) Shared() *sql.DB { return c.shared }

// Maintenance counts too: visiting a store would be how a run could cost more for more stores.
func (c *countingBackend) Maintenance(rt backend.Route) *sql.DB {
	c.queries.Add(1)
	return c.Backend.Maintenance(rt)
}

func (c *countingBackend) RunScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions) []error {
	c.queries.Add(int64(len(scripts)))
	return c.Backend.(backend.ScriptRunner).RunScripts(ctx, scripts, opt)
}

func (c *countingBackend) Flush(ctx context.Context) error {
	c.queries.Add(1)
	return c.Backend.(backend.ScriptRunner).Flush(ctx)
}

func (c *countingBackend) Lock(ctx context.Context, key string) (backend.Lock, error) {
	c.queries.Add(1)
	return c.Backend.(backend.Locker).Lock(ctx, key)
}

func (c *countingBackend) TryLock(ctx context.Context, key string) (backend.Lock, error) {
	c.queries.Add(1)
	return c.Backend.(backend.Locker).TryLock(ctx, key)
}

type countingConnector struct{ *countingBackend }

func (c countingConnector) Connect(ctx context.Context) (sqldriver.Conn, error) {
	conn, err := c.Backend.Shared().Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &countingConn{c.countingBackend, conn}, nil
}

func (countingConnector) Driver() sqldriver.Driver { return driver.Unnamed() }

type countingConn struct {
	*countingBackend
	conn *sql.Conn
}

func (c *countingConn) Prepare(string) (sqldriver.Stmt, error) { return nil, errors.ErrUnsupported }
func (c *countingConn) Close() error                           { return c.conn.Close() }
func (c *countingConn) Begin() (sqldriver.Tx, error)           { return nil, errors.ErrUnsupported }

func (c *countingConn) BeginTx(ctx context.Context, _ sqldriver.TxOptions) (sqldriver.Tx, error) {
	c.queries.Add(1)
	return c.conn.BeginTx(ctx, nil)
}

func (c *countingConn) ExecContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	c.queries.Add(1)
	return c.conn.ExecContext(ctx, query, values(args)...)
}

func (c *countingConn) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	c.queries.Add(1)
	rows, err := c.conn.QueryContext(ctx, query, values(args)...)
	if err != nil {
		return nil, err
	}
	columns, err := rows.Columns()
	return &countingRows{rows, columns}, err
}

func values(args []sqldriver.NamedValue) []any {
	list := make([]any, len(args))
	for i, a := range args {
		list[i] = a.Value
	}
	return list
}

type countingRows struct {
	rows    *sql.Rows
	columns []string
}

func (r *countingRows) Columns() []string { return r.columns }
func (r *countingRows) Close() error      { return r.rows.Close() }

func (r *countingRows) Next(dest []sqldriver.Value) error {
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	into := make([]any, len(dest))
	for i := range into {
		into[i] = new(any)
	}
	if err := r.rows.Scan(into...); err != nil {
		return err
	}
	for i := range dest {
		dest[i] = *into[i].(*any)
	}
	return nil
}
