package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// What cleans a connection answers with a row of its own, which is nobody's: a statement without a result has no columns.
func TestCleaningHasNoColumns(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "default_query_exec_mode": mode})
			_, a := tenant(t, be, "a")
			_, b := tenant(t, be, "b")
			for range 3 {
				for _, args := range [][]any{nil, {"x"}} {
					require.NoError(t, be.DB().QueryRowContext(b, `SELECT 1`).Scan(new(int)))
					text := `INSERT INTO notes (mark) VALUES ('x')`
					if args != nil {
						text = `INSERT INTO notes (mark) VALUES ($1)`
					}
					rows, err := be.DB().QueryContext(a, text, args...)
					require.NoError(t, err)
					columns, err := rows.Columns()
					require.NoError(t, err)
					require.Empty(t, columns)
					require.False(t, rows.Next())
					require.NoError(t, rows.Close())
				}
			}
		})
	}
}

// What is prepared is taken away out of sight: the next tenant's cleaning finds that out, and the tenant does not.
func TestDeallocatedOutOfSight(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1"})
	_, a := tenant(t, be, "a")
	_, b := tenant(t, be, "b")
	for range 5 {
		_, err := be.DB().ExecContext(a, `DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$`)
		require.NoError(t, err)
		require.NoError(t, be.DB().QueryRowContext(b, `SELECT 1`).Scan(new(int)))
		_, err = be.DB().ExecContext(a, `DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$`)
		require.NoError(t, err)
		tx, err := be.DB().BeginTx(b, nil)
		require.NoError(t, err)
		require.NoError(t, tx.QueryRowContext(b, `SELECT 1`).Scan(new(int)))
		require.NoError(t, tx.Commit())
		require.NoError(t, be.Shared().QueryRowContext(t.Context(), `SELECT 1`).Scan(new(int)))
	}
}

// What cannot be taken away in the transaction of the next tenant's statement is taken away ahead of it.
func TestCleanedBeforehand(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	other := otherRole(t, databaseURL)
	for _, role := range []string{"auto", "off"} {
		for i, what := range []string{
			`SET app.who = 'a'`, `CREATE TEMP TABLE t (a int)`, `LISTEN mail`, `SELECT pg_advisory_lock(7)`,
			`DECLARE c CURSOR WITH HOLD FOR SELECT 1`, `SET default_transaction_isolation = serializable`,
			`SET default_transaction_read_only = on`, `SET default_transaction_deferrable = on`,
			`SET statement_timeout = '10s'; SET app.who = 'a'`, `SET ROLE ` + other,
		} {
			be := open(t, databaseURL, map[string]string{"pool_max_conns": "1", "tenant_role": role})
			_, a := tenant(t, be, fmt.Sprintf("a%d%s", i, role))
			_, b := tenant(t, be, fmt.Sprintf("b%d%s", i, role))
			_, err := be.DB().ExecContext(a, `CREATE FUNCTION leave(text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; END $$`)
			require.NoError(t, err)
			look := func() string {
				var state string
				require.NoError(t, be.DB().QueryRowContext(b, `SELECT concat_ws(' ', current_setting('app.who', true), to_regclass('pg_temp.t'),
					(SELECT count(*) FROM pg_cursors), (SELECT count(*) FROM pg_listening_channels()), current_setting('transaction_isolation'),
					current_setting('transaction_read_only'), current_setting('transaction_deferrable'), current_setting('statement_timeout'), current_user,
					(SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND mode = 'ExclusiveLock'))`).Scan(&state))
				return state
			}
			want := look()
			for _, fails := range []bool{false, true} {
				_, err := be.DB().ExecContext(a, `SELECT leave($1)`, what)
				require.NoError(t, err, what)
				if fails { // in the transaction that was to clean
					_, err := be.DB().ExecContext(b, `INSERT INTO notes (mark) SELECT 1/$1::int FROM generate_series(1, 1)`, "0")
					require.ErrorContains(t, err, "division by zero", what)
				}
				require.Equal(t, want, strings.TrimSpace(look()), "%s, %s, fails: %v", role, what, fails)
			}
		}
	}
}

// otherRole makes a role that the log-in may become.
func otherRole(t *testing.T, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	name := u.Path[1:] + "_x"
	execs(t, databaseURL, `CREATE ROLE `+name, `GRANT `+name+` TO CURRENT_USER`)
	return name
}

