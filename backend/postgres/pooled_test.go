package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// S13, S15, S76: what a pooler has prepared outlives a migration, and the process. Statements go on all the same, with
// the types that the columns have now; only a transaction in which something ran before has to be run again, and says so.
func TestPoolerKeepsStaleStatements(t *testing.T) {
	t.Parallel()
	url := pgtest.Bouncer(t, pgtest.Shared(t).Database(t), pgtest.BouncerConfig{PoolSize: 1, PreparedStatements: 100})
	params := map[string]string{"pool_max_conns": "1"}
	be := open(t, url, params)
	rt, ctx := tenant(t, be, "a")
	db := be.DB()
	exec := func(be *postgres.Backend, sql string, args ...any) {
		t.Helper()
		_, err := be.DB().ExecContext(ctx, sql, args...)
		require.NoError(t, err)
	}
	exec(be, `CREATE TABLE prices (id int, amount int)`)
	const read, write = `SELECT amount FROM prices WHERE id = $1`, `INSERT INTO prices (id, amount) VALUES ($1, $2)`
	value := func(be *postgres.Backend, id int) (amount string) {
		t.Helper()
		require.NoError(t, be.DB().QueryRowContext(ctx, read, id).Scan(&amount))
		return amount
	}
	inTx := func(be *postgres.Backend) error {
		return pgx.BeginFunc(ctx, be.PGX(), func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `SELECT 1`); err != nil {
				return err
			}
			var amount any
			return tx.QueryRow(ctx, read, 1).Scan(&amount)
		})
	}
	inBatch := func(be *postgres.Backend) error {
		b := &pgx.Batch{}
		b.Queue(`SELECT $1::int`, 1)
		b.Queue(read, 1)
		b.Queue(read, 1)
		return be.PGX().SendBatch(ctx, b).Close()
	}
	for range 3 {
		exec(be, write, 1, "0042")
		require.Equal(t, "42", value(be, 1))
		require.NoError(t, inTx(be))
		require.NoError(t, inBatch(be))
	}
	owner := be.Maintenance(rt)
	defer func() { _ = owner.Close() }()
	_, err := owner.ExecContext(ctx, `ALTER TABLE prices ALTER amount TYPE text`)
	require.NoError(t, err)

	var pe *pgconn.PgError
	err = inTx(be)
	require.ErrorAs(t, err, &pe)
	require.Equal(t, "0A000", pe.Code)
	require.ErrorContains(t, err, "run the transaction again")
	for range 3 {
		require.NoError(t, inTx(be), "again")
		require.Equal(t, "42", value(be, 1))
		require.NoError(t, inBatch(be))
	}

	// Another process finds what this one has left with the pooler.
	for name, first := range map[string]func(*postgres.Backend){
		"a statement": func(be *postgres.Backend) { require.Equal(t, "42", value(be, 1)) },
		"a batch":     func(be *postgres.Backend) { _ = inBatch(be) },
	} {
		other := open(t, url, params)
		first(other)
		for i := range 3 {
			exec(other, write, 2, "0042")
			require.Equal(t, "0042", value(other, 2), name)
			require.NoError(t, inTx(other), "%s, %d", name, i)
			require.NoError(t, inBatch(other), "%s, %d", name, i)
		}
	}
	require.NoError(t, db.PingContext(ctx))
}

// S15: a statement whose arguments are refused on this side is not taken for one that the pooler knows.
func TestPoolerUnsentStatement(t *testing.T) {
	t.Parallel()
	url := pgtest.Bouncer(t, pgtest.Shared(t).Database(t), pgtest.BouncerConfig{PoolSize: 1, PreparedStatements: 100})
	be := open(t, url, map[string]string{"pool_max_conns": "1"})
	_, ctx := tenant(t, be, "a")
	const sql = `SELECT $1::int + 1`
	scan := func(ctx context.Context, args ...any) (n int, err error) {
		err = be.PGX().QueryRow(ctx, sql, args...).Scan(&n)
		return n, err
	}
	_, err := scan(ctx, 1, 2)
	require.ErrorContains(t, err, "expected 1 arguments, got 2")
	for range 3 {
		n, err := scan(ctx, 1)
		require.NoError(t, err)
		require.Equal(t, 2, n)
	}
}
