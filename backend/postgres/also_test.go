package postgres_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// A script makes several stores in one transaction, each with the script's tables and nothing of another's: all of them, or
// none. Without tenants' roles each store would have to be looked at, and it is refused.
func TestScriptMakesSeveralStores(t *testing.T) {
	t.Parallel()
	for _, roles := range []string{"auto", "each", "off"} {
		t.Run(roles, func(t *testing.T) {
			t.Parallel()
			be := open(t, pgtest.Shared(t).Database(t), map[string]string{"tenant_role": roles})
			script := backend.Script{
				Route: route("a"), Also: []backend.Route{route("b"), route("c")}, Create: true,
				SQL: `CREATE TABLE marks (n int); INSERT INTO marks VALUES (1)`,
			}
			if err := be.RunScripts(t.Context(), []backend.Script{script}, backend.ScriptOptions{})[0]; roles == "off" {
				require.ErrorIs(t, err, errors.ErrUnsupported)
				return
			} else {
				require.NoError(t, err)
			}
			var xids int
			require.NoError(t, be.Shared().QueryRowContext(t.Context(),
				`SELECT count(DISTINCT xmin::text) FROM pg_namespace WHERE nspname IN ('a', 'b', 'c')`).Scan(&xids))
			require.Equal(t, 1, xids, "one transaction, of which other connections hear once")
			for _, name := range []string{"a", "b", "c"} {
				ctx := backend.WithRoute(t.Context(), route(name))
				_, err := be.DB().ExecContext(ctx, `INSERT INTO marks VALUES (2)`)
				require.NoError(t, err)
				var n int
				require.NoError(t, be.DB().QueryRowContext(ctx, `SELECT count(*) FROM marks`).Scan(&n))
				require.Equal(t, 2, n)
			}
			script.Route, script.Also = route("d"), []backend.Route{route("b")}
			require.Error(t, be.RunScripts(t.Context(), []backend.Script{script}, backend.ScriptOptions{})[0], "b is there")
			_, err := be.Stat(t.Context(), route("d").Store)
			require.ErrorIs(t, err, backend.ErrStoreMissing)
		})
	}
}
