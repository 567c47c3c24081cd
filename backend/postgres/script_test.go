package postgres_test

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
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
