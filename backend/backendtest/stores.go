package backendtest

import (
	"context"
	"fmt"
	"sync"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

var storeCases = []testCase{
	{
		id: "store", name: "create makes an empty one",
		rule: "Create makes an empty store, stamped with its owner; Stat and Stores describe it.",
		run: func(e *env) {
			for _, rt := range []backend.Route{route("b"), {Store: backend.MustParseStore("a")}} {
				require.NoError(e, e.be.Create(e.ctx, rt))
				info, err := e.be.Stat(e.ctx, rt.Store)
				require.NoError(e, err)
				require.Equal(e, rt.Store, info.Store)
				require.Equal(e, rt.Owner, info.Owner)
				require.GreaterOrEqual(e, info.Bytes, int64(-1))
				_, err = readMarks(e.in(rt), e.be.DB())
				require.Error(e, err, "it has no tables")
			}
			owners := map[string]string{}
			for info, err := range e.be.Stores(e.ctx) {
				require.NoError(e, err)
				owners[info.Store.String()] = info.Owner
			}
			require.Equal(e, map[string]string{"a": "", "b": "owner-of-b"}, owners)
			for info, err := range e.be.Stores(e.ctx) {
				require.NoError(e, err)
				require.Equal(e, "a", info.Store.String())
				break // leaving the loop early is fine
			}
			_, err := e.be.Stat(e.ctx, backend.MustParseStore("c"))
			require.ErrorIs(e, err, backend.ErrStoreMissing)
		},
	},
	{
		id: "store", name: "create refuses what exists",
		rule: "Create returns ErrStoreExists, and changes nothing, when there is a store of that name, whoever owns it.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			for _, rt := range []backend.Route{a, {Store: a.Store}, {Store: a.Store, Owner: "somebody else"}} {
				require.ErrorIs(e, e.be.Create(e.ctx, rt), backend.ErrStoreExists)
			}
			info, err := e.be.Stat(e.ctx, a.Store)
			require.NoError(e, err)
			require.Equal(e, a.Owner, info.Owner)
			e.holds(a, "a1")
		},
	},
	{
		id: "S24", name: "created by eight at once",
		rule: "Of eight that create the same store at once, in two processes, one succeeds and seven get ErrStoreExists.",
		run: func(e *env) {
			other := e.open(0)
			for round := range 3 {
				s := backend.MustParseStore(fmt.Sprintf("a%d", round))
				results := make([]error, 8)
				var wg sync.WaitGroup
				for i := range results {
					be := e.be
					if i%2 == 1 {
						be = other
					}
					wg.Go(func() { results[i] = be.Create(e.ctx, backend.Route{Store: s, Owner: fmt.Sprintf("owner-%d", i)}) })
				}
				wg.Wait()
				winner := -1
				for i, err := range results {
					if err == nil {
						require.Equal(e, -1, winner, "two of them succeeded")
						winner = i
						continue
					}
					require.ErrorIs(e, err, backend.ErrStoreExists)
				}
				require.NotEqual(e, -1, winner, "none succeeded: %v", results)
				info, err := e.be.Stat(e.ctx, s)
				require.NoError(e, err)
				require.Equal(e, fmt.Sprintf("owner-%d", winner), info.Owner, "the owner is the winner")
			}
		},
	},
	{
		id: "store", name: "drop removes it",
		rule: "Drop removes the store and all that is in it, and no other; it returns ErrStoreMissing when there is none or it is another owner's.",
		run: func(e *env) {
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			require.ErrorIs(e, e.be.Drop(e.ctx, backend.Route{Store: a.Store, Owner: "somebody else"}), backend.ErrStoreMissing)
			e.holds(a, "a1")
			require.NoError(e, e.be.Drop(e.ctx, a))
			require.ErrorIs(e, e.be.Drop(e.ctx, a), backend.ErrStoreMissing)
			_, err := e.be.Stat(e.ctx, a.Store)
			require.ErrorIs(e, err, backend.ErrStoreMissing)
			require.Equal(e, []string{"b"}, e.stores())
			e.holds(b, "b1")
			require.NoError(e, e.be.Drop(e.ctx, backend.Route{Store: b.Store}), "without an owner the check is skipped")
			require.Empty(e, e.stores())
		},
	},
	{
		id: "S25", name: "rename keeps data and owner",
		rule: "Rename gives the store another name; its data and its owner stay, and the old name is missing.",
		run: func(e *env) {
			e.sharedNotes("shared")
			a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
			for range 7 {
				e.holds(a, "a1")
			}
			to := backend.MustParseStore("c")
			require.ErrorIs(e, e.be.Rename(e.ctx, a, b.Store), backend.ErrStoreExists)
			require.ErrorIs(e, e.be.Rename(e.ctx, backend.Route{Store: a.Store, Owner: "somebody else"}, to), backend.ErrStoreMissing)
			require.ErrorIs(e, e.be.Rename(e.ctx, route("ghost"), to), backend.ErrStoreMissing)
			e.holds(a, "a1")
			require.NoError(e, e.be.Rename(e.ctx, a, to))
			e.missing(a)
			c := backend.Route{Store: to, Owner: a.Owner}
			e.holds(c, "a1")
			e.add(c, "a2")
			e.holds(c, "a1", "a2")
			e.holds(b, "b1")
			info, err := e.be.Stat(e.ctx, to)
			require.NoError(e, err)
			require.Equal(e, a.Owner, info.Owner)
			require.Equal(e, []string{"b", "c"}, e.stores())
			require.NoError(e, e.be.Rename(e.ctx, c, a.Store), "and back")
			e.holds(a, "a1", "a2")
		},
	},
	{
		id: "S25", name: "what was open when it was renamed",
		rule: "Handles, statements, held connections, transactions and rows that were open when a store was renamed fail or go on with its data; they never reach the store that takes the old name, nor the shared one.",
		run:  func(e *env) { openWhenRenamed(e, true) },
	},
	{
		id: "S25", name: "what was open when it was renamed, with a transaction that has done nothing yet",
		rule: "Handles, statements, held connections, transactions and rows that were open when a store was renamed fail or go on with its data; they never reach the store that takes the old name, nor the shared one.",
		run:  func(e *env) { openWhenRenamed(e, false) },
	},
	{
		id: "S26", name: "calls under way when the store is dropped",
		rule: "Calls under way on a store that is dropped fail, and nothing of it is read or written afterwards; Drop comes to an end.",
		run:  func(e *env) { openWhenDropped(e, true) },
	},
	{
		id: "S26", name: "calls under way when the store is dropped, with a transaction that has done nothing yet",
		rule: "Calls under way on a store that is dropped fail, and nothing of it is read or written afterwards; Drop comes to an end.",
		run:  func(e *env) { openWhenDropped(e, false) },
	},
	{
		id: "S27", name: "a new store under an old name",
		rule: "A new tenant's store under the name of a dropped one shows none of the old data, and nothing that is older than the drop (routes, handles, prepared statements, held connections, open rows) reaches the new one.",
		run:  func(e *env) { openWhenReplaced(e, true) },
	},
	{
		id: "S27", name: "a new store under an old name, with a transaction that has done nothing yet",
		rule: "A new tenant's store under the name of a dropped one shows none of the old data, and nothing that is older than the drop (routes, handles, prepared statements, held connections, open rows) reaches the new one.",
		run:  func(e *env) { openWhenReplaced(e, false) },
	},
	{
		id: "S27", name: "seen from another process",
		rule: "A process that has the old store open never answers for the new one under the same name from the old data.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			for range 7 {
				e.holds(a, "a1")
			}
			old := e.hold(a, true)
			require.NoError(e, old.rows.Close())
			require.NoError(e, old.tx.Rollback())
			other := e.open(0)
			require.NoError(e, other.Drop(e.ctx, a))
			next := backend.Route{Store: a.Store, Owner: "the next one"}
			require.NoError(e, other.Create(e.ctx, next))
			owner := other.Maintenance(next)
			defer func() { _ = owner.Close() }()
			_, err := owner.ExecContext(e.ctx, e.notesTable())
			require.NoError(e, err)
			_, err = other.DB().ExecContext(e.in(next), insertNote, "new")
			require.NoError(e, err)
			old.use(e, "a")
			e.refused(a)
			e.holds(next, "new")
			e.add(next, "newer")
			got, err := readMarks(e.in(next), other.DB())
			require.NoError(e, err)
			require.Equal(e, []string{"new", "newer"}, got, "both processes see one store")
		},
	},
	{
		id: "S27", name: "again and again",
		rule:  "However often a name is given away, each store under it starts empty and each route reaches its own or none.",
		conns: 2,
		run: func(e *env) {
			s := backend.MustParseStore("a")
			var before backend.Route
			for i := range 8 {
				rt := backend.Route{Store: s, Owner: fmt.Sprintf("owner-%d", i)}
				e.create(rt)
				e.holds(rt)
				e.add(rt, rt.Owner)
				e.holds(rt, rt.Owner)
				if i > 0 {
					_, err := readMarks(e.in(before), e.be.DB())
					require.ErrorIs(e, err, backend.ErrStoreMissing, "the route of owner %d", i-1)
				}
				require.NoError(e, e.be.Drop(e.ctx, rt))
				before = rt
			}
		},
	},
}

