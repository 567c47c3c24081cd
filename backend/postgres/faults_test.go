package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// terminator ends all server processes of a database but its own.
func terminator(t testing.TB, databaseURL string) func() {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), pgtest.Shared(t).AdminDatabaseURL(t, databaseURL))
	require.NoError(t, err)
	t.Cleanup(func() { _ = admin.Close(context.Background()) })
	return func() {
		t.Helper()
		_, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		require.NoError(t, err)
	}
}

// S73: pools of 1, 2 and 4. Every slot is held and has run nothing yet, or is idle, when every server process is
// terminated: all calls end, and go on on new connections, though nobody may hold a broken one while waiting for another.
func TestEveryConnectionIsLost(t *testing.T) {
	t.Parallel()
	for _, size := range []string{"1", "2", "4"} {
		t.Run(size, func(t *testing.T) {
			t.Parallel()
			databaseURL := pgtest.Shared(t).Database(t)
			be := open(t, databaseURL, map[string]string{"pool_max_conns": size})
			rt, a := tenant(t, be, "a")
			terminate := terminator(t, databaseURL)
			ctx, cancel := context.WithTimeout(a, time.Minute)
			defer cancel()
			n := int(size[0] - '0')
			for round := range 3 {
				var begun []*sql.Tx // each holds a connection, and has sent nothing
				for range n {
					tx, err := be.DB().BeginTx(ctx, nil)
					require.NoError(t, err)
					begun = append(begun, tx)
				}
				terminate()
				var all sync.WaitGroup
				for _, tx := range begun {
					all.Go(func() {
						_, err := tx.ExecContext(ctx, `INSERT INTO notes (mark) VALUES ($1)`, "kept")
						assert.NoError(t, err, "nothing had run on it")
						assert.NoError(t, tx.Commit())
					})
				}
				all.Wait()
				terminate()
				var marks int
				require.NoError(t, be.DB().QueryRowContext(ctx, `SELECT count(*) FROM notes`).Scan(&marks))
				assert.Equal(t, n*(round+1), marks)
				terminate()
				require.NoError(t, be.PGX().QueryRow(ctx, `SELECT count(*) FROM notes`).Scan(&marks))
				assert.Equal(t, n*(round+1), marks)
			}
			stats := be.Stats()
			assert.Zero(t, stats.InUse)
			assert.Equal(t, n, stats.Max)
			_ = rt
		})
	}
}

// S74: a held connection whose server session is lost says so from then on; its lock, settings and temporary tables do
// not turn into another session's.
func TestLostSession(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	be := open(t, databaseURL, map[string]string{"pool_max_conns": "2"})
	_, a := tenant(t, be, "a")
	terminate := terminator(t, databaseURL)
	conn, err := be.DB().Conn(a)
	require.NoError(t, err)
	_, err = conn.ExecContext(a, `SELECT pg_advisory_lock(1)`)
	require.NoError(t, err, "an advisory lock works on a held connection")
	terminate()
	_, err = conn.ExecContext(a, `INSERT INTO notes (mark) VALUES ('stray')`)
	require.Error(t, err)
	for range 3 {
		_, err = conn.ExecContext(a, `INSERT INTO notes (mark) VALUES ('stray')`)
		require.ErrorContains(t, err, "store a")
	}
	require.ErrorIs(t, err, pgconn.ErrConnClosed)
	require.Error(t, conn.QueryRowContext(a, `SELECT 1`).Scan(new(int)))
	require.Error(t, conn.PingContext(a))
	_, err = conn.BeginTx(a, nil)
	require.Error(t, err)
	require.NoError(t, conn.Close())

	tx, err := be.PGX().Begin(a)
	require.NoError(t, err)
	_, err = tx.Exec(a, `INSERT INTO notes (mark) VALUES ('lost')`)
	require.NoError(t, err)
	terminate()
	for range 3 {
		_, err = tx.Exec(a, `INSERT INTO notes (mark) VALUES ('stray')`)
		require.Error(t, err)
	}
	require.Error(t, tx.Commit(a))
	var n int
	require.NoError(t, be.DB().QueryRowContext(a, `SELECT count(*) FROM notes`).Scan(&n))
	require.Zero(t, n)
}

// conn.PingContext asks the connection that is held, and needs no second one.
func TestPingOfAHeldConnection(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1"})
	_, a := tenant(t, be, "a")
	ctx, cancel := context.WithTimeout(a, time.Minute)
	defer cancel()
	conn, err := be.DB().Conn(ctx)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.QueryRowContext(ctx, `SELECT 1`).Scan(new(int)))
	require.NoError(t, conn.PingContext(ctx))
}