// A role that a tenant's code has taken out of sight is left to nobody, nor is another session user, which superusers can take.
func TestRoleIsLeftToNobody(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	other := otherRole(t, databaseURL)
	open(t, databaseURL, nil) // makes the tenants' role, which goes with the database then
	n := 0
	for what, as := range map[string]string{
		`SET ROLE ` + other:                  databaseURL,
		`SET SESSION AUTHORIZATION ` + other: pgtest.Shared(t).AdminDatabaseURL(t, databaseURL),
	} {
		for _, roles := range []string{"off", "auto"} {
			for _, mode := range []string{"cache_statement", "exec", "simple_protocol"} {
				n++
				a, b := fmt.Sprintf("a%d", n), fmt.Sprintf("b%d", n)
				t.Run(what+"/roles "+roles+"/"+mode, func(t *testing.T) {
					t.Parallel()
					be := open(t, as, map[string]string{"pool_max_conns": "1", "tenant_role": roles, "default_query_exec_mode": mode})
					_, a := tenant(t, be, a)
					rt, b := tenant(t, be, b)
					_, err := be.DB().ExecContext(a, `CREATE FUNCTION leave(text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; END $$`)
					require.NoError(t, err)
					const who = `SELECT current_user || ' for ' || session_user`
					for way, look := range map[string]func(user *string) error{
						"a statement": func(user *string) error { return be.DB().QueryRowContext(b, who).Scan(user) },
						"pgx":         func(user *string) error { return be.PGX().QueryRow(b, who).Scan(user) },
						"a transaction": func(user *string) error {
							tx, err := be.DB().BeginTx(b, nil)
							require.NoError(t, err)
							defer func() { require.NoError(t, tx.Commit()) }()
							return tx.QueryRowContext(b, who).Scan(user)
						},
						"upkeep": func(user *string) error {
							db := be.Maintenance(rt)
							defer func() { require.NoError(t, db.Close()) }()
							return db.QueryRowContext(t.Context(), who).Scan(user)
						},
						"a script": func(user *string) error {
							script := backend.Script{Route: rt, SQL: `DELETE FROM notes; INSERT INTO notes (mark) ` + who}
							require.NoError(t, be.RunScripts(t.Context(), []backend.Script{script}, backend.ScriptOptions{})[0])
							return be.DB().QueryRowContext(b, `SELECT mark FROM notes`).Scan(user)
						},
						"the shared store": func(user *string) error { return be.Shared().QueryRowContext(t.Context(), who).Scan(user) },
					} {
						var before, after string
						require.NoError(t, look(&before), way)
						_, err = be.DB().ExecContext(a, `SELECT leave($1)`, what)
						require.NoError(t, err)
						require.NoError(t, look(&after), way)
						require.Equal(t, before, after, way)
					}
				})
			}
		}
	}
}

// A tenant's code that sets how the server reads texts shuts the connection to nobody's arguments. A session's own setting
// stays, and then it is refused to write arguments into texts.
func TestTextsAreReadAsMeant(t *testing.T) {
	t.Parallel()
	be := open(t, pgtest.Shared(t).Database(t), map[string]string{"pool_max_conns": "1", "default_query_exec_mode": "simple_protocol"})
	_, a := tenant(t, be, "a")
	_, b := tenant(t, be, "b")
	_, err := be.DB().ExecContext(a, `CREATE FUNCTION leave(text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; END $$`)
	require.NoError(t, err)
	const (
		text  = `SELECT $1::text`
		value = `\'ä`
	)
	for _, what := range []string{`SET client_encoding = 'LATIN1'`, `SET client_encoding = 'SJIS'`, `SET standard_conforming_strings = off`} {
		for way, read := range map[string]func(got *string) error{
			"a statement":        func(got *string) error { return be.DB().QueryRowContext(b, text, value).Scan(got) },
			"the same tenant's":  func(got *string) error { return be.DB().QueryRowContext(a, text, value).Scan(got) },
			"the shared store's": func(got *string) error { return be.Shared().QueryRowContext(t.Context(), text, value).Scan(got) },
			"pgx":                func(got *string) error { return be.PGX().QueryRow(b, text, value).Scan(got) },
			"a batch": func(got *string) error {
				batch := &pgx.Batch{}
				batch.Queue(text, value).QueryRow(func(row pgx.Row) error { return row.Scan(got) })
				return be.PGX().SendBatch(b, batch).Close()
			},
			"a transaction": func(got *string) error {
				tx, err := be.DB().BeginTx(b, nil)
				require.NoError(t, err)
				defer func() { require.NoError(t, tx.Commit()) }()
				return tx.QueryRowContext(b, text, value).Scan(got)
			},
		} {
			_, err := be.DB().ExecContext(a, `SELECT leave($1)`, what)
			require.NoError(t, err, what)
			var got string
			require.NoError(t, read(&got), "%s, after %s", way, what)
			require.Equal(t, value, got)
		}
		held, err := be.DB().Conn(b)
		require.NoError(t, err)
		_, err = held.ExecContext(b, what)
		require.NoError(t, err)
		require.ErrorContains(t, held.QueryRowContext(b, text, value).Scan(new(string)), "the simple protocol needs")
		require.NoError(t, held.Close())
	}
}

