package backendtest

import (
	"fmt"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// places returns the backend as one with places, the first two of them, or skips the case.
func (e *env) places() (placer backend.Placer, home, there string) {
	e.Helper()
	placer = able[backend.Placer](e, e.be)
	all := placer.Places()
	if len(all) < 2 {
		e.Skip("the backend has one place")
	}
	return placer, all[0], all[1]
}

// tenantIn is tenant in a place.
func (e *env) tenantIn(place, name string, marks ...string) backend.Route {
	e.Helper()
	rt := route(name)
	require.NoError(e, e.be.Create(backend.WithPlace(e.ctx, place), rt), "create store %s in %s", name, place)
	e.ddl(rt, e.notesTable())
	for _, mark := range marks {
		e.add(rt, mark)
	}
	return rt
}

// isIn fails unless a store is in a place and in no other.
func (e *env) isIn(placer backend.Placer, rt backend.Route, place string) {
	e.Helper()
	at, err := placer.PlaceOf(e.ctx, rt.Store)
	require.NoError(e, err)
	assert.Equal(e, place, at, "PlaceOf store %s", rt.Store)
	for _, name := range placer.Places() {
		var found []string
		for info, err := range placer.In(name).Stores(e.ctx) {
			require.NoError(e, err)
			if info.Store == rt.Store {
				found = append(found, info.Owner)
			}
		}
		if name == place {
			assert.Equal(e, []string{rt.Owner}, found, "store %s in %s", rt.Store, name)
		} else {
			assert.Empty(e, found, "store %s in %s", rt.Store, name)
		}
	}
}

var placeCases = []testCase{
	{
		id: "place", name: "made where it is told",
		rule: "Create makes a store in the place that its context names, where PlaceOf and In find it from then on, in this process and in others; whoever names the store need not name the place.",
		run: func(e *env) {
			placer, home, there := e.places()
			a, b := e.tenantIn(there, "a", "a1"), e.tenantIn(home, "b", "b1")
			c := route("c")
			require.NoError(e, placer.In(there).Create(e.ctx, c))
			e.ddl(c, e.notesTable())
			e.isIn(placer, a, there)
			e.isIn(placer, b, home)
			e.isIn(placer, c, there)
			e.holds(a, "a1")
			e.holds(b, "b1")
			e.holds(c)
			other := e.open(0)
			e.isIn(able[backend.Placer](e, other), a, there)
			got, err := readMarks(e.in(a), other.DB())
			require.NoError(e, err)
			require.Equal(e, []string{"a1"}, got)
			require.ErrorIs(e, e.be.Create(backend.WithPlace(e.ctx, "nowhere"), route("d")), backend.ErrInvalidName)
			require.Nil(e, placer.In("nowhere"))
		},
	},
	{
		id: "place", name: "settled before it is made",
		rule: "Create makes a store where Settle said; Settle says where a store is that there is, and ErrInvalidName for a place that there is not.",
		run: func(e *env) {
			placer, home, there := e.places()
			place, err := placer.Settle(backend.WithPlace(e.ctx, there), route("a").Store)
			require.NoError(e, err)
			require.Equal(e, there, place)
			a := e.tenant("a", "a1")
			e.isIn(placer, a, there)
			place, err = placer.Settle(backend.WithPlace(e.ctx, home), a.Store)
			require.NoError(e, err)
			require.Equal(e, there, place)
			e.holds(a, "a1")
			_, err = placer.Settle(backend.WithPlace(e.ctx, "nowhere"), route("b").Store)
			require.ErrorIs(e, err, backend.ErrInvalidName)
		},
	},
	{
		id: "place", name: "a name is one store's in all places",
		rule: "A name that a store has in one place is taken in all: Create fails with ErrStoreExists, and a rename to it too. Once the store is dropped the name can be used anywhere.",
		run: func(e *env) {
			placer, home, there := e.places()
			a, b := e.tenantIn(there, "a", "a1"), e.tenantIn(home, "b", "b1")
			other := backend.Route{Store: a.Store, Owner: "somebody else"}
			require.ErrorIs(e, e.be.Create(backend.WithPlace(e.ctx, home), other), backend.ErrStoreExists)
			require.ErrorIs(e, e.be.Rename(e.ctx, b, a.Store), backend.ErrStoreExists)
			e.holds(a, "a1")
			e.holds(b, "b1")
			require.NoError(e, e.be.Drop(e.ctx, a))
			require.NoError(e, e.be.Create(backend.WithPlace(e.ctx, home), other))
			e.isIn(placer, other, home)
		},
	},
	{
		id: "place", name: "renamed where it is",
		rule: "A renamed store stays in its place, and is found there by its new name.",
		run: func(e *env) {
			placer, _, there := e.places()
			a := e.tenantIn(there, "a", "a1")
			b := backend.Route{Store: backend.MustParseStore("b"), Owner: a.Owner}
			require.NoError(e, e.be.Rename(e.ctx, a, b.Store))
			e.isIn(placer, b, there)
			e.holds(b, "a1")
			require.Equal(e, []string{"b"}, e.stores())
		},
	},
	{
		id: "place", name: "listed together",
		rule: "Stores lists those of all places, each once, in order of name; In a place it lists those of that place.",
		run: func(e *env) {
			placer, home, there := e.places()
			for i, name := range []string{"a", "b", "c", "d"} {
				e.tenantIn([]string{there, home}[i%2], name)
			}
			require.Equal(e, []string{"a", "b", "c", "d"}, e.stores())
			for place, want := range map[string][]string{there: {"a", "c"}, home: {"b", "d"}} {
				var names []string
				for info, err := range placer.In(place).Stores(e.ctx) {
					require.NoError(e, err)
					names = append(names, info.Store.String())
				}
				require.Equal(e, want, names)
			}
		},
	},
	{
		id: "place", name: "scripts in each",
		rule: "RunScripts runs each script in the place of its store, and its error is at the script's index, whatever their order.",
		run: func(e *env) {
			runner := able[backend.ScriptRunner](e, e.be)
			_, home, there := e.places()
			var scripts []backend.Script
			var routes []backend.Route
			for i := range 6 {
				name := fmt.Sprintf("t%d", i)
				rt := e.tenantIn([]string{there, home}[i%2], name)
				sql := `INSERT INTO notes (mark) VALUES ('` + name + `')`
				if i == 3 {
					sql = `INSERT INTO no_such_table VALUES (1)`
				}
				routes, scripts = append(routes, rt), append(scripts, backend.Script{Route: rt, SQL: sql})
			}
			for i, err := range runner.RunScripts(e.ctx, scripts, backend.ScriptOptions{}) {
				if i == 3 {
					assert.Error(e, err)
					e.holds(routes[i])
					continue
				}
				require.NoError(e, err)
				e.holds(routes[i], routes[i].Store.String())
			}
		},
	},
	{
		id: "place", name: "shared by those that are there",
		rule: "Each place has a shared store of its own, which In leads to and which the place's stores see; the backend's Shared is home's.",
		run: func(e *env) {
			placer, home, there := e.places()
			a, b := e.tenantIn(there, "a"), e.tenantIn(home, "b")
			e.shared(`CREATE TABLE only_shared (mark text)`)
			for _, place := range []string{home, there} {
				_, err := placer.In(place).Shared().ExecContext(e.ctx, `INSERT INTO only_shared (mark) VALUES ($1)`, place)
				require.NoError(e, err)
			}
			for rt, place := range map[backend.Route]string{a: there, b: home} {
				got, err := readStrings(e.in(rt), e.be.DB(), `SELECT mark FROM only_shared`)
				require.NoError(e, err)
				require.Equal(e, []string{place}, got)
			}
			got, err := readStrings(e.ctx, e.be.Shared(), `SELECT mark FROM only_shared`)
			require.NoError(e, err)
			require.Equal(e, []string{home}, got)
		},
	},
}