// S75: what looks like session state in a statement's text and is none costs no connection.
func TestNamesThatLookLikeState(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1"})
	rt, a := tenant(t, be, "a")
	owner := be.Maintenance(rt)
	defer func() { _ = owner.Close() }()
	_, err := owner.ExecContext(t.Context(), `CREATE TABLE readings (temp int, temporary int);
		CREATE PROCEDURE p(x int) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO readings VALUES (x, x); END $$`)
	require.NoError(t, err)
	pid := func() (n int) {
		require.NoError(t, be.DB().QueryRowContext(a, `SELECT pg_backend_pid()`).Scan(&n))
		return n
	}
	before := pid()
	for _, q := range []string{
		`SELECT temp, temporary FROM readings`, `INSERT INTO readings (temp) SELECT 1 AS temporary`,
		`SELECT set_config('app.x', 'y', true)`, `SET app."user" = 'x'`, `CREATE TEMP TABLE t (a int)`, `LISTEN x`,
	} {
		_, err := be.DB().ExecContext(a, q)
		require.NoError(t, err, q)
		assert.Equal(t, before, pid(), q)
	}
	tx, err := be.DB().BeginTx(a, nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(a, `DECLARE c CURSOR FOR SELECT 1`)
	require.NoError(t, err)
	_, err = tx.ExecContext(a, `CALL p($1)`, 1)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	assert.Equal(t, before, pid(), "DECLARE and CALL within a transaction")
}

// S75: what one tenant's text or function leaves on a session is not seen by the next.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode})
			_, err := be.Shared().ExecContext(t.Context(), `
				CREATE FUNCTION enter(who text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.user', who, false) $$;
				CREATE FUNCTION keep() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE kept AS SELECT 1 AS secret; SET statement_timeout = 77000; END $$`)
			require.NoError(t, err)
			_, thor := tenant(t, be, "thor")
			_, loki := tenant(t, be, "loki")
			clean := func(what string) {
				t.Helper()
				var user sql.NullString
				require.NoError(t, be.DB().QueryRowContext(loki, `SELECT nullif(current_setting('app.user', true), '')`).Scan(&user))
				assert.False(t, user.Valid, "%s: %s", what, user.String)
				var on string
				require.NoError(t, be.DB().QueryRowContext(loki, `SHOW default_transaction_read_only`).Scan(&on), what)
				assert.Equal(t, "off", on, what)
				require.NoError(t, be.DB().QueryRowContext(loki, `SHOW statement_timeout`).Scan(&on), what)
				assert.Equal(t, "0", on, what)
				_, err := be.DB().ExecContext(loki, `SELECT * FROM kept`)
				assert.Error(t, err, what)
			}
			for _, q := range []string{
				`SELECT set_config('app.user', 'thor', false)`,
				`SET app."user" = 'thor'`,
				`CREATE TABLE pg_temp.kept AS SELECT 1 AS secret`,
				`SELECT set_config('default_transaction_read_only', 'on', false)`,
				`SELECT enter('thor')`,
				`SELECT keep()`,
			} {
				_, err := be.DB().ExecContext(thor, q)
				require.NoError(t, err, q)
				clean(q)
				rows, err := be.PGX().Query(thor, q)
				require.NoError(t, err, q)
				rows.Close()
				require.NoError(t, rows.Err(), q)
				clean(q + ", native")
			}
			rows, err := be.DB().QueryContext(thor, `SELECT set_config('app.user', $1, false)`, "thor")
			require.NoError(t, err)
			require.NoError(t, rows.Close())
			clean("with an argument")
			// Within one session it is what it is.
			conn, err := be.DB().Conn(thor)
			require.NoError(t, err)
			_, err = conn.ExecContext(thor, `CREATE TEMP TABLE kept (a int)`)
			require.NoError(t, err)
			_, err = conn.ExecContext(thor, `INSERT INTO kept VALUES (1)`)
			require.NoError(t, err)
			require.NoError(t, conn.Close())
			clean("a held session")
		})
	}
}

