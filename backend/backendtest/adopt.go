package backendtest

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

var adoptCases = []testCase{
	{
		id: "adopt", name: "makes a store of what is there",
		rule:  "Adopt stamps what bears a store's name and is none, and keeps what is in it; it returns ErrStoreExists for what is a store, ErrStoreMissing where there is nothing, and changes nothing then.",
		needs: foreignStores,
		run: func(e *env) {
			adopter := able[backend.Adopter](e, e.be)
			a, c := e.tenant("a", "a1"), route("c")
			require.NoError(e, e.cfg.Foreign(e.ctx, e.be, c.Store))
			_, err := e.be.Stat(e.ctx, c.Store)
			require.ErrorIs(e, err, backend.ErrStoreMissing)
			require.ErrorIs(e, adopter.Adopt(e.ctx, route("ghost")), backend.ErrStoreMissing)
			require.Error(e, adopter.Adopt(e.ctx, backend.Route{Owner: "nobody"}), "the zero store")
			require.ErrorIs(e, adopter.Adopt(e.ctx, backend.Route{Store: a.Store, Owner: "somebody else"}), backend.ErrStoreExists)
			require.Equal(e, []string{"a"}, e.stores())

			require.NoError(e, adopter.Adopt(e.ctx, c))
			require.Equal(e, []string{"a", "c"}, e.stores())
			info, err := e.be.Stat(e.ctx, c.Store)
			require.NoError(e, err)
			require.Equal(e, c.Owner, info.Owner)
			e.holds(c, "stray")
			e.add(c, "c1")
			e.ddl(c, `ALTER TABLE notes ADD COLUMN more text`)
			e.holds(c, "stray", "c1")
			for _, rt := range []backend.Route{c, {Store: c.Store, Owner: "somebody else"}} {
				require.ErrorIs(e, adopter.Adopt(e.ctx, rt), backend.ErrStoreExists)
			}
			e.holds(a, "a1")
			e.holds(c, "stray", "c1")
			require.NoError(e, e.be.Drop(e.ctx, c))
		},
	},
	{
		id: "adopt", name: "by eight at once",
		rule:  "Of several who adopt one at once, in one process or in several, one succeeds, and the store is its; the others get ErrStoreExists.",
		needs: foreignStores,
		run: func(e *env) {
			adopters := []backend.Adopter{able[backend.Adopter](e, e.be), able[backend.Adopter](e, e.open(0))}
			for round := range 5 {
				s := backend.MustParseStore(fmt.Sprintf("c%d", round))
				require.NoError(e, e.cfg.Foreign(e.ctx, e.be, s))
				winner := e.oneOf(backend.ErrStoreExists, func(i int, owner string) error {
					return adopters[i%2].Adopt(e.ctx, backend.Route{Store: s, Owner: owner})
				})
				info, err := e.be.Stat(e.ctx, s)
				require.NoError(e, err)
				require.Equal(e, winner, info.Owner)
				e.holds(backend.Route{Store: s, Owner: winner}, "stray")
			}
		},
	},
	{
		id: "adopt", name: "another owner",
		rule: "Restamp makes a store, which nobody is using, another owner's: routes of the one before find no store, and what is in it is the new one's. Another owner's store is not touched.",
		run: func(e *env) {
			adopter := able[backend.Adopter](e, e.be)
			a := e.tenant("a", "a1")
			heir := backend.Route{Store: a.Store, Owner: "heir"}
			require.ErrorIs(e, adopter.Restamp(e.ctx, route("ghost"), "heir"), backend.ErrStoreMissing)
			require.ErrorIs(e, adopter.Restamp(e.ctx, heir, "thief"), backend.ErrStoreMissing)
			e.holds(a, "a1")

			require.NoError(e, adopter.Restamp(e.ctx, a, heir.Owner))
			for name, be := range map[string]backend.Backend{"here": e.be, "in another process": e.open(0)} {
				_, err := readMarks(e.in(a), be.DB())
				assert.ErrorIs(e, err, backend.ErrStoreMissing, name)
				_, err = be.DB().ExecContext(e.in(a), insertNote, "x")
				assert.ErrorIs(e, err, backend.ErrStoreMissing, name)
				got, err := readMarks(e.in(heir), be.DB())
				require.NoError(e, err, name)
				require.Equal(e, []string{"a1"}, got, name)
			}
			require.ErrorIs(e, e.be.Drop(e.ctx, a), backend.ErrStoreMissing)
			e.add(heir, "a2")
			e.holds(heir, "a1", "a2")
		},
	},
	{
		id: "adopt", name: "another owner, by eight at once",
		rule: "Of several who restamp one store at once, one succeeds, and the store is its; the others find that it is not theirs any more.",
		run: func(e *env) {
			adopter := able[backend.Adopter](e, e.be)
			for round := range 5 {
				a := e.tenant(fmt.Sprintf("a%d", round), "a1")
				winner := e.oneOf(backend.ErrStoreMissing, func(_ int, owner string) error {
					return adopter.Restamp(e.ctx, a, owner)
				})
				e.holds(backend.Route{Store: a.Store, Owner: winner}, "a1")
			}
		},
	},
	{
		id: "adopt", name: "fenced",
		rule: "Adopt and Restamp fail with ErrLockLost, and change nothing, when the lock that fences them is not held any more.",
		run: func(e *env) {
			adopter := able[backend.Adopter](e, e.be)
			a, c := e.tenant("a", "a1"), route("c")
			if e.cfg.Foreign != nil {
				require.NoError(e, e.cfg.Foreign(e.ctx, e.be, c.Store))
			}
			held := e.lock("key")
			lost := held.Fence(e.ctx)
			held.Unlock()
			assert.ErrorIs(e, adopter.Restamp(lost, a, "heir"), backend.ErrLockLost, "Restamp")
			assert.ErrorIs(e, adopter.Adopt(lost, c), backend.ErrLockLost, "Adopt")
			require.Equal(e, []string{"a"}, e.stores())
			e.holds(a, "a1")
			held = e.lock("key")
			defer held.Unlock()
			require.NoError(e, adopter.Restamp(held.Fence(e.ctx), a, "heir"))
			if e.cfg.Foreign != nil {
				require.NoError(e, adopter.Adopt(held.Fence(e.ctx), c))
				e.holds(c, "stray")
			}
		},
	},
}

// oneOf has eight owners do something at once. One succeeds, whom it returns; the others get the error.
func (e *env) oneOf(others error, do func(i int, owner string) error) (winner string) {
	e.Helper()
	var wg sync.WaitGroup
	var succeeded atomic.Int32
	owners := make(chan string, 8)
	failures := newTally()
	for i := range 8 {
		wg.Go(func() {
			owner := fmt.Sprintf("owner-%d", i)
			switch err := do(i, owner); {
			case err == nil:
				succeeded.Add(1)
				owners <- owner
			case !assert.ErrorIs(e, err, others):
				failures.add(err)
			}
		})
	}
	wg.Wait()
	require.NoError(e, failures.err())
	require.EqualValues(e, 1, succeeded.Load(), "how many succeeded")
	return <-owners
}
