package postgres

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// maxNowhere bounds an answer from nowhere, which is kept until it is known that it was one.
const maxNowhere = 10_000

var (
	errNowhereReads = errors.New("the query reads a table, and whose is not said")
	errNowhereText  = errors.New("only a SELECT, VALUES or SHOW can be answered, whose functions, operators and types are the system's")
	errNowhereMany  = errors.New("the answer has more than 10,000 rows")
)

// nowhereText refuses what could read where the locks do not tell: code that is not the server's own may look at a table
// in a subtransaction that it rolls back, which lets go of the lock, and so may a text that a function runs. Names
// without a schema are the server's own, because of the path.
func nowhereText(text string) error {
	var tokens []sqltext.Token
	s := sqltext.New(sqltext.Postgres, text)
	for t := s.Next(); t.Kind != sqltext.End; t = s.Next() {
		tokens = append(tokens, t)
	}
	at := func(i int) string {
		if i < 0 || i >= len(tokens) {
			return ""
		}
		if name, ok := s.Ident(tokens[i]); ok {
			return name
		}
		return s.Text(tokens[i])
	}
	if !slices.Contains([]string{"select", "with", "values", "show"}, at(0)) {
		return errNowhereText
	}
	for i := range tokens {
		switch {
		case at(i+1) == "(" && runsText[at(i)]:
			return errNowhereText
		case at(i+1) != ".", at(i) == "pg_catalog", at(i) == "information_schema":
			continue
		}
		// A call, a type's literal, a cast, an operator. What is left are columns and relations, which are locked.
		if at(i+3) == "(" || i+3 < len(tokens) && tokens[i+3].Kind == sqltext.String ||
			at(i-1) == ":" || at(i-1) == "as" || at(i-1) == "(" && at(i-2) == "operator" {
			return errNowhereText
		}
	}
	return nil
}

// runsText are the server's own functions that run a text, or read what a text names.
var runsText = map[string]bool{
	"query_to_xml": true, "query_to_xmlschema": true, "query_to_xml_and_xmlschema": true,
	"ts_stat": true, "ts_rewrite": true,
}

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
	if err := nowhereText(query); err != nil {
		return nil, err
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
	// Parsing locks all relations that the text names, and runs nothing yet.
	if _, err := c.Conn().PgConn().Prepare(ctx, "", query, nil); err != nil {
		return nil, err
	}
	if err := readsNothing(ctx, c); err != nil {
		return nil, err
	}
	answer, err := keep(c.QueryContext(ctx, query, args))
	var pe *pgconn.PgError
	switch {
	case errors.As(err, &pe):
		return nil, fmt.Errorf("the query failed (SQLSTATE %s)", pe.Code) // what the server says may have data in it
	case err != nil:
		return nil, err
	}
	if err := readsNothing(ctx, c); err != nil {
		return nil, err
	}
	return answer, nil
}

// readsNothing returns errNowhereReads when the transaction has touched anybody's data.
func readsNothing(ctx context.Context, c *stdlib.Conn) error {
	reads, err := keep(c.QueryContext(ctx, nowhereReads, nil))
	if err != nil {
		return err
	}
	if n, ok := reads.rows[0][0].(int64); !ok || n > 0 {
		return errNowhereReads
	}
	return nil
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