// S75: neither is what is left in ways that no text and no function's source shows.
func TestLeftoversOutOfSight(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1"})
	_, thor := tenant(t, be, "thor")
	_, loki := tenant(t, be, "loki")
	const leave = `set_config('app.who', 'thor', false)`
	for _, q := range []string{
		`CREATE VIEW v AS SELECT ` + leave + ` AS x`,
		`CREATE TABLE defaulted (id int, t text DEFAULT ` + leave + `)`,
		`CREATE TABLE checked (id int CHECK (` + leave + ` <> ''))`,
		`CREATE DOMAIN told AS int CHECK (` + leave + ` <> '')`,
		`CREATE TABLE ruled (id int)`,
		`CREATE RULE r AS ON INSERT TO ruled DO ALSO SELECT ` + leave,
		`CREATE TABLE guarded (id int)`,
		`INSERT INTO guarded VALUES (1)`,
		`ALTER TABLE guarded ENABLE ROW LEVEL SECURITY`,
		`ALTER TABLE guarded FORCE ROW LEVEL SECURITY`,
		`CREATE POLICY p ON guarded USING (` + leave + ` <> '')`,
		`CREATE SEQUENCE numbers START 77`,
		`CREATE TABLE counted (id int GENERATED ALWAYS AS IDENTITY, x int)`,
		`CREATE TABLE triggered (id int)`,
		`CREATE FUNCTION updates() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			UPDATE pg_settings SET setting = 'on' WHERE name = 'default_transaction_read_only'; RETURN NEW; END $$`,
		`CREATE TRIGGER t BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION updates()`,
		"CREATE FUNCTION commented() RETURNS int LANGUAGE plpgsql AS $$ BEGIN -- who\n SET app.who = 'thor'; RETURN 1; END $$",
		`CREATE FUNCTION hidden() RETURNS int LANGUAGE plpgsql AS $$ BEGIN LOOP /**/SET app.who = 'thor'; RETURN 1; END LOOP; END $$`,
		`CREATE FUNCTION reads() RETURNS text LANGUAGE sql AS $$ SELECT x FROM v $$`,
		`CREATE FUNCTION xml() RETURNS xml LANGUAGE sql AS $$ SELECT query_to_xml('select set_con'||'fig(''app.who'',''thor'',false)', true, true, '') $$`,
	} {
		_, err := be.DB().ExecContext(thor, q)
		require.NoError(t, err, q)
	}
	_, err := be.DB().ExecContext(loki, `SELECT 1`)
	require.NoError(t, err)
	clean := func(what string) {
		t.Helper()
		var user, readOnly string
		var listening, tables int
		require.NoError(t, be.DB().QueryRowContext(loki, `SELECT coalesce(current_setting('app.who', true), ''),
			current_setting('default_transaction_read_only'), (SELECT count(*) FROM pg_listening_channels()),
			(SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())`).Scan(&user, &readOnly, &listening, &tables))
		assert.Empty(t, user, what)
		assert.Equal(t, "off", readOnly, what)
		assert.Zero(t, listening, what)
		assert.Zero(t, tables, what)
		_, err := be.DB().ExecContext(loki, `SELECT lastval()`)
		assert.ErrorContains(t, err, "lastval is not yet defined", what)
	}
	texts := []string{
		`SELECT x FROM v`, `INSERT INTO defaulted (id) VALUES (1)`, `INSERT INTO checked VALUES (1)`, `SELECT 1::told`,
		`INSERT INTO ruled VALUES (1)`, `SELECT id FROM guarded`, `EXPLAIN ANALYZE SELECT x FROM v`,
		`SELECT nextval('numbers')`, `INSERT INTO counted (x) VALUES (1)`, `INSERT INTO triggered VALUES (1)`,
		`SELECT commented()`, `SELECT hidden()`, `SELECT reads()`, `SELECT xml()`,
		`DO $$ BEGIN PERFORM ` + leave + `; END $$`, `DO $$ BEGIN LISTEN mail; END $$`,
		`DO $$ BEGIN EXECUTE 'CREATE TE' || 'MP TABLE kept (a int)'; END $$`,
		`UPDATE pg_settings SET setting = 'on' WHERE name = 'default_transaction_read_only'`,
		`SELECT query_to_xml('select set_con'||'fig(''app.who'',''thor'',false)', true, true, '')`,
	}
	for _, q := range texts {
		_, err := be.DB().ExecContext(thor, q)
		require.NoError(t, err, q)
		clean(q)
		_, err = be.PGX().Exec(thor, q)
		require.NoError(t, err, q)
		clean(q + ", native")
		tx, err := be.DB().BeginTx(thor, nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(thor, q)
		require.NoError(t, err, q)
		require.NoError(t, tx.Commit())
		clean(q + ", in a transaction")
	}
	tx, err := be.DB().BeginTx(thor, nil)
	require.NoError(t, err)
	for _, q := range []string{
		`CREATE FUNCTION passing() RETURNS text LANGUAGE sql AS $$ SELECT ` + leave + ` $$`, `SELECT passing()`, `DROP FUNCTION passing()`,
	} {
		_, err = tx.ExecContext(thor, q)
		require.NoError(t, err, q)
	}
	require.NoError(t, tx.Commit())
	clean("a function that is gone")
	// Within one store that much is taken away which a text says.
	for _, q := range texts[len(texts)-5:] {
		_, err := be.DB().ExecContext(loki, q)
		require.NoError(t, err, q)
		clean(q + ", by the same store")
	}
}

// S75: a transaction that begins in the message of a cleaning is one: it is committed, and rolled back.
func TestTransactionAfterACleaning(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode})
			_, a := tenant(t, be, "a")
			for i, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
				_, err := be.DB().ExecContext(a, `SET app.who = 'a'`)
				require.NoError(t, err)
				tx, err := be.DB().BeginTx(a, nil)
				require.NoError(t, err)
				_, err = tx.ExecContext(a, `INSERT INTO notes (mark) VALUES ($1)`, "x")
				require.NoError(t, err)
				require.NoError(t, end(tx))
				var n int
				require.NoError(t, be.DB().QueryRowContext(a, `SELECT count(*) FROM notes`).Scan(&n))
				require.Equal(t, 1, n, i)
			}
		})
	}
}

