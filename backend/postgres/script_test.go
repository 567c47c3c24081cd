package postgres_test

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// S80: a function that changes the role is noticed when an earlier script of the same message or of an earlier one made it,
// and when another program did while the connection had the question prepared.
func TestFunctionMadeMeanwhile(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	be := open(t, databaseURL, map[string]string{"pool_max_conns": "1"})
	_, err := be.Shared().ExecContext(t.Context(), `CREATE TABLE plans (n int); INSERT INTO plans VALUES (1)`)
	require.NoError(t, err)
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	leave := `CREATE FUNCTION %sleave() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SET ROLE none'; UPDATE public.plans SET n = 7;
		EXECUTE 'SET ROLE "tenants:` + u.Path[1:] + `"'; END $$`
	a, _ := tenant(t, be, "a")
	b, _ := tenant(t, be, "b")
	c, _ := tenant(t, be, "c")
	quiet := func(rt backend.Route) backend.Script {
		return backend.Script{Route: rt, SQL: `INSERT INTO notes (mark) VALUES ('x')`}
	}
	call := func(rt backend.Route) backend.Script { return backend.Script{Route: rt, SQL: `SELECT leave()`} }
	refuses := func(last int, scripts ...backend.Script) {
		t.Helper()
		for i, err := range be.RunScripts(t.Context(), scripts, backend.ScriptOptions{}) {
			if i == last {
				require.ErrorIs(t, err, backend.ErrReadOnlyShared)
			} else {
				require.NoError(t, err)
			}
		}
		var n int
		require.NoError(t, be.Shared().QueryRowContext(t.Context(), `SELECT n FROM plans`).Scan(&n))
		require.Equal(t, 1, n)
	}
	refuses(-1, quiet(a), quiet(b), quiet(c))
	refuses(1, backend.Script{Route: a, SQL: fmt.Sprintf(leave, "")}, call(a), quiet(b))

	far := []backend.Script{{Route: b, SQL: fmt.Sprintf(leave, "")}}
	for range 40 { // more than go into a message
		far = append(far, quiet(a))
	}
	refuses(41, append(far, call(b))...)

	other, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	defer func() { _ = other.Close(t.Context()) }()
	_, err = other.Exec(t.Context(), fmt.Sprintf(leave, "c.")+`; GRANT EXECUTE ON FUNCTION c.leave() TO PUBLIC`)
	require.NoError(t, err)
	refuses(1, quiet(a), call(c))
	_, err = other.Exec(t.Context(), `DROP FUNCTION c.leave(); `+fmt.Sprintf(leave, "public."))
	require.NoError(t, err)
	refuses(1, quiet(a), call(c))
}

