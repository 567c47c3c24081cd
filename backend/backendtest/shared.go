package backendtest

import (
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

var sharedCases = []testCase{
	{
		id: "S09", name: "the tenant's own table wins",
		rule:  "Where a table is in both sets an unqualified name means the tenant's own, and public.x the shared one.",
		conns: 2,
		run: func(e *env) {
			e.sharedNotes("shared")
			a, b := e.tenant("a", "a1"), route("b")
			require.NoError(e, e.be.Create(e.ctx, b)) // without a table of its own
			e.holds(a, "a1")
			e.holds(b, "shared")
			e.holds(a, "a1")
			got, err := readStrings(e.in(a), e.be.DB(), `SELECT mark FROM public.notes`)
			require.NoError(e, err)
			require.Equal(e, []string{"shared"}, got)
			tx := e.tx(a)
			got, err = readMarks(e.ctx, tx)
			require.NoError(e, err)
			require.Equal(e, []string{"a1"}, got)
			require.NoError(e, tx.Rollback())
			got, err = readMarks(e.ctx, e.pin(a))
			require.NoError(e, err)
			require.Equal(e, []string{"a1"}, got)
			// b gets its own: what was the shared one's is now b's.
			e.ddl(b, e.notesTable())
			e.holds(b)
			e.add(b, "b1")
			e.holds(b, "b1")
			e.holds(a, "a1")
			e.sharedHolds("shared")
		},
	},
	{
		id: "S09", name: "shared tables are readable from a tenant",
		rule: "A shared table is readable from a tenant, unqualified and as public.x, and can be joined with a tenant's.",
		run: func(e *env) {
			e.shared(`CREATE TABLE plans (mark text PRIMARY KEY, label text NOT NULL)`,
				`INSERT INTO plans (mark, label) VALUES ('a1', 'gold'), ('b1', 'silver')`)
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			for _, from := range []string{"plans", "public.plans"} {
				const want = `SELECT p.label FROM notes n JOIN `
				for rt, label := range map[backend.Route]string{a: "gold", b: "silver"} {
					tx := e.tx(rt)
					for name, q := range map[string]querier{"routed": e.be.DB(), "pinned": e.pin(rt), "transaction": tx} {
						got, err := readStrings(e.in(rt), q, want+from+` p ON p.mark = n.mark`)
						require.NoError(e, err, "%s, from %s", name, from)
						require.Equal(e, []string{label}, got, "%s, from %s", name, from)
					}
					require.NoError(e, tx.Rollback())
				}
			}
			e.shared(`UPDATE plans SET label = 'platinum' WHERE mark = 'a1'`)
			got, err := readStrings(e.in(a), e.be.DB(), `SELECT label FROM plans ORDER BY mark`)
			require.NoError(e, err)
			require.Equal(e, []string{"platinum", "silver"}, got, "a change to a shared table is seen at once")
			e.shared(`CREATE TABLE later (mark text)`, `INSERT INTO later (mark) VALUES ('x')`)
			got, err = readStrings(e.in(a), e.be.DB(), `SELECT mark FROM later`)
			require.NoError(e, err, "a shared table made after the store was opened")
			require.Equal(e, []string{"x"}, got)
		},
	},
	{
		id: "S09", name: "shared tables are not writable from a tenant",
		rule:  "A statement run inside a tenant cannot change the shared store.",
		needs: readOnlyShared,
		run: func(e *env) {
			e.shared(`CREATE TABLE plans (mark text PRIMARY KEY, label text NOT NULL)`,
				`INSERT INTO plans (mark, label) VALUES ('a1', 'gold')`)
			a := e.tenant("a", "a1")
			for _, statement := range []string{
				`INSERT INTO plans (mark, label) VALUES ('x', 'x')`,
				`INSERT INTO public.plans (mark, label) SELECT mark || '2', 'x' FROM notes`,
				`UPDATE plans SET label = 'x'`,
				`UPDATE public.plans SET label = 'x' WHERE mark IN (SELECT mark FROM notes)`,
				`DELETE FROM plans`,
				`DELETE FROM public.plans`,
				`DROP TABLE plans`,
				`DROP TABLE public.plans`,
				`ALTER TABLE public.plans ADD COLUMN x text`,
				`ALTER TABLE plans RENAME TO schemes`,
				`CREATE TABLE public.mine (id integer)`,
				`CREATE INDEX ` + e.pick(`public.mine ON plans`, `mine ON public.plans`) + ` (label)`,
				`INSERT INTO public.plans (mark, label) VALUES ('x', 'x') RETURNING mark`,
			} {
				_, err := e.be.DB().ExecContext(e.in(a), statement)
				assert.Error(e, err, "routed: %s", statement)
				assert.ErrorIs(e, err, backend.ErrReadOnlyShared, "routed: %s", statement)
				_, err = readStrings(e.in(a), e.be.DB(), statement)
				assert.Error(e, err, "as a query: %s", statement)
				_, err = e.pin(a).ExecContext(e.ctx, statement)
				assert.Error(e, err, "pinned: %s", statement)
				tx := e.tx(a)
				_, err = tx.Exec(statement)
				assert.Error(e, err, "in a transaction: %s", statement)
				_ = tx.Commit()
				conn := e.conn()
				_, err = conn.ExecContext(e.in(a), statement)
				assert.Error(e, err, "on a held connection: %s", statement)
				require.NoError(e, conn.Close())
			}
			got, err := readStrings(e.ctx, e.sharedBeside(a), `SELECT mark || label FROM plans`)
			require.NoError(e, err)
			require.Equal(e, []string{"a1gold"}, got)
			e.add(a, "a2") // the tenant's own stays writable
			e.holds(a, "a1", "a2")
		},
	},
	{
		id: "S09", name: "the shared handle",
		rule: "Shared reads and writes the shared store, whatever tenant the context names.",
		run: func(e *env) {
			e.sharedNotes("one")
			a := e.tenant("a", "a1")
			_, err := e.be.Shared().ExecContext(e.in(a), insertNote, "two")
			require.NoError(e, err)
			got, err := readMarks(e.in(a), e.be.Shared())
			require.NoError(e, err)
			require.Equal(e, []string{"one", "two"}, got)
			tx, err := e.be.Shared().BeginTx(e.in(route("nowhere")), nil)
			require.NoError(e, err)
			_, err = tx.ExecContext(e.in(a), insertNote, "three")
			require.NoError(e, err)
			require.NoError(e, tx.Commit())
			got, err = readMarks(e.ctx, e.be.Shared())
			require.NoError(e, err)
			require.Equal(e, []string{"one", "two", "three"}, got)
			shared, routed := e.be.Shared(), e.be.DB()
			require.Same(e, shared, e.be.Shared())
			require.Same(e, routed, e.be.DB())
			e.holds(a, "a1")
		},
	},
}