// S75: nor is what a script leaves seen by that for the next store, in the same message or after one that failed.
func TestLeftoversOfScripts(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1"})
	thor, a := tenant(t, be, "thor")
	loki, b := tenant(t, be, "loki")
	odin, c := tenant(t, be, "odin")
	_, err := be.DB().ExecContext(a, `CREATE FUNCTION enter() RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.who', 'thor', false) $$`)
	require.NoError(t, err)
	const look = `CREATE TABLE seen AS SELECT coalesce(current_setting('app.who', true), '') AS who, pg_backend_pid() AS pid`
	for _, q := range []string{
		`SELECT enter()`, `SET app.who = 'thor'`, `DO $$ BEGIN PERFORM set_config('app.who', 'thor', false); END $$`,
	} {
		faults := be.RunScripts(t.Context(), []backend.Script{
			{Route: thor, SQL: q}, {Route: loki, SQL: look}, {Route: thor, SQL: q}, {Route: loki, SQL: `SELEC`}, {Route: odin, SQL: look},
		}, backend.ScriptOptions{})
		require.NoError(t, errors.Join(faults[0], faults[1], faults[2], faults[4]), q)
		require.Error(t, faults[3], q)
		for _, ctx := range []context.Context{b, c} {
			var who string
			require.NoError(t, be.DB().QueryRowContext(ctx, `SELECT who FROM seen`).Scan(&who))
			assert.Empty(t, who, q)
			_, err := be.DB().ExecContext(ctx, `DROP TABLE seen`)
			require.NoError(t, err)
		}
	}
	// A script alone leaves nothing to a request either.
	require.NoError(t, be.RunScripts(t.Context(), []backend.Script{{Route: thor, SQL: `SET app.who = 'thor'`}}, backend.ScriptOptions{})[0])
	var who string
	require.NoError(t, be.DB().QueryRowContext(b, `SELECT coalesce(current_setting('app.who', true), '')`).Scan(&who))
	assert.Empty(t, who)
}

// Scripts that leave something on the session share a connection, which is cleaned in between, and a message.
func TestScriptsShareAConnection(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	proxy, through := proxied(t, databaseURL)
	for _, role := range []string{"auto", "off"} {
		be := open(t, through, map[string]string{"tenant_role": role})
		var scripts []backend.Script
		for i := range 20 {
			rt, _ := tenant(t, be, fmt.Sprintf("%s%d", role, i))
			scripts = append(scripts, backend.Script{Route: rt})
		}
		for _, q := range []string{
			`SELECT 1`, `DO $$ BEGIN PERFORM set_config('app.who', 'me', false); END $$`, `SET app.who = 'me'`, `LISTEN mail`,
			`SET default_transaction_read_only = on`, `SET default_transaction_isolation = serializable`,
			`CREATE TEMP TABLE t (a int)`, `SELECT pg_advisory_lock(1)`, `DECLARE c CURSOR WITH HOLD FOR SELECT 1`,
		} {
			for i := range scripts {
				scripts[i].SQL = q
			}
			opened, trips := be.Stats().Opened, proxy.RoundTrips()
			require.NoError(t, errors.Join(be.RunScripts(t.Context(), scripts, backend.ScriptOptions{})...), q)
			assert.LessOrEqual(t, be.Stats().Opened-opened, int64(1), "connections for %s", q)
			assert.LessOrEqual(t, proxy.RoundTrips()-trips, int64(12), "round trips for %s", q)
		}
	}
}

// COPY FROM STDIN, which nobody is there to send data for, is refused wherever it comes.
func TestCopyFromStdinIsRefused(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode})
			rt, a := tenant(t, be, "a")
			ctx, cancel := context.WithTimeout(a, time.Minute)
			defer cancel()
			const text = `COPY notes FROM STDIN`
			var b pgx.Batch
			b.Queue(`INSERT INTO notes (mark) VALUES ($1)`, "x")
			b.Queue(text)
			err := be.PGX().SendBatch(ctx, &b).Close()
			require.ErrorContains(t, err, "CopyFrom")
			_, err = be.DB().ExecContext(ctx, text)
			require.ErrorContains(t, err, "CopyFrom")
			rows, err := be.DB().QueryContext(ctx, text)
			if err == nil {
				err = rows.Close()
			}
			require.ErrorContains(t, err, "CopyFrom")
			faults := be.RunScripts(ctx, []backend.Script{{Route: rt, SQL: "INSERT INTO notes (mark) VALUES ('y');" + text + ";\n1\tx\n\\.\n"}, {Route: rt, SQL: "SELECT 1"}}, backend.ScriptOptions{})
			require.Error(t, faults[0])
			require.NotErrorIs(t, faults[0], backend.ErrOutcomeUnknown)
			require.NoError(t, faults[1])
			var n int
			require.NoError(t, be.DB().QueryRowContext(ctx, `SELECT count(*) FROM notes`).Scan(&n))
			require.Zero(t, n)
		})
	}
}