// A head with values runs ahead of guard and text in each transaction, wherever statements can be prepared or not; and a
// script that takes away what the connection has prepared, out of sight, costs nobody anything.
func TestPreparedHead(t *testing.T) {
	t.Parallel()
	for name, params := range map[string]map[string]string{
		"prepared": nil,
		"text":     {"default_query_exec_mode": "simple_protocol"},
		"no roles": {"tenant_role": "off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), params)
			_, err := be.Shared().ExecContext(t.Context(), `CREATE TABLE ledger (store text PRIMARY KEY, was text, now text NOT NULL)`)
			require.NoError(t, err)
			var scripts []backend.Script
			for i := range 40 {
				rt, _ := tenant(t, be, fmt.Sprintf("t%d", i))
				_, err := be.Shared().ExecContext(t.Context(), `INSERT INTO ledger VALUES ($1, $2, $2)`, rt.Store.String(), `a'\`)
				require.NoError(t, err)
				s := backend.Script{
					Route: rt, Head: `UPDATE public.ledger SET now = CASE was WHEN $2 THEN $3 END WHERE store = $1`,
					HeadArgs: []string{rt.Store.String(), `a'\`, `b'\`},
					Guard:    fmt.Sprintf(`INSERT INTO %q.notes (mark) VALUES ('guard');`, rt.Store), SQL: `UPDATE notes SET mark = mark || 'ed'`,
				}
				switch i {
				case 3:
					s.SQL += `; DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$`
				case 7:
					s.HeadArgs[1] = "elsewhere"
				}
				scripts = append(scripts, s)
			}
			for i, err := range be.RunScripts(t.Context(), scripts, backend.ScriptOptions{Async: true}) {
				if i == 7 {
					require.ErrorContains(t, err, "23502")
				} else {
					require.NoError(t, err, i)
				}
			}
			for query, want := range map[string]int{
				`SELECT count(*) FROM ledger WHERE now <> was`:          39,
				`SELECT count(*) FROM t0.notes WHERE mark = 'guarded'`:  1,
				`SELECT count(*) FROM t39.notes WHERE mark = 'guarded'`: 1,
				`SELECT count(*) FROM t7.notes`:                         0,
			} {
				var n int
				require.NoError(t, be.Shared().QueryRowContext(t.Context(), query).Scan(&n))
				require.Equal(t, want, n, query)
			}
		})
	}
}

// What a script leaves out of sight reaches no other store's: not in the same message, nor in the next one, nor in the next run.
func TestScriptsLeaveNothing(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	other := otherRole(t, databaseURL)
	for _, roles := range []string{"auto", "off"} {
		t.Run("roles "+roles, func(t *testing.T) {
			t.Parallel()
			be := open(t, databaseURL, map[string]string{"pool_max_conns": "1", "tenant_role": roles})
			a, ctx := tenant(t, be, "a_"+roles)
			b, _ := tenant(t, be, "b_"+roles)
			_, err := be.DB().ExecContext(ctx, `CREATE FUNCTION leave(text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; END $$`)
			require.NoError(t, err)
			leave := func(what string) backend.Script {
				return backend.Script{Route: a, SQL: `SELECT leave($what$` + what + `$what$)`}
			}
			look := backend.Script{Route: b, SQL: `INSERT INTO notes (mark) SELECT concat_ws(' ', '\', current_user, session_user, nullif(current_setting('app.who', true), ''),
				to_regclass('pg_temp.t'), (SELECT count(*) FROM pg_cursors), (SELECT count(*) FROM pg_listening_channels()),
				current_setting('transaction_isolation'), current_setting('transaction_deferrable'), current_setting('statement_timeout'),
				(SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND mode = 'ExclusiveLock'))`}
			run := func(scripts ...backend.Script) {
				for i, err := range be.RunScripts(t.Context(), scripts, backend.ScriptOptions{}) {
					assert.NoError(t, err, "%d of %d after %s", i, len(scripts), scripts[0].SQL)
				}
			}
			seen := func() (mark string) {
				db := be.DBFor(b)
				defer func() { require.NoError(t, db.Close()) }()
				require.NoError(t, db.QueryRowContext(t.Context(), `SELECT coalesce(max(mark), '') FROM notes`).Scan(&mark))
				_, err := db.ExecContext(t.Context(), `DELETE FROM notes`)
				require.NoError(t, err)
				return mark
			}
			run(leave(`SELECT`), look)
			want := seen()
			for _, what := range []string{
				`SET app.who = 'a'`, `CREATE TEMP TABLE t (a int)`, `LISTEN mail`, `SELECT pg_advisory_lock(7)`,
				`DECLARE c CURSOR WITH HOLD FOR SELECT 1`, `SET default_transaction_isolation = serializable`,
				`SET default_transaction_read_only = on`, `SET default_transaction_deferrable = on`, `SET statement_timeout = '10s'`,
				`SET search_path = pg_catalog`, `SET standard_conforming_strings = off`, `SET ROLE ` + other,
			} {
				run(leave(what), look)
				assert.Equal(t, want, seen(), "%s, in the same message", what)
				var scripts []backend.Script
				for range 32 { // as many as go into a message
					scripts = append(scripts, leave(what))
				}
				run(append(scripts, look)...)
				assert.Equal(t, want, seen(), "%s, in the next message", what)
				run(leave(what))
				run(look)
				assert.Equal(t, want, seen(), "%s, in the next run", what)
			}
		})
	}
}

// The server holds back what it answers to a message, and goes on when the connection is lost: of none of its scripts can
// be said that it was not run.
func TestScriptsOfALostMessage(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	proxy, through := proxied(t, databaseURL)
	be := open(t, through, map[string]string{"pool_max_conns": "1"})
	var scripts []backend.Script
	for i := range 40 { // more than go into a message
		rt, ctx := tenant(t, be, fmt.Sprintf("t%d", i))
		_, err := be.DB().ExecContext(ctx, `INSERT INTO notes (mark) VALUES ('before')`)
		require.NoError(t, err)
		s := backend.Script{Route: rt, SQL: `UPDATE notes SET mark = 'after'`}
		if i == 3 {
			s.SQL += `; SELECT pg_sleep(60)`
		}
		scripts = append(scripts, s)
	}
	other, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	defer func() { _ = other.Close(t.Context()) }()

	errs := make(chan []error, 1)
	go func() { errs <- be.RunScripts(t.Context(), scripts, backend.ScriptOptions{}) }()
	require.Eventually(t, func() bool {
		var mark string
		require.NoError(t, other.QueryRow(t.Context(), `SELECT mark FROM t2.notes`).Scan(&mark))
		return mark == "after"
	}, time.Minute, 5*time.Millisecond)
	proxy.CutAll()
	got := <-errs
	for i := range 3 {
		require.ErrorIs(t, got[i], backend.ErrOutcomeUnknown, "it was committed")
	}
	require.ErrorIs(t, got[3], backend.ErrOutcomeUnknown)
	require.ErrorIs(t, got[31], backend.ErrOutcomeUnknown)
	for _, err := range got[32:] {
		require.ErrorContains(t, err, "not run")
		require.NotErrorIs(t, err, backend.ErrOutcomeUnknown)
	}
}
