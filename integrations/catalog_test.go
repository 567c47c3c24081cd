package integrations

import (
	"context"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/tenancy/tenancytest"
)

func texts(ctx context.Context, t *testing.T, app *tenancy.App, query string, args ...any) []string {
	t.Helper()
	rows, err := app.DB().QueryContext(ctx, query, args...)
	require.NoError(t, err)
	defer rows.Close()
	var all []string
	for rows.Next() {
		var text string
		require.NoError(t, rows.Scan(&text))
		all = append(all, text)
	}
	require.NoError(t, rows.Err())
	return all
}

// What a tool finds in Postgres' catalogs inside a tenant. docs/integrations.md says it.
func TestCatalogs(t *testing.T) {
	t.Parallel()
	for mode, visible := range map[string][]string{
		"off":  {"potter", "thor"}, // the log-in owns them all
		"auto": {"potter", "thor"}, // one role does
		"each": {"thor"},           // the tenant's role owns its own
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(pgtest.Shared(t).Database(t))
			require.NoError(t, err)
			q := u.Query()
			q.Set("tenant_role", mode)
			u.RawQuery = q.Encode()
			app := tenancytest.New(t, Config(), tenancytest.WithURL(u.String())).App
			thor := tenant(t, app, "thor")
			tenant(t, app, "potter")
			require.Equal(t, visible, texts(thor, t, app, "SELECT table_schema FROM information_schema.tables WHERE table_name = 'authors' ORDER BY 1"))
			require.Equal(t, []string{"potter", "thor"}, texts(thor, t, app, "SELECT schemaname FROM pg_tables WHERE tablename = 'authors' ORDER BY 1"))
			// What to say instead.
			require.Equal(t, []string{"thor"}, texts(thor, t, app, "SELECT table_schema FROM information_schema.tables WHERE table_name = 'authors' AND table_schema = current_schema()"))
		})
	}
}