// SET TRANSACTION works as the first statement of a transaction, as with the bare driver, and what follows is bound.
func TestSetTransactionFirst(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode})
			_, a := tenant(t, be, "a")
			tx, err := be.DB().BeginTx(a, nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(a, `SET TRANSACTION ISOLATION LEVEL SERIALIZABLE`)
			require.NoError(t, err)
			_, err = tx.ExecContext(a, `SET TRANSACTION READ ONLY`)
			require.NoError(t, err)
			var level, schema string
			require.NoError(t, tx.QueryRowContext(a, `SELECT current_setting('transaction_isolation'), current_schema()`).Scan(&level, &schema))
			assert.Equal(t, "serializable", level)
			assert.Equal(t, "a", schema)
			require.NoError(t, tx.Commit())
			// Unbound, it reaches nothing when it ends at once.
			tx, err = be.DB().BeginTx(a, nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(a, `SET TRANSACTION READ ONLY`)
			require.NoError(t, err)
			require.NoError(t, tx.Commit())
		})
	}
}

// recorder notes what it is told.
type recorder struct {
	mu    sync.Mutex
	notes []string
}

func (r *recorder) note(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, s)
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	notes := r.notes
	r.notes = nil
	return notes
}

func (r *recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	r.note("start " + d.SQL)
	return ctx
}

func (r *recorder) TraceQueryEnd(_ context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	r.note("end " + d.CommandTag.String())
}

func (r *recorder) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	r.note("batch")
	return ctx
}

func (r *recorder) TraceBatchQuery(_ context.Context, _ *pgx.Conn, d pgx.TraceBatchQueryData) {
	r.note("query " + d.SQL + " " + d.CommandTag.String())
}

func (r *recorder) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {
	r.note("batch end")
}

func (r *recorder) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromStartData) context.Context {
	r.note("copy")
	return ctx
}

func (r *recorder) TraceCopyFromEnd(_ context.Context, _ *pgx.Conn, d pgx.TraceCopyFromEndData) {
	r.note("copy end " + d.CommandTag.String())
}

// Transactions, batches and COPY reach pgx's tracer as the bare driver's do.
func TestTracerOfTransactions(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	pc, err := pgxpool.ParseConfig(databaseURL)
	require.NoError(t, err)
	var r recorder
	pc.ConnConfig.Tracer = &r
	pool, err := pgxpool.NewWithConfig(t.Context(), pc)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	be, err := postgres.FromPool(t.Context(), pool, postgres.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = be.Close() })
	_, a := tenant(t, be, "a")
	run := func(begin func() (pgx.Tx, error)) []string {
		r.take()
		tx, err := begin()
		require.NoError(t, err)
		_, err = tx.Exec(a, `DELETE FROM notes WHERE id < $1`, 0)
		require.NoError(t, err)
		var b pgx.Batch
		b.Queue(`SELECT 1`)
		b.Queue(`SELECT 2`)
		require.NoError(t, tx.SendBatch(a, &b).Close())
		_, err = tx.CopyFrom(a, pgx.Identifier{"notes"}, []string{"mark"}, pgx.CopyFromRows([][]any{{"m"}}))
		require.NoError(t, err)
		require.NoError(t, tx.Commit(a))
		return r.take()
	}
	bare, err := pgxpool.NewWithConfig(t.Context(), func() *pgxpool.Config {
		pc := pc.Copy()
		pc.ConnConfig.RuntimeParams["search_path"] = "a"
		return pc
	}())
	require.NoError(t, err)
	t.Cleanup(bare.Close)
	want := run(func() (pgx.Tx, error) { return bare.Begin(a) })
	assert.Equal(t, want, run(func() (pgx.Tx, error) { return be.PGX().Begin(a) }))
	tx, err := be.DB().BeginTx(a, nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(a, `DELETE FROM notes`)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	assert.Equal(t, []string{"start begin", "end BEGIN", "start DELETE FROM notes", "end DELETE 2", "start commit", "end COMMIT"}, r.take())
}

