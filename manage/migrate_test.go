package manage_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/manage"
	"github.com/tenement-go/tenement/tenancy"
)

// What was begun before is finished once the shared tables are as this binary needs them: a creation may read what they have
// only then. A dry run finishes nothing.
func TestMigrateFinishesWhatWasBegun(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		open := func(ctx context.Context, old bool) (*tenancy.App, error) {
			cfg := config(old)
			cfg.PollInterval = time.Hour // nobody else finishes it
			cfg.Hooks.OnCreate = func(ctx context.Context, _ tenancy.Tenant, _ tenancy.Seed) error {
				var n int
				return p.backend().DB().QueryRowContext(ctx, "SELECT count(price) FROM plans").Scan(&n)
			}
			return tenancy.Open(ctx, p.backend(), cfg)
		}
		app, err := open(t.Context(), true)
		require.NoError(t, err)
		defer func() { require.NoError(t, app.Close()) }()
		_, err = app.Create(t.Context(), tenancy.Spec{Slug: "thor"})
		require.Error(t, err, "there is no price yet")
		_, err = app.Shared().ExecContext(t.Context(), "UPDATE tenement_operations SET stopped = FALSE") // as if its process had died
		require.NoError(t, err)

		migrate := func(args ...string) string {
			var stdout, stderr syncBuffer
			opener := func(ctx context.Context) (*tenancy.App, func() error, error) {
				app, err := open(ctx, false)
				if err != nil {
					return nil, nil, err
				}
				return app, app.Close, nil
			}
			status := manage.Execute(t.Context(), opener, append([]string{"migrate"}, args...), strings.NewReader(""), &stdout, &stderr)
			require.Equal(t, manage.ExitOK, status, stderr.String())
			require.NotContains(t, stderr.String(), "could not be finished")
			return stdout.String()
		}
		assert.Contains(t, migrate("--dry-run"), "ADD COLUMN price")
		begun, err := app.Operations(t.Context())
		require.NoError(t, err)
		require.Len(t, begun, 1)
		require.False(t, begun[0].Stopped, "nobody has tried it")

		migrate()
		thor, err := app.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		require.Equal(t, tenancy.Active, thor.Status)
		begun, err = app.Operations(t.Context())
		require.NoError(t, err)
		require.Empty(t, begun)
	})
}
