package backendtest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

var nativeCases = []testCase{
	{
		id: "native", name: "follows the routing rules",
		rule:  "Native access takes its route from the context as the routed handle does: none is ErrNoTenant, a missing store ErrStoreMissing, another tenant inside a transaction ErrTenantMismatch.",
		needs: nativeAccess,
		run: func(e *env) {
			n := e.cfg.Native(e.be)
			e.sharedNotes("shared")
			a, b := e.tenant("a"), e.tenant("b")
			for i := range 4 {
				for _, rt := range []backend.Route{a, b} {
					require.NoError(e, n.Exec(e.in(rt), insertNote, fmt.Sprintf("%s%d", rt.Store, i)))
					var mark string
					require.NoError(e, n.QueryRow(e.in(rt), `SELECT mark FROM notes WHERE id = $1`, i+1).Scan(&mark))
					require.Equal(e, fmt.Sprintf("%s%d", rt.Store, i), mark)
				}
			}
			var mark string
			for _, bad := range []struct {
				ctx  context.Context
				want error
			}{
				{e.ctx, backend.ErrNoTenant},
				{e.in(route("ghost")), backend.ErrStoreMissing},
				{e.in(backend.Route{Store: a.Store, Owner: "somebody else"}), backend.ErrStoreMissing},
			} {
				assert.ErrorIs(e, n.Exec(bad.ctx, insertNote, "stray"), bad.want)
				assert.ErrorIs(e, n.QueryRow(bad.ctx, selectMarks).Scan(&mark), bad.want)
				assert.ErrorIs(e, n.InTx(bad.ctx, func(tx Native) error { return tx.Exec(bad.ctx, insertNote, "stray") }), bad.want)
			}
			undo := errors.New("undo")
			require.ErrorIs(e, n.InTx(e.in(a), func(tx Native) error {
				require.NoError(e, tx.Exec(e.in(a), insertNote, "undone"))
				assert.ErrorIs(e, tx.Exec(e.in(b), insertNote, "stray"), backend.ErrTenantMismatch)
				assert.ErrorIs(e, tx.QueryRow(e.in(b), selectMarks).Scan(&mark), backend.ErrTenantMismatch)
				require.NoError(e, tx.QueryRow(e.in(a), `SELECT mark FROM notes WHERE mark = 'undone'`).Scan(&mark), "it stays usable")
				return undo
			}), undo)
			require.NoError(e, n.InTx(e.in(a), func(tx Native) error { return tx.Exec(e.in(a), insertNote, "a4") }))
			e.holds(a, "a0", "a1", "a2", "a3", "a4")
			e.holds(b, "b0", "b1", "b2", "b3")
			e.sharedHolds("shared")
		},
	},
	{
		id: "native", name: "beside the routed handle",
		rule:  "Native access and the routed handle share their connections, at once, and each unit of work is in its own store.",
		needs: nativeAccess,
		conns: 4,
		run: func(e *env) {
			n := e.cfg.Native(e.be)
			const each = 30
			routes := make([]backend.Route, 6)
			for i := range routes {
				routes[i] = e.tenant(fmt.Sprintf("t%d", i))
			}
			failures := newTally()
			var wg sync.WaitGroup
			for _, rt := range routes {
				name := rt.Store.String()
				wg.Go(func() {
					for range each {
						failures.add(n.Exec(e.in(rt), insertNote, name))
						failures.add(n.InTx(e.in(rt), func(tx Native) error { return tx.Exec(e.in(rt), insertNote, name) }))
					}
				})
				wg.Go(func() {
					for range each {
						_, err := e.be.DB().ExecContext(e.in(rt), insertNote, name)
						failures.add(err)
					}
				})
			}
			wg.Wait()
			require.NoError(e, failures.err())
			for _, rt := range routes {
				got, err := readMarks(e.in(rt), e.be.DB())
				require.NoError(e, err)
				require.Len(e, got, 3*each)
				for _, mark := range got {
					require.Equal(e, rt.Store.String(), mark)
				}
			}
		},
	},
	{
		id: "native", name: "a store dropped and made anew",
		rule:  "Native access with an older route never reaches the store that took the name.",
		needs: nativeAccess,
		run: func(e *env) {
			n := e.cfg.Native(e.be)
			e.sharedNotes("shared")
			a := e.tenant("a", "a1")
			var mark string
			for range 7 {
				require.NoError(e, n.QueryRow(e.in(a), selectMarks).Scan(&mark))
			}
			require.NoError(e, e.be.Drop(e.ctx, a))
			require.ErrorIs(e, n.QueryRow(e.in(a), selectMarks).Scan(&mark), backend.ErrStoreMissing)
			next := backend.Route{Store: a.Store, Owner: "the next one"}
			e.create(next, "new")
			require.ErrorIs(e, n.QueryRow(e.in(a), selectMarks).Scan(&mark), backend.ErrStoreMissing)
			require.ErrorIs(e, n.Exec(e.in(a), insertNote, "stray"), backend.ErrStoreMissing)
			require.NoError(e, n.QueryRow(e.in(next), selectMarks).Scan(&mark))
			require.Equal(e, "new", mark)
			e.sharedHolds("shared")
		},
	},
	{
		id: "native", name: "what a statement does to its connection",
		rule:  "Whatever is run by native access, no other unit of work sees anything of it.",
		needs: nativeAccess,
		conns: 1,
		run: func(e *env) {
			n := e.cfg.Native(e.be)
			e.survives(func(a backend.Route, statement string) { _ = n.Exec(e.in(a), statement) })
		},
	},
}
