package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/pressly/goose/v3/database"

	"github.com/tenement-go/tenement/backend"
)

// versionTable is goose's own store, with three differences: it never takes a version table of the shared store, which a
// tenant's names also reach, for the tenant's; it refuses to record a version twice, and one whose indexes are invalid;
// and it says when goose has its connection, and when it is through with a migration.
type versionTable struct {
	database.Store
	dialect   dialect
	src       *series
	begun     func() // goose has a connection, and is at work
	recording bool   // the migration's own part is over; its version is being written down
}

var _ database.StoreExtender = (*versionTable)(nil)

func (d dialect) versionTable(src *series) (*versionTable, error) {
	store, err := database.NewStore(d.goose, src.table)
	if err != nil {
		return nil, err
	}
	return &versionTable{Store: store, dialect: d, src: src, begun: func() {}}, nil
}

// TableExists implements database.StoreExtender.
func (t *versionTable) TableExists(ctx context.Context, db database.DBTxConn) (bool, error) {
	var exists bool
	err := db.QueryRowContext(ctx, t.dialect.hasTable(), t.Tablename()).Scan(&exists)
	if err == nil {
		t.begun()
	}
	return exists, err
}

// GetMigration implements database.Store.
func (t *versionTable) GetMigration(ctx context.Context, db database.DBTxConn, version int64) (*database.GetMigrationResult, error) {
	res, err := t.Store.GetMigration(ctx, db, version)
	if err == nil || errors.Is(err, database.ErrVersionNotFound) {
		t.begun()
	}
	return res, err
}

// errAlreadyRecorded: another migrator applied the version in between.
var errAlreadyRecorded = errors.New("version was recorded by another migrator in the meantime")

// Insert implements database.Store. It runs in the migration's transaction, if there is one.
func (t *versionTable) Insert(ctx context.Context, db database.DBTxConn, req database.InsertRequest) error {
	t.recording = req.Version != 0 // that comes with the table
	if err := t.exclude(ctx, db); err != nil {
		return err
	}
	_, err := t.GetMigration(ctx, db, req.Version)
	switch {
	case err == nil:
		return errAlreadyRecorded
	case !errors.Is(err, database.ErrVersionNotFound):
		return err
	}
	if mig := t.src.find(req.Version); mig != nil && len(mig.indexes) > 0 && t.dialect.name == backend.Postgres {
		if err := invalidIndex(ctx, db, mig.indexes); err != nil {
			return err
		}
	}
	if _, ok := db.(*sql.Tx); !ok {
		return t.insertOnce(ctx, db, req.Version)
	}
	return t.Store.Insert(ctx, db, req)
}

// insertOnce is Insert without a transaction, where nothing but the lock of the store keeps another migrator out: that one
// may be gone, with the connection that held it, while the migration's statements went on.
func (t *versionTable) insertOnce(ctx context.Context, db database.DBTxConn, version int64) error {
	text := fmt.Sprintf("INSERT INTO %[1]s (version_id, is_applied) SELECT %[2]d, %[3]s WHERE NOT EXISTS (SELECT 1 FROM %[1]s WHERE version_id = %[2]d)",
		t.Tablename(), version, t.dialect.yes())
	if t.dialect.name == backend.Postgres {
		// One statement, and so one transaction. (Citus would have the node compute the SELECT, and with it the ID: nodes
		// have no values left of an integer's sequence, see AlterSequenceMinMax.)
		text = fmt.Sprintf("DO $do$ BEGIN LOCK TABLE %[1]s IN SHARE ROW EXCLUSIVE MODE; IF NOT EXISTS (SELECT FROM %[1]s WHERE version_id = %[2]d) "+
			"THEN INSERT INTO %[1]s (version_id, is_applied) VALUES (%[2]d, true); END IF; END $do$", t.Tablename(), version)
	}
	_, err := db.ExecContext(ctx, text)
	return err
}

// Delete implements database.Store.
func (t *versionTable) Delete(ctx context.Context, db database.DBTxConn, version int64) error {
	t.recording = true
	if err := t.exclude(ctx, db); err != nil {
		return err
	}
	return t.Store.Delete(ctx, db, version)
}

// exclude keeps scripts out until the transaction ends: each begins by writing to the version table. To wait for one of
// them is to wait for its transaction, no longer than the lock timeout; LOCK takes no snapshot to wait with.
func (t *versionTable) exclude(ctx context.Context, db database.DBTxConn) error {
	tx, ok := db.(*sql.Tx)
	if !ok || t.dialect.name != backend.Postgres {
		return nil
	}
	_, err := tx.ExecContext(ctx, `LOCK TABLE `+t.Tablename()+` IN SHARE ROW EXCLUSIVE MODE`)
	return err
}

// invalidIndex returns an error that wraps ErrInvalidIndex when one of the indexes is invalid: a CREATE INDEX CONCURRENTLY
// that failed left it, and with IF NOT EXISTS the next one passes over it.
func invalidIndex(ctx context.Context, db database.DBTxConn, names []string) error {
	var name string
	err := db.QueryRowContext(ctx, `SELECT c.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
		WHERE c.relnamespace = current_schema()::regnamespace AND NOT i.indisvalid AND c.relname IN ($1`+more(len(names)-1)+`) LIMIT 1`,
		anys(names)...).Scan(&name)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%w: %s; drop it, then migrate again", ErrInvalidIndex, name)
}

// more returns the placeholders from $2 on.
func more(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ", $%d", i+2)
	}
	return b.String()
}