// Positions of errors are those of the application's text, in characters; [pgconn.Timeout] says what it says of the bare
// driver; types without a length or a precision report none.
func TestWhatErrorsAndColumnsSay(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode})
			rt, a := tenant(t, be, "a")
			const text = `SELECT 'é日', nowhere FROM notes`
			position := func(err error) int32 {
				var pe *pgconn.PgError
				require.ErrorAs(t, err, &pe)
				return pe.Position
			}
			_, err := be.DB().ExecContext(a, text)
			assert.EqualValues(t, 14, position(err))
			_, err = be.DB().QueryContext(a, text)
			assert.EqualValues(t, 14, position(err))
			tx, err := be.DB().BeginTx(a, nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(a, text)
			assert.EqualValues(t, 14, position(err), "with BEGIN ahead of it")
			require.NoError(t, tx.Rollback())
			faults := be.RunScripts(t.Context(), []backend.Script{{Route: rt, SQL: `SELECT 'é'`}, {Route: rt, SQL: text}}, backend.ScriptOptions{})
			assert.EqualValues(t, 14, position(faults[1]))
			_, err = be.DB().ExecContext(a, `SELEC 'é'`)
			assert.EqualValues(t, 1, position(err), "one that cannot be parsed")

			cutShort(t, a, text, func(ctx context.Context) error {
				_, err := be.DB().ExecContext(ctx, `SELECT pg_sleep(60)`)
				assert.False(t, pgconn.SafeToRetry(err), "%v", err)
				return err
			})

			rows, err := be.DB().QueryContext(a, `SELECT 'x'::varchar, 'x'::varchar(7), 1::numeric, 1::numeric(5,2)`)
			require.NoError(t, err)
			types, err := rows.ColumnTypes()
			require.NoError(t, err)
			require.NoError(t, rows.Close())
			n, ok := types[0].Length()
			assert.True(t, ok)
			assert.Equal(t, int64(math.MaxInt64), n)
			n, ok = types[1].Length()
			assert.True(t, ok)
			assert.EqualValues(t, 7, n)
			precision, scale, ok := types[2].DecimalSize()
			assert.True(t, ok)
			assert.Equal(t, []int64{math.MaxInt64, math.MaxInt64}, []int64{precision, scale})
			precision, scale, ok = types[3].DecimalSize()
			assert.True(t, ok)
			assert.Equal(t, []int64{5, 2}, []int64{precision, scale})
		})
	}
}

// S76: one tenant's column is of another type than the other's, while a migration is rolling: values are right, by COPY,
// by statements, in transactions and batches.
func TestTypesThatDiffer(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		for _, statements := range []string{"0", "1024"} {
			t.Run(mode+"/"+statements, func(t *testing.T) {
				t.Parallel()
				be := open(t, pgtest.Shared(t).Database(t), map[string]string{
					"pool_max_conns": "1", "default_query_exec_mode": mode, "tenant_statements": statements,
				})
				var in []context.Context
				for name, typ := range map[string]string{"a": "bigint", "b": "double precision", "c": "text", "d": "numeric"} {
					rt, ctx := tenant(t, be, name)
					owner := be.Maintenance(rt)
					_, err := owner.ExecContext(t.Context(), `CREATE TABLE prices (id int, amount `+typ+`)`)
					require.NoError(t, err)
					require.NoError(t, owner.Close())
					in = append(in, ctx)
				}
				const insert = `INSERT INTO prices (id, amount) VALUES ($1, $2)`
				for range 3 {
					for _, ctx := range in {
						var want []string
						check := func(what string) {
							t.Helper()
							var got []string
							rows, err := be.PGX().Query(ctx, `SELECT amount::text FROM prices ORDER BY id`)
							require.NoError(t, err)
							got, err = pgx.CollectRows(rows, pgx.RowTo[string])
							require.NoError(t, err)
							assert.Equal(t, want, got, what)
						}
						_, err := be.DB().ExecContext(ctx, `DELETE FROM prices`)
						require.NoError(t, err)
						_, err = be.DB().ExecContext(ctx, insert, 1, "1999")
						require.NoError(t, err)
						want = append(want, "1999")
						check("a statement")
						tx, err := be.DB().BeginTx(ctx, nil)
						require.NoError(t, err)
						_, err = tx.ExecContext(ctx, `SELECT $1::int`, 1)
						require.NoError(t, err)
						_, err = tx.ExecContext(ctx, insert, 2, "0042")
						require.NoError(t, err)
						require.NoError(t, tx.Commit())
						if want = append(want, "42"); columnType(t, be, ctx) == "text" {
							want[1] = "0042"
						}
						check("a transaction")
						var b pgx.Batch
						b.Queue(insert, 3, "7")
						b.Queue(insert, 4, "8")
						require.NoError(t, be.PGX().SendBatch(ctx, &b).Close())
						want = append(want, "7", "8")
						check("a batch")
						var value any = int64(5)
						if columnType(t, be, ctx) == "text" {
							value = "5"
						}
						n, err := be.PGX().CopyFrom(ctx, pgx.Identifier{"prices"}, []string{"id", "amount"}, pgx.CopyFromRows([][]any{{5, value}}))
						require.NoError(t, err)
						require.EqualValues(t, 1, n)
						want = append(want, "5")
						check("COPY")
					}
				}
			})
		}
	}
}

func columnType(t testing.TB, be *postgres.Backend, ctx context.Context) (name string) {
	t.Helper()
	require.NoError(t, be.PGX().QueryRow(ctx, `SELECT format_type(atttypid, atttypmod) FROM pg_attribute
		WHERE attrelid = 'prices'::regclass AND attname = 'amount'`).Scan(&name))
	return name
}

