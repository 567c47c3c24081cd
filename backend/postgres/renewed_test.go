package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// beforeCommit is a tracer that does something when COMMIT is about to be sent.
type beforeCommit struct{ do func() }

func (b *beforeCommit) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	if d.SQL == "commit" && b.do != nil {
		b.do()
	}
	return ctx
}

func (*beforeCommit) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// S77: a Commit that fails before COMMIT was sent, in what goes ahead of it for a table that was made, ends the
// transaction: what a held connection runs afterwards is not within it.
func TestCommitThatIsNotReached(t *testing.T) {
	t.Parallel()
	pc, err := pgxpool.ParseConfig(pgtest.Shared(t).Database(t))
	require.NoError(t, err)
	var tracer beforeCommit
	pc.ConnConfig.Tracer = &tracer
	pool, err := pgxpool.NewWithConfig(t.Context(), pc)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	be, err := postgres.FromPool(t.Context(), pool, postgres.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = be.Close() })
	_, err = be.Shared().ExecContext(t.Context(), `CREATE TABLE plans (n int)`)
	require.NoError(t, err)
	_, a := tenant(t, be, "a")
	_, err = be.DB().ExecContext(a, `CREATE TABLE par (id int PRIMARY KEY);
		CREATE TABLE ch (p int REFERENCES par DEFERRABLE INITIALLY DEFERRED)`)
	require.NoError(t, err)
	for what, text := range map[string]string{
		"a check that was deferred": `CREATE TABLE plans (n int); INSERT INTO ch VALUES (99)`,
		"a context that has ended":  `CREATE TABLE plans (n int)`,
	} {
		t.Run(what, func(t *testing.T) {
			conn, err := be.DB().Conn(a)
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			ctx, cancel := context.WithCancel(a)
			defer cancel()
			tx, err := conn.BeginTx(ctx, nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(a, text)
			require.NoError(t, err)
			if what == "a context that has ended" {
				tracer.do = cancel
				defer func() { tracer.do = nil }()
			}
			require.Error(t, tx.Commit())
			_, err = conn.ExecContext(a, `INSERT INTO notes (mark) VALUES ($1)`, what)
			require.NoError(t, err, "it is outside of the transaction")
			require.NoError(t, conn.Close())
			var kept, made bool
			require.NoError(t, be.DB().QueryRowContext(a, `SELECT EXISTS (SELECT FROM notes WHERE mark = $1), to_regclass('a.plans') IS NOT NULL`, what).Scan(&kept, &made))
			require.True(t, kept, "what was acknowledged is there")
			require.False(t, made)
		})
	}
}