// What one connection has found out of a text's types in a store, another does not ask again.
func TestTypesAreAskedOnce(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	proxy, through := proxied(t, databaseURL)
	be := open(t, through, map[string]string{"pool_max_conns": "2"})
	const n = 10
	var tenants []context.Context
	for i := range n {
		_, ctx := tenant(t, be, fmt.Sprintf("t%d", i))
		tenants = append(tenants, ctx)
	}
	read := func(db interface {
		QueryRowContext(context.Context, string, ...any) *sql.Row
	}, ctx context.Context,
	) {
		var got int
		require.NoError(t, db.QueryRowContext(ctx, `SELECT $1 + count(*) FROM notes`, 41).Scan(&got))
		require.GreaterOrEqual(t, got, 41)
	}
	one := func() func() { // holds the connection that would be used next
		c, err := be.DB().Conn(tenants[0])
		require.NoError(t, err)
		require.NoError(t, c.QueryRowContext(tenants[0], `SELECT 1`).Scan(new(int)))
		return func() { require.NoError(t, c.Close()) }
	}
	free := one()
	for _, ctx := range tenants {
		read(be.DB(), ctx)
	}
	var pid, other int
	require.NoError(t, be.DB().QueryRowContext(tenants[1], `SELECT pg_backend_pid()`).Scan(&pid))
	held, err := be.DB().Conn(tenants[1])
	require.NoError(t, err)
	require.NoError(t, held.QueryRowContext(tenants[1], `SELECT pg_backend_pid()`).Scan(&other))
	require.Equal(t, pid, other)
	free()
	read(be.DB(), tenants[2]) // the text itself is new there
	proxy.ResetRoundTrips()
	for _, ctx := range tenants[3:] {
		read(be.DB(), ctx)
	}
	require.EqualValues(t, n-3, proxy.ResetRoundTrips())
	require.NoError(t, held.Close())
}

// A tenant who comes to the name of one that is gone, by another process, finds nothing that the other has left on a connection.
func TestNothingIsLeftToTheNextOfTheName(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	be, other := open(t, databaseURL, map[string]string{"pool_max_conns": "1"}), open(t, databaseURL, nil)
	rt, ctx := tenant(t, be, "a")
	_, err := other.Shared().ExecContext(t.Context(), `CREATE FUNCTION public.leave() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		PERFORM set_config('app.user', 'the first', false); EXECUTE 'CREATE TEMPORARY TABLE mine AS SELECT 1'; END $$`)
	require.NoError(t, err)
	_, err = be.DB().ExecContext(ctx, `SELECT public.leave()`)
	require.NoError(t, err)

	require.NoError(t, other.Drop(t.Context(), rt))
	next := backend.Route{Store: rt.Store, Owner: "another"}
	require.NoError(t, other.Create(t.Context(), next))
	var user, mine sql.NullString
	err = be.DB().QueryRowContext(backend.WithRoute(t.Context(), next), `SELECT current_setting('app.user', true), to_regclass('pg_temp.mine')::text`).Scan(&user, &mine)
	require.NoError(t, err)
	require.Empty(t, user.String)
	require.False(t, mine.Valid)
}

// A parameter that has another type since a migration is asked for anew, on a connection too that has the statement as another
// store's only.
func TestTypeOfAParameterChanges(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Shared(t).Database(t)
	be, other := open(t, databaseURL, map[string]string{"pool_max_conns": "2"}), open(t, databaseURL, nil)
	routes, tenants := [2]backend.Route{}, [2]context.Context{}
	migrate := func(i int, sql string) {
		db := other.Maintenance(routes[i])
		defer db.Close()
		_, err := db.ExecContext(t.Context(), sql)
		require.NoError(t, err)
	}
	for i, name := range []string{"a", "b"} {
		routes[i], tenants[i] = tenant(t, be, name)
		migrate(i, `CREATE TABLE docs (meta text)`)
	}
	const insert = `INSERT INTO docs (meta) VALUES ($1)`
	write := func(i int) error { _, err := be.DB().ExecContext(tenants[i], insert, "{}"); return err }
	hold := func() *sql.Conn {
		c, err := be.DB().Conn(tenants[0])
		require.NoError(t, err)
		require.NoError(t, c.QueryRowContext(tenants[0], `SELECT 1`).Scan(new(int)))
		return c
	}
	one := hold()
	require.NoError(t, write(0))
	require.NoError(t, write(1))
	two := hold()
	require.NoError(t, one.Close())
	require.NoError(t, write(0)) // the other connection knows it as a's
	migrate(1, `ALTER TABLE docs ALTER meta TYPE jsonb USING meta::jsonb`)
	require.NoError(t, write(1))
	require.NoError(t, write(1))

	migrate(1, `ALTER TABLE docs ALTER meta TYPE text`)
	require.NoError(t, write(0))
	require.NoError(t, write(1))
	require.NoError(t, two.Close())
}