// S76: a table, a sequence, a function and the bodies of functions mean the tenant's own as soon as it has them, on
// connections that were there before, in this process and in another, however the store was changed.
func TestTheTenantsOwnTakesThePlaceOfTheShared(t *testing.T) {
	t.Parallel()
	const own = `CREATE TABLE plans (k text); INSERT INTO plans VALUES ('own');
		CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT 'own' $$;
		CREATE SEQUENCE s START 1000`
	changes := map[string]func(t *testing.T, be *postgres.Backend, rt backend.Route){
		"script": func(t *testing.T, be *postgres.Backend, rt backend.Route) {
			require.NoError(t, be.RunScripts(t.Context(), []backend.Script{{Route: rt, SQL: own}}, backend.ScriptOptions{})[0])
		},
		"maintenance": func(t *testing.T, be *postgres.Backend, rt backend.Route) {
			db := be.Maintenance(rt)
			defer func() { _ = db.Close() }()
			_, err := db.ExecContext(t.Context(), own)
			require.NoError(t, err)
		},
		"transaction": func(t *testing.T, be *postgres.Backend, rt backend.Route) {
			db := be.Maintenance(rt)
			defer func() { _ = db.Close() }()
			tx, err := db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(t.Context(), own)
			require.NoError(t, err)
			require.NoError(t, tx.Commit())
		},
		"request": func(t *testing.T, be *postgres.Backend, rt backend.Route) {
			_, err := be.DB().ExecContext(backend.WithRoute(t.Context(), rt), own)
			require.NoError(t, err)
		},
	}
	for _, mode := range []string{"cache_statement", "exec", "simple_protocol"} {
		for name, change := range changes {
			t.Run(mode+"/"+name, func(t *testing.T) {
				t.Parallel()
				databaseURL := pgtest.Shared(t).Database(t)
				params := map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode}
				here, elsewhere := open(t, databaseURL, params), open(t, databaseURL, params)
				_, err := here.Shared().ExecContext(t.Context(), `CREATE TABLE plans (k text); INSERT INTO plans VALUES ('shared');
					CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT 'shared' $$;
					CREATE SEQUENCE s; GRANT USAGE ON s TO public;
					CREATE FUNCTION body() RETURNS text LANGUAGE plpgsql AS $$ DECLARE r text; BEGIN SELECT k INTO r FROM plans; RETURN r || f() || (nextval('s') >= 1000); END $$`)
				require.NoError(t, err)
				rt, a := tenant(t, here, "a")
				read := func(be *postgres.Backend) (plan, f, body string, next int64) {
					require.NoError(t, be.DB().QueryRowContext(a, `SELECT k FROM plans`).Scan(&plan))
					require.NoError(t, be.DB().QueryRowContext(a, `SELECT f()`).Scan(&f))
					require.NoError(t, be.DB().QueryRowContext(a, `SELECT body()`).Scan(&body))
					require.NoError(t, be.DB().QueryRowContext(a, `SELECT nextval('s')`).Scan(&next))
					return plan, f, body, next
				}
				for _, be := range []*postgres.Backend{here, elsewhere} {
					for range 7 { // from the sixth on a plan is kept
						plan, f, body, next := read(be)
						require.Equal(t, []string{"shared", "shared", "sharedsharedfalse"}, []string{plan, f, body})
						require.Less(t, next, int64(1000))
					}
				}
				change(t, here, rt)
				for _, be := range []*postgres.Backend{here, elsewhere} {
					plan, f, body, next := read(be)
					assert.Equal(t, []string{"own", "own", "ownowntrue"}, []string{plan, f, body})
					assert.GreaterOrEqual(t, next, int64(1000))
				}
			})
		}
	}
}