// refused is missing for a store whose name another owner has taken.
func (e *env) refused(rt backend.Route) {
	e.Helper()
	for _, call := range routedCalls(e.be.DB()) {
		assert.ErrorIs(e, call.do(e.in(rt)), backend.ErrStoreMissing, call.name)
	}
}

func openWhenRenamed(e *env, busy bool) {
	e.sharedNotes("shared")
	a := e.tenant("a", "a1")
	old := e.hold(a, busy)
	require.NoError(e, e.duringLock(old, func(ctx context.Context) error {
		return e.be.Rename(ctx, a, backend.MustParseStore("b"))
	}))
	b := backend.Route{Store: backend.MustParseStore("b"), Owner: a.Owner}
	old.use(e, "a")
	e.create(backend.Route{Store: a.Store, Owner: "the next one"}, "new")
	old.use(e, "a")
	e.holds(backend.Route{Store: a.Store, Owner: "the next one"}, "new")
	e.sharedHolds("shared")
	got, err := readMarks(e.in(b), e.be.DB())
	require.NoError(e, err)
	for _, mark := range got {
		require.Contains(e, []string{"a1", "a-late"}, mark)
	}
}

func openWhenDropped(e *env, busy bool) {
	e.sharedNotes("shared")
	a, b := e.tenant("a", "a1"), e.tenant("b", "b1")
	old := e.hold(a, busy)
	require.NoError(e, e.duringLock(old, func(ctx context.Context) error { return e.be.Drop(ctx, a) }))
	old.use(e, "a")
	old.gone(e)
	e.sharedHolds("shared")
	e.holds(b, "b1")
	e.missing(a)
}

func openWhenReplaced(e *env, busy bool) {
	e.sharedNotes("shared")
	a := e.tenant("a", "a1")
	old := e.hold(a, busy)
	require.NoError(e, e.duringLock(old, func(ctx context.Context) error { return e.be.Drop(ctx, a) }))
	next := backend.Route{Store: a.Store, Owner: "the next one"}
	e.create(next)
	e.holds(next)
	e.add(next, "new")
	old.use(e, "a")
	old.gone(e)
	e.missing(a)
	e.holds(next, "new")
	e.holds(backend.Route{Store: a.Store}, "new")
	e.sharedHolds("shared")
}
