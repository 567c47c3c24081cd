package migrate

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/tenement-go/tenement/backend/driver"
)

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
