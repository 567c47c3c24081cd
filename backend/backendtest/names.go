package backendtest

import (
	"slices"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// oddNames are valid, each for another reason worth doubting.
var oddNames = []string{
	"select", "table", "user", "order", "null", "default", "all", "current_user", "from", "group", "schema", "database",
	"a-b", "a--b", "a_b", "ab-", "ab_", "a-b-c_d", "0", "1st", "2024-01", "9-9", "0x1f", "1e5", "x", "e", "true", "user-",
	"template", "template1", "postgres", "index", "pg", "pgx", "sqlite", "com", "com10", "db", "tenants", "shared-1",
	"information-schema", "notes", "public1", "a1-b2_c3",
	strings.Repeat("a", backend.MaxNameLen), strings.Repeat("a", backend.MaxNameLen-1) + "b", "0" + strings.Repeat("-", backend.MaxNameLen-1),
}

var nameCases = []testCase{
	{
		id: "S12", name: "valid names round-trip",
		rule: "Every valid name is a store of its own, listed exactly as it was given: keywords, hyphens, digits first, 63 characters.",
		run: func(e *env) {
			e.sharedNotes("shared")
			for _, name := range oddNames {
				e.tenant(name, name+"!")
			}
			want := slices.Sorted(slices.Values(oddNames))
			require.Equal(e, want, e.stores(), "all of them, in order of name")
			for _, name := range oddNames {
				rt := route(name)
				e.holds(rt, name+"!")
				tx := e.tx(rt)
				got, err := readMarks(e.in(rt), tx)
				require.NoError(e, err)
				require.Equal(e, []string{name + "!"}, got)
				require.NoError(e, tx.Rollback(), "the backend has fewer connections than there are names")
				info, err := e.be.Stat(e.ctx, rt.Store)
				require.NoError(e, err)
				require.Equal(e, rt.Store, info.Store)
				require.Equal(e, rt.Owner, info.Owner)
			}
			e.sharedHolds("shared")
		},
	},
	{
		id: "S12", name: "valid names can be dropped and renamed",
		rule: "Drop and Rename take every valid name exactly as it is given, and touch no store of a similar one.",
		run: func(e *env) {
			names := []string{"a-b", "a_b", "ab", "select", "0", strings.Repeat("z", backend.MaxNameLen)}
			for _, name := range names {
				e.tenant(name, name+"!")
			}
			require.NoError(e, e.be.Drop(e.ctx, route("a_b")))
			require.NoError(e, e.be.Rename(e.ctx, route("select"), backend.MustParseStore("group")))
			long := strings.Repeat("y", backend.MaxNameLen)
			require.NoError(e, e.be.Rename(e.ctx, route(names[5]), backend.MustParseStore(long)))
			require.Equal(e, []string{"0", "a-b", "ab", "group", long}, e.stores())
			for _, name := range []string{"0", "a-b", "ab"} {
				e.holds(route(name), name+"!")
			}
			e.holds(backend.Route{Store: backend.MustParseStore("group"), Owner: "owner-of-select"}, "select!")
			e.holds(backend.Route{Store: backend.MustParseStore(long), Owner: "owner-of-" + names[5]}, names[5]+"!")
		},
	},
	{
		id: "S12", name: "what is beside the stores is not listed",
		rule: "Stores leaves out whatever lives beside the stores and could not be one.",
		run: func(e *env) {
			require.Empty(e, e.stores())
			if e.postgres() {
				e.shared(`CREATE SCHEMA "Upper Case"`, `CREATE SCHEMA "dotted.name"`)
			}
			e.shared(`CREATE TABLE plans (mark text)`)
			e.tenant("a")
			require.Equal(e, []string{"a"}, e.stores())
			for _, name := range []string{"b", "A", "shared", "public", "information_schema", "pg_catalog", "main", "temp"} {
				s, err := backend.ParseStore(name)
				if err == nil {
					_, err = e.be.Stat(e.ctx, s)
					assert.ErrorIs(e, err, backend.ErrStoreMissing, name)
				} else {
					assert.ErrorIs(e, err, backend.ErrInvalidName, name)
				}
			}
		},
	},
	{
		id: "S12", name: "the zero store",
		rule: "The zero Store names nothing: no operation takes it for one.",
		run: func(e *env) {
			e.sharedNotes("shared")
			zero := backend.Route{}
			a := e.tenant("a", "a1")
			assert.Error(e, e.be.Create(e.ctx, zero))
			assert.Error(e, e.be.Drop(e.ctx, zero))
			assert.Error(e, e.be.Rename(e.ctx, zero, backend.MustParseStore("b")))
			assert.Error(e, e.be.Rename(e.ctx, a, backend.Store{}))
			_, err := e.be.Stat(e.ctx, backend.Store{})
			assert.Error(e, err)
			owner := e.be.Maintenance(zero)
			defer func() { _ = owner.Close() }()
			for _, call := range append(routedCalls(e.pin(zero)), routedCalls(owner)...) {
				assert.Error(e, call.do(e.ctx), "%s on a handle of the zero route", call.name)
			}
			_, err = readMarks(e.in(a), owner)
			assert.Error(e, err, "the owner's handle of the zero route, with a tenant in the context")
			require.Equal(e, []string{"a"}, e.stores())
			e.holds(a, "a1")
			e.sharedHolds("shared")
		},
	},
}
