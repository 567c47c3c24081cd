package postgres

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tenement-go/tenement/backend"
)

// maxNowhere bounds an answer from nowhere, which is kept until it is known that it was one.
const maxNowhere = 10_000

var (
	errNowhereReads = errors.New("the query reads a table, and whose is not said")
	errNowhereMany  = errors.New("the answer has more than 10,000 rows")
)

// nowhereReads counts what a transaction has touched besides the catalogs that hold nobody's data. The server keeps the
// locks of all that a transaction looked up or read until it ends, what its functions read included.
const nowhereReads = `select count(*) from pg_catalog.pg_locks l
	left join pg_catalog.pg_class c on c.oid = l.relation
	where l.pid = pg_catalog.pg_backend_pid() and l.locktype = 'relation' and (c.oid is null
		or c.relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'pg_toast'::regnamespace)
		or c.relname in ('pg_largeobject', 'pg_statistic', 'pg_statistic_ext_data'))`

// QueryNowhere implements driver.Nowhere: a read-only transaction in pg_catalog, on a connection of its own that is closed
// afterwards, as the role of all tenants if there is one, else as the log-in.
func (s *source) QueryNowhere(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	be := (*Backend)(s)
	if be.closed.Load() {
		return nil, backend.ErrClosed
	}
	// One at a time: they are not counted in the pool.
	select {
	case be.nowhere <- struct{}{}:
		defer func() { <-be.nowhere }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	cfg := be.pool.Config().ConnConfig
	// Neither statements nor descriptions are worth keeping, and no text is more than one statement.
	cfg.DefaultQueryExecMode, cfg.Tracer = pgx.QueryExecModeExec, nil
	cfg.StatementCacheCapacity, cfg.DescriptionCacheCapacity = 0, 0
	dc, err := stdlib.GetConnector(*cfg).Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dc.Close() }()
	c := dc.(*stdlib.Conn)
	settings := "begin read only; set local search_path = pg_catalog"
	if be.roles.mode == rolesOne {
		settings += "; set local role " + pgx.Identifier{be.roles.one}.Sanitize()
	}
	if _, err := c.ExecContext(ctx, settings, nil); err != nil {
		return nil, err
	}
	answer, err := keep(c.QueryContext(ctx, query, args))
	if err != nil {
		return nil, err
	}
	reads, err := keep(c.QueryContext(ctx, nowhereReads, nil))
	if err != nil {
		return nil, err
	}
	if n, ok := reads.rows[0][0].(int64); !ok || n > 0 {
		return nil, errNowhereReads
	}
	return answer, nil
}

// kept are rows in memory.
type kept struct {
	columns []string
	rows    [][]sqldriver.Value
}

// keep reads all rows.
func keep(in sqldriver.Rows, err error) (*kept, error) {
	if err != nil {
		return nil, err
	}
	k := &kept{columns: in.Columns()}
	for err == nil {
		row := make([]sqldriver.Value, len(k.columns))
		if err = in.Next(row); err == nil {
			k.rows = append(k.rows, row)
		}
		if len(k.rows) > maxNowhere {
			err = errNowhereMany
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return k, errors.Join(err, in.Close())
}

func (k *kept) Columns() []string { return k.columns }
func (k *kept) Close() error      { k.rows = nil; return nil }

func (k *kept) Next(dest []sqldriver.Value) error {
	if len(k.rows) == 0 {
		return io.EOF
	}
	copy(dest, k.rows[0])
	k.rows = k.rows[1:]
	return nil
}