// An advisory lock of the session's would be gone when the call returns: it is refused on pooled handles.
func TestSessionLocksOnPooledHandles(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1"})
	_, a := tenant(t, be, "a")
	const text = `SELECT pg_advisory_lock(7)`
	_, err := be.DB().ExecContext(a, text)
	require.ErrorContains(t, err, "pg_advisory_xact_lock")
	require.ErrorContains(t, be.DB().QueryRowContext(a, text).Scan(new(any)), "pg_advisory_xact_lock")
	_, err = be.PGX().Exec(a, text)
	require.ErrorContains(t, err, "pg_advisory_xact_lock")
	require.ErrorContains(t, be.PGX().QueryRow(a, text).Scan(new(any)), "pg_advisory_xact_lock")
	tx, err := be.DB().BeginTx(a, nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(a, `SELECT pg_advisory_xact_lock(7)`)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	conn, err := be.DB().Conn(a)
	require.NoError(t, err)
	_, err = conn.ExecContext(a, text)
	require.NoError(t, err)
	var held bool
	require.NoError(t, conn.QueryRowContext(a, `SELECT pg_advisory_unlock(7)`).Scan(&held))
	require.True(t, held)
	require.NoError(t, conn.Close())
}

// Conn.Raw hands out pgx's own connection, bound to the store.
func TestRaw(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1"})
	_, a := tenant(t, be, "a")
	conn, err := be.DB().Conn(a)
	require.NoError(t, err)
	require.NoError(t, conn.QueryRowContext(a, `SELECT 1`).Scan(new(int)))
	require.NoError(t, conn.Raw(func(dc any) error {
		pg, ok := dc.(interface{ Raw() any }).Raw().(*pgx.Conn)
		require.True(t, ok)
		var schema string
		require.NoError(t, pg.QueryRow(a, `SELECT current_schema()`).Scan(&schema))
		require.Equal(t, "a", schema)
		return nil
	}))
	require.NoError(t, conn.Close())
}

// A transaction without statements sends nothing, and one whose store is gone says so with its first statement.
func TestTransactionThatDoesNothing(t *testing.T) {
	t.Parallel()
	proxy, proxyURL := proxied(t, pgtest.Shared(t).Database(t))
	be := open(t, proxyURL, map[string]string{"pool_max_conns": "1"})
	rt, a := tenant(t, be, "a")
	require.NoError(t, be.DB().QueryRowContext(a, `SELECT 1`).Scan(new(int)))
	proxy.ResetRoundTrips()
	for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
		tx, err := be.DB().BeginTx(a, nil)
		require.NoError(t, err)
		require.NoError(t, end(tx))
	}
	assert.Zero(t, proxy.ResetRoundTrips())
	require.NoError(t, be.Drop(t.Context(), rt))
	tx, err := be.DB().BeginTx(a, nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(a, `SELECT 1`)
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	require.Error(t, tx.Commit())
}

// A batch whose statements and results are larger than all buffers does not stop.
func TestLargeBatch(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1"})
	_, a := tenant(t, be, "a")
	ctx, cancel := context.WithTimeout(a, 60*time.Second)
	defer cancel()
	var b pgx.Batch
	large := string(make([]byte, 0)) + string([]rune("é"))
	for len(large) < 64<<10 {
		large += large
	}
	for range 200 {
		b.Queue(`SELECT $1::text || $1::text`, large)
	}
	require.NoError(t, be.PGX().SendBatch(ctx, &b).Close())
	var n int
	require.NoError(t, be.DB().QueryRowContext(ctx, `SELECT count(*) FROM notes`).Scan(&n))
}

// S77: a COMMIT that is written as text, of a transaction that had failed, is an error, as Tx.Commit's is.
func TestCommitThatCannotLast(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode})
			_, a := tenant(t, be, "a")
			conn, err := be.DB().Conn(a)
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			for text, lasts := range map[string]bool{"COMMIT": false, "/* */ end work": false, "ROLLBACK": true, "abort": true} {
				for _, q := range []string{`BEGIN`, `INSERT INTO notes (mark) VALUES ('lost')`} {
					_, err := conn.ExecContext(a, q)
					require.NoError(t, err, q)
				}
				_, err := conn.ExecContext(a, `SELECT nowhere`)
				require.Error(t, err)
				_, err = conn.ExecContext(a, text)
				if lasts {
					require.NoError(t, err, text)
				} else {
					require.ErrorIs(t, err, pgx.ErrTxCommitRollback, text)
				}
			}
			_, err = conn.ExecContext(a, `BEGIN`)
			require.NoError(t, err)
			_, err = conn.ExecContext(a, `INSERT INTO notes (mark) VALUES ('kept')`)
			require.NoError(t, err)
			_, err = conn.ExecContext(a, `COMMIT`)
			require.NoError(t, err)
			var n int
			require.NoError(t, conn.QueryRowContext(a, `SELECT count(*) FROM notes`).Scan(&n))
			require.Equal(t, 1, n)
		})
	}
}

// S76: What the log-in's settings make of a value that is written as text is not what a tenant gets to read: the first
// query of a store on a connection is sent before its columns are known.
func TestSettingsOfTextDoNotReachValues(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{
		"pool_max_conns": "1", "extra_float_digits": "0", "bytea_output": "escape", "datestyle": "SQL", "intervalstyle": "iso_8601",
	})
	for i := range 3 {
		_, ctx := tenant(t, be, fmt.Sprintf("t%d", i))
		const query = `SELECT 0.1::float8+0.2::float8, '\x0041ff'::bytea, timestamptz '2026-11-26 12:00:00+00', $1::text`
		var (
			sum  float64
			raw  []byte
			at   time.Time
			text string
		)
		require.NoError(t, be.DB().QueryRowContext(ctx, query, "a").Scan(&sum, &raw, &at, &text))
		assert.InDelta(t, 0.30000000000000004, sum, 0)
		assert.Equal(t, []byte{0, 'A', 0xff}, raw)
		assert.True(t, at.Equal(time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)), at)
		var span pgtype.Interval
		require.NoError(t, be.PGX().QueryRow(ctx, "SELECT interval '1 day 02:03:04'").Scan(&span))
		assert.Equal(t, int32(1), span.Days)
	}
}
