package migrate

import (
	"bytes"
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// dialect is what goose and the ledger need to know of a backend's SQL.
type dialect struct {
	name  backend.Dialect
	goose goose.Dialect
	// begin is what a transaction of goose's has to begin with, or empty: a bound on the wait for locks, behind which the
	// tenant's own statements queue.
	begin string
}

func dialectOf(d backend.Dialect, lockTimeout time.Duration) (dialect, error) {
	switch d {
	case backend.SQLite:
		return dialect{name: d, goose: goose.DialectSQLite3}, nil
	case backend.Postgres:
		begin := fmt.Sprintf("SET LOCAL lock_timeout = %d;", max(lockTimeout.Milliseconds(), 1))
		return dialect{name: d, goose: goose.DialectPostgres, begin: begin}, nil
	}
	return dialect{}, fmt.Errorf("tenement: migrate: backend speaks %q; migrations need %s or %s", d, backend.SQLite, backend.Postgres)
}

// bind rewrites the placeholders of a query from ? to what the dialect has. The query has no other question marks.
func (d dialect) bind(query string) string {
	if d.name != backend.Postgres {
		return query
	}
	var b strings.Builder
	n := 0
	for {
		before, after, found := strings.Cut(query, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		n++
		fmt.Fprintf(&b, "$%d", n)
		query = after
	}
}

// hasTable is a query that says whether the store at hand, and not one that its names also reach, has a table.
func (d dialect) hasTable() string {
	if d.name == backend.Postgres {
		return `SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = current_schema() AND tablename = $1)`
	}
	return `SELECT EXISTS (SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = ?)`
}

// providerOptions are what a provider is made of, beside the source.
type providerOptions struct {
	store      database.Store
	files      fileSet
	log        *slog.Logger
	outOfOrder bool
	begin      string
}

// provider returns a goose provider of the source over db, which stays the caller's.
func (s *series) provider(db *sql.DB, o providerOptions) (*goose.Provider, error) {
	opts := []goose.ProviderOption{
		goose.WithStore(o.store),
		goose.WithDisableGlobalRegistry(true),
		goose.WithAllowOutofOrder(o.outOfOrder),
	}
	if s.goFunc != nil {
		list := s.goFunc()
		if o.begin != "" {
			for i, g := range list {
				list[i] = beginning(g, o.begin)
			}
		}
		opts = append(opts, goose.WithGoMigrations(list...))
	}
	if o.log != nil {
		opts = append(opts, goose.WithSlog(o.log), goose.WithVerbose(true))
	}
	return goose.NewProvider(goose.DialectCustom, db, o.files, opts...)
}

// beginning returns a Go migration that does what g does, after a statement of ours in its transaction.
func beginning(g *goose.Migration, statement string) *goose.Migration {
	if g.UpFnContext == nil && g.DownFnContext == nil {
		return g
	}
	wrap := func(inTx goose.GoMigrationContext, noTx goose.GoMigrationNoTxContext) *goose.GoFunc {
		f := &goose.GoFunc{RunDB: noTx}
		if inTx != nil {
			f.RunTx = func(ctx context.Context, tx *sql.Tx) error {
				if _, err := tx.ExecContext(ctx, statement); err != nil {
					return err
				}
				return inTx(ctx, tx)
			}
		}
		return f
	}
	wrapped := goose.NewGoMigration(g.Version, wrap(g.UpFnContext, g.UpFnNoTxContext), wrap(g.DownFnContext, g.DownFnNoTxContext))
	wrapped.Source = g.Source
	return wrapped
}

// beginningText returns the text of a migration file with a statement of ours at the beginning of both directions, or the
// text as it is when that cannot be done without changing anything else.
func (m *migration) beginningText(text []byte, statement string) []byte {
	if statement == "" || !m.tx {
		return text
	}
	var b bytes.Buffer
	for line := range bytes.Lines(text) {
		b.Write(line)
		if annotation, ok := bytes.CutPrefix(bytes.TrimRight(line, "\r\n"), []byte("--")); ok {
			switch string(bytes.ToLower(bytes.Join(bytes.Fields(annotation), []byte(" ")))) {
			case "+goose up", "+goose down":
				if !bytes.HasSuffix(line, []byte("\n")) {
					b.WriteByte('\n')
				}
				b.WriteString(statement + "\n")
			}
		}
	}
	changed := &migration{version: m.version, file: m.file}
	same := func(now, before []string) bool {
		return slices.Equal(now, append([]string{statement}, before...)) || len(now) == 0 && len(before) == 0
	}
	if err := changed.parse(b.Bytes()); err != nil || changed.tx != m.tx || !same(changed.up, m.up) || !same(changed.down, m.down) {
		return text
	}
	return b.Bytes()
}

// versionTable is goose's own store, with two differences: it never takes a version table of the shared store, which a
// tenant's names also reach, for the tenant's; and it refuses to record a version twice.
type versionTable struct {
	database.Store
	dialect dialect
}

var _ database.StoreExtender = (*versionTable)(nil)

func (d dialect) versionTable(table string) (*versionTable, error) {
	store, err := database.NewStore(d.goose, table)
	if err != nil {
		return nil, err
	}
	return &versionTable{Store: store, dialect: d}, nil
}

// TableExists implements database.StoreExtender.
func (t *versionTable) TableExists(ctx context.Context, db database.DBTxConn) (bool, error) {
	var exists bool
	err := db.QueryRowContext(ctx, t.dialect.hasTable(), t.Tablename()).Scan(&exists)
	return exists, err
}

// errAlreadyRecorded: another migrator applied the version in between.
var errAlreadyRecorded = errors.New("version was recorded by another migrator in the meantime")

// Insert implements database.Store. It runs in the migration's transaction.
func (t *versionTable) Insert(ctx context.Context, db database.DBTxConn, req database.InsertRequest) error {
	_, err := t.GetMigration(ctx, db, req.Version)
	switch {
	case err == nil:
		return errAlreadyRecorded
	case !errors.Is(err, database.ErrVersionNotFound):
		return err
	}
	return t.Store.Insert(ctx, db, req)
}

// statementLog is a slog handler that keeps the statement goose is at, which goose's errors do not tell.
type statementLog struct {
	version   int64
	statement string
}

var _ slog.Handler = (*statementLog)(nil)

// Enabled implements slog.Handler.
func (l *statementLog) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (l *statementLog) Handle(_ context.Context, r slog.Record) error {
	var version int64
	var statement string
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "statement":
			statement = a.Value.String()
		case "version":
			version = a.Value.Int64()
		}
		return true
	})
	l.version, l.statement = version, statement // a record without a statement ends the one before
	return nil
}

