package backendtest

import (
	"database/sql"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

var replicaCases = []testCase{
	{
		id: "replica", name: "reads by the context's route",
		rule: "Replica returns one routed handle: each read is answered from the store that its context names, as far as the position that the context asks for; without a tenant it is ErrNoTenant, without a store ErrStoreMissing.",
		run: func(e *env) {
			replicator := able[backend.Replicator](e, e.be)
			db := replicator.Replica()
			require.Same(e, db, replicator.Replica())
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			e.sharedNotes("shared")
			for _, mark := range []string{"2", "3"} {
				for _, rt := range []backend.Route{a, b} {
					e.add(rt, rt.Store.String()+mark)
					p, err := replicator.Position(e.ctx)
					require.NoError(e, err)
					got, err := readMarks(backend.WithPosition(e.in(rt), p), db)
					require.NoError(e, err)
					require.Contains(e, got, rt.Store.String()+mark)
					require.NotContains(e, got, "shared")
				}
			}
			tx, err := db.BeginTx(e.in(a), &sql.TxOptions{ReadOnly: true})
			require.NoError(e, err)
			got, err := readMarks(e.ctx, tx)
			require.NoError(e, err)
			require.Equal(e, []string{"a1", "a2", "a3"}, got)
			_, err = readMarks(e.in(b), tx)
			require.ErrorIs(e, err, backend.ErrTenantMismatch)
			require.NoError(e, tx.Rollback())
			_, err = readMarks(e.ctx, db)
			require.ErrorIs(e, err, backend.ErrNoTenant)
			_, err = readMarks(e.in(route("ghost")), db)
			require.ErrorIs(e, err, backend.ErrStoreMissing)
			require.NoError(e, e.be.Drop(e.ctx, a))
			p, err := replicator.Position(e.ctx)
			require.NoError(e, err)
			_, err = readMarks(backend.WithPosition(e.in(a), p), db)
			require.ErrorIs(e, err, backend.ErrStoreMissing)
		},
	},
	{
		id: "replica", name: "changes nothing",
		rule: "What would change a store fails with ErrReadOnly on the Replica, outside of transactions and in them, whatever kind they are, and on connections that are held.",
		run: func(e *env) {
			db := able[backend.Replicator](e, e.be).Replica()
			a := e.tenant("a", "a1")
			ctx := e.in(a)
			_, err := db.ExecContext(ctx, insertNote, "x")
			assert.ErrorIs(e, err, backend.ErrReadOnly)
			_, err = readStrings(ctx, db, insertNote+" RETURNING mark", "x")
			assert.ErrorIs(e, err, backend.ErrReadOnly, "as a query")
			for _, opts := range []*sql.TxOptions{nil, {ReadOnly: true}} {
				tx, err := db.BeginTx(ctx, opts)
				require.NoError(e, err)
				_, err = tx.ExecContext(ctx, insertNote, "x")
				assert.ErrorIs(e, err, backend.ErrReadOnly, "in a transaction")
				_ = tx.Rollback()
			}
			held, err := db.Conn(ctx)
			require.NoError(e, err)
			defer held.Close()
			for range 2 {
				_, err := held.ExecContext(ctx, insertNote, "x")
				assert.ErrorIs(e, err, backend.ErrReadOnly, "on a held connection")
			}
			e.holds(a, "a1")
			e.add(a, "a2")
			e.holds(a, "a1", "a2")
		},
	},
}
