package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// handleTx is a transaction of database/sql's or of pgx's.
type handleTx struct {
	exec             func(text string, args ...any) error
	commit, rollback func() error
}

var handleTxs = map[string]func(t testing.TB, be *postgres.Backend, ctx context.Context) handleTx{
	"sql": func(t testing.TB, be *postgres.Backend, ctx context.Context) handleTx {
		tx, err := be.DB().BeginTx(ctx, nil)
		require.NoError(t, err)
		return handleTx{
			func(text string, args ...any) error { _, err := tx.ExecContext(ctx, text, args...); return err },
			tx.Commit, tx.Rollback,
		}
	},
	"pgx": func(t testing.TB, be *postgres.Backend, ctx context.Context) handleTx {
		tx, err := be.PGX().Begin(ctx)
		require.NoError(t, err)
		return handleTx{
			func(text string, args ...any) error { _, err := tx.Exec(ctx, text, args...); return err },
			func() error { return tx.Commit(ctx) }, func() error { return tx.Rollback(ctx) },
		}
	},
	"batch": func(t testing.TB, be *postgres.Backend, ctx context.Context) handleTx {
		tx, err := be.PGX().Begin(ctx)
		require.NoError(t, err)
		return handleTx{
			func(text string, args ...any) error {
				var b pgx.Batch
				b.Queue(`SELECT 1`)
				b.Queue(text, args...)
				return tx.SendBatch(ctx, &b).Close()
			},
			func() error { return tx.Commit(ctx) }, func() error { return tx.Rollback(ctx) },
		}
	},
}

// S77: a transaction that ended by the text of a statement is over: nothing is run outside of it, and Commit says whether
// it lasted.
func TestTransactionEndedByText(t *testing.T) {
	t.Parallel()
	const insert = `INSERT INTO par VALUES (1)`
	for _, mode := range []string{"cache_statement", "simple_protocol"} {
		be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode})
		_, a := tenant(t, be, "a")
		_, err := be.DB().ExecContext(a, `CREATE TABLE par (id int PRIMARY KEY);
			CREATE TABLE ch (p int REFERENCES par DEFERRABLE INITIALLY DEFERRED)`)
		require.NoError(t, err)
		for kind, begin := range handleTxs {
			for name, c := range map[string]struct {
				texts []string
				lasts bool
			}{
				"ROLLBACK":                  {[]string{insert, `ROLLBACK`}, false},
				"ABORT":                     {[]string{insert, `/* */ abort work`}, false},
				"ROLLBACK at once":          {[]string{`ROLLBACK`}, false},
				"COMMIT that a check fails": {[]string{insert, `INSERT INTO ch VALUES (99)`, `COMMIT`}, false},
				"COMMIT of what had failed": {[]string{insert, `SELECT 1/0`, `COMMIT`}, false},
				"PREPARE that fails":        {[]string{insert, `PREPARE TRANSACTION 'over'`}, false},
				"COMMIT":                    {[]string{insert, `COMMIT`}, true},
			} {
				if kind == "batch" && name == "COMMIT of what had failed" {
					continue // nothing is run in it any more
				}
				what := mode + "/" + kind + "/" + name
				for _, after := range []bool{false, true} { // something is run after it
					for _, end := range []string{"commit", "rollback"} {
						_, err := be.DB().ExecContext(a, `TRUNCATE par, ch`)
						require.NoError(t, err)
						tx := begin(t, be, a)
						for _, text := range c.texts {
							_ = tx.exec(text)
						}
						if after {
							err := tx.exec(`INSERT INTO par VALUES ($1)`, 2)
							require.ErrorIs(t, err, pgx.ErrTxClosed, what)
							require.ErrorContains(t, err, "begin another", what)
						}
						switch {
						case end == "commit" && !c.lasts:
							assert.ErrorIs(t, tx.commit(), pgx.ErrTxCommitRollback, what)
						case end == "commit" && after, end == "rollback" && c.lasts:
							err := tx.commit
							if end == "rollback" {
								err = tx.rollback
							}
							got := err()
							assert.ErrorIs(t, got, pgx.ErrTxClosed, what)
							assert.ErrorIs(t, got, sql.ErrTxDone, what)
							assert.NotErrorIs(t, got, pgx.ErrTxCommitRollback, what)
						case end == "commit":
							assert.NoError(t, tx.commit(), what)
						default:
							assert.NoError(t, tx.rollback(), what)
						}
						var n, want int
						if c.lasts {
							want = 1
						}
						require.NoError(t, be.DB().QueryRowContext(a, `SELECT count(*) FROM par`).Scan(&n), what)
						assert.Equal(t, want, n, what)
					}
				}
			}
		}
	}
}

