package backendtest

import (
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

var nowhereCases = []testCase{
	{
		id: "nowhere", name: "has functions and catalogs",
		rule: "A query without a tenant on DBOrNowhere is answered by the database's own functions and catalogs; with one it goes to its store.",
		run: func(e *env) {
			e.sharedNotes("shared")
			a := e.tenant("a", "a1")
			db := able[backend.Nowherer](e, e.be).DBOrNowhere()
			require.Same(e, db, able[backend.Nowherer](e, e.be).DBOrNowhere())
			version, catalog := "SELECT version()", "SELECT relname FROM pg_class WHERE relname = 'pg_class'"
			if e.be.Dialect() == backend.SQLite {
				version, catalog = "SELECT sqlite_version()", "SELECT name FROM sqlite_schema UNION SELECT 'none'"
			}
			for _, query := range []string{version, catalog} {
				got, err := readStrings(e.ctx, db, query)
				require.NoError(e, err)
				require.Len(e, got, 1)
			}
			var n int
			require.NoError(e, db.QueryRow("SELECT CAST($1 AS integer) + 1", 1).Scan(&n))
			require.Equal(e, 2, n)
			_, err := db.ExecContext(e.in(a), insertNote, "a2")
			require.NoError(e, err)
			e.holds(a, "a1", "a2")
			conn, err := db.Conn(e.ctx)
			require.NoError(e, err)
			defer func() { _ = conn.Close() }()
			_, err = conn.ExecContext(e.in(a), insertNote, "a3")
			require.NoError(e, err)
			_, err = readStrings(e.ctx, conn, version)
			require.ErrorIs(e, err, backend.ErrNoTenant, "a held connection that is a tenant's")
		},
	},
	{
		id: "nowhere", name: "has no table of anyone's",
		rule: "Without a tenant nothing on DBOrNowhere reaches a store or a shared table, by whatever name, and nothing is changed: it fails with ErrNoTenant.",
		run: func(e *env) {
			e.sharedNotes("shared")
			a := e.tenant("a", "a1")
			db := able[backend.Nowherer](e, e.be).DBOrNowhere()
			for _, query := range []string{
				selectMarks, "SELECT mark FROM public.notes", "SELECT mark FROM a.notes", insertNote + " RETURNING mark",
				"SELECT 'x' FROM (SELECT 1 AS one) AS q WHERE EXISTS (SELECT 1 FROM public.notes)",
				"CREATE TABLE public.stray (mark text)", "DELETE FROM public.notes RETURNING mark",
			} {
				args := []any{"stray"}
				if query != insertNote+" RETURNING mark" {
					args = nil
				}
				got, err := readStrings(e.ctx, db, query, args...)
				assert.ErrorIs(e, err, backend.ErrNoTenant, "%s: %v", query, got)
			}
			_, err := db.ExecContext(e.ctx, insertNote, "stray")
			assert.ErrorIs(e, err, backend.ErrNoTenant)
			_, err = db.BeginTx(e.ctx, nil)
			assert.ErrorIs(e, err, backend.ErrNoTenant)
			_, err = readMarks(e.ctx, e.be.DB())
			assert.ErrorIs(e, err, backend.ErrNoTenant, "the routed handle has no such place")
			e.holds(a, "a1")
			e.sharedHolds("shared")
		},
	},
}