// WithAttrs implements slog.Handler.
func (l *statementLog) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements slog.Handler.
func (l *statementLog) WithGroup(string) slog.Handler { return l }

// recorder is a database that runs nothing and takes note of what it was asked to run: goose's parser is not exported,
// and what goose would send is the only definition of a migration that goose agrees with.
type recorder struct {
	statements []string
	began      bool
}

func (r *recorder) open() *sql.DB { return sql.OpenDB(r) }

// Connect implements sqldriver.Connector.
func (r *recorder) Connect(context.Context) (sqldriver.Conn, error) { return recorderConn{r}, nil }

// Driver implements sqldriver.Connector.
func (r *recorder) Driver() sqldriver.Driver { return driver.Unnamed() }

type recorderConn struct{ *recorder }

var (
	_ sqldriver.ExecerContext = recorderConn{}
	_ sqldriver.ConnBeginTx   = recorderConn{}
)

// ExecContext implements sqldriver.ExecerContext.
func (c recorderConn) ExecContext(_ context.Context, query string, _ []sqldriver.NamedValue) (sqldriver.Result, error) {
	c.statements = append(c.statements, query)
	return sqldriver.RowsAffected(0), nil
}

// BeginTx implements sqldriver.ConnBeginTx.
func (c recorderConn) BeginTx(context.Context, sqldriver.TxOptions) (sqldriver.Tx, error) {
	c.began = true
	return c, nil
}

// Begin implements sqldriver.Conn.
func (c recorderConn) Begin() (sqldriver.Tx, error) {
	return c.BeginTx(context.Background(), sqldriver.TxOptions{})
}

// Prepare implements sqldriver.Conn.
func (recorderConn) Prepare(string) (sqldriver.Stmt, error) { return nil, errors.ErrUnsupported }

// Commit implements sqldriver.Tx.
func (recorderConn) Commit() error { return nil }

// Rollback implements sqldriver.Tx.
func (recorderConn) Rollback() error { return nil }

// Close implements sqldriver.Conn.
func (recorderConn) Close() error { return nil }

// scriptedStore is a version table in which every version is applied, or none.
type scriptedStore struct{ applied bool }

var _ database.StoreExtender = (*scriptedStore)(nil)

func (*scriptedStore) Tablename() string { return goose.DefaultTablename }

func (*scriptedStore) TableExists(context.Context, database.DBTxConn) (bool, error) { return true, nil }

func (*scriptedStore) CreateVersionTable(context.Context, database.DBTxConn) error { return nil }

func (*scriptedStore) Insert(context.Context, database.DBTxConn, database.InsertRequest) error {
	return nil
}

func (*scriptedStore) Delete(context.Context, database.DBTxConn, int64) error { return nil }

func (s *scriptedStore) GetMigration(_ context.Context, _ database.DBTxConn, _ int64) (*database.GetMigrationResult, error) {
	if !s.applied {
		return nil, database.ErrVersionNotFound
	}
	return &database.GetMigrationResult{IsApplied: true, Timestamp: time.Time{}}, nil
}

func (*scriptedStore) GetLatestVersion(context.Context, database.DBTxConn) (int64, error) {
	return 0, nil
}

func (*scriptedStore) ListMigrations(context.Context, database.DBTxConn) ([]*database.ListMigrationsResult, error) {
	return []*database.ListMigrationsResult{{Version: 0, IsApplied: true}}, nil
}