// S77: a COMMIT in text of a transaction that had failed is an error, whichever call brings it.
func TestCommitInTextOfWhatHadFailed(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode})
		_, a := tenant(t, be, "a")
		for _, text := range []string{`COMMIT`, `END`, `/* */ ; commit work;`, `COMMIT; SELECT 1`, `SELECT 1; COMMIT`, `END TRANSACTION; COMMIT`, `PREPARE TRANSACTION 'p'`} {
			type beginner func() (run func(text string) error, end func() error)
			sqlTx := func(run func(tx *sql.Tx, text string) error) beginner {
				return func() (func(string) error, func() error) {
					tx, err := be.DB().BeginTx(a, nil)
					require.NoError(t, err)
					return func(text string) error { return run(tx, text) }, tx.Commit
				}
			}
			pgxTx := func(run func(tx pgx.Tx, text string) error) beginner {
				return func() (func(string) error, func() error) {
					tx, err := be.PGX().Begin(a)
					require.NoError(t, err)
					return func(text string) error { return run(tx, text) }, func() error { return tx.Commit(a) }
				}
			}
			for name, begin := range map[string]beginner{
				"Exec": sqlTx(func(tx *sql.Tx, text string) error { _, err := tx.ExecContext(a, text); return err }),
				"Query": sqlTx(func(tx *sql.Tx, text string) error {
					rows, err := tx.QueryContext(a, text)
					if err != nil {
						return err
					}
					defer func() { _ = rows.Close() }()
					for rows.Next() { //nolint:revive // to the end
					}
					return rows.Err()
				}),
				"QueryRow": sqlTx(func(tx *sql.Tx, text string) error {
					if err := tx.QueryRowContext(a, text).Scan(new(int)); !errors.Is(err, sql.ErrNoRows) {
						return err
					}
					return nil
				}),
				"a held connection": func() (func(string) error, func() error) {
					conn, err := be.DB().Conn(a)
					require.NoError(t, err)
					_, err = conn.ExecContext(a, `BEGIN`)
					require.NoError(t, err)
					return func(text string) error {
							rows, err := conn.QueryContext(a, text)
							if err != nil {
								return err
							}
							_ = rows.Close()
							return rows.Err()
						}, func() error {
							_, err := conn.ExecContext(a, `ROLLBACK`)
							return errors.Join(err, conn.Close(), pgx.ErrTxCommitRollback)
						}
				},
				"pgx Exec": pgxTx(func(tx pgx.Tx, text string) error { _, err := tx.Exec(a, text); return err }),
				"pgx Query": pgxTx(func(tx pgx.Tx, text string) error {
					rows, _ := tx.Query(a, text)
					rows.Close()
					return rows.Err()
				}),
				"pgx QueryRow": pgxTx(func(tx pgx.Tx, text string) error {
					if err := tx.QueryRow(a, text).Scan(new(int)); !errors.Is(err, pgx.ErrNoRows) {
						return err
					}
					return nil
				}),
				"pgx batch": pgxTx(func(tx pgx.Tx, text string) error {
					var b pgx.Batch
					b.Queue(text)
					return tx.SendBatch(a, &b).Close()
				}),
			} {
				what := mode + "/" + name + "/" + text
				run, commit := begin()
				assert.Error(t, run(`SELECT 1/0`), what)
				err := run(text)
				assert.Error(t, err, what)
				if text == `COMMIT` || text == `END` {
					assert.ErrorIs(t, err, pgx.ErrTxCommitRollback, what)
				}
				assert.Error(t, commit(), what)
			}
			// A ROLLBACK is what was asked for.
			tx, err := be.DB().BeginTx(a, nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(a, `SELECT 1/0`)
			require.Error(t, err)
			rows, err := tx.QueryContext(a, `ROLLBACK`)
			require.NoError(t, err)
			require.NoError(t, rows.Close())
			require.NoError(t, rows.Err())
			require.NoError(t, tx.Rollback())
		}
	}
}

// S76: which values a text takes in a store does not depend on the store that came before: what pgx refuses for the types
// that it has here is refused.
func TestValuesThatDependOnTheType(t *testing.T) {
	t.Parallel()
	for _, statements := range []string{"0", "1024"} {
		be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "tenant_statements": statements})
		_, a := tenant(t, be, "a")
		_, b := tenant(t, be, "b")
		for base, value := range map[string]any{"int8": int64(20240101), "bool": true, "float8": 1.5} {
			for _, typ := range []string{"interval", "date", "timestamp", "bytea", "text", "bool", "int8", "numeric", "text[]"} {
				for _, inTx := range []bool{false, true} {
					what := statements + ": " + base + " after which " + typ
					for in, typ := range map[context.Context]string{a: base, b: typ} {
						_, err := be.DB().ExecContext(in, `DROP TABLE IF EXISTS v; CREATE TABLE v (v `+typ+`)`)
						require.NoError(t, err)
					}
					insert := `INSERT INTO v (v) VALUES ($1) /* ` + what + ` */`
					if inTx {
						insert += ` /* in a transaction */`
					}
					// Another text, so new here, for which the types are asked, as the bare driver does.
					_, bare := be.PGX().Exec(b, insert+` /* bare */`, pgx.QueryExecModeDescribeExec, value)
					_, err := be.DB().ExecContext(a, insert, value)
					require.NoError(t, err, what)
					if inTx {
						tx := handleTxs["sql"](t, be, b)
						require.NoError(t, tx.exec(`SELECT 1`))
						err = tx.exec(insert, value)
						_ = tx.rollback()
					} else {
						_, err = be.DB().ExecContext(b, insert, value)
					}
					assert.Equal(t, bare == nil, err == nil, "%s: %v, and by itself %v", what, err, bare)
				}
			}
		}
	}
}
