package integrations

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/tenancy/outbox"
	"github.com/tenement-go/tenement/tenancy/tenancytest"
)

// A job is made in the tenant's transaction, and worked on in the tenant, though the queue is everybody's.
func TestRiver(t *testing.T) {
	t.Parallel()
	cfg := Config()
	cfg.Shared = append(cfg.Shared, outbox.Shared())
	cfg.Tenant = append([]migrate.Source{}, append(cfg.Tenant, outbox.Tenant())...)
	for name, url := range map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + t.TempDir() },
		"postgres": func(t *testing.T) string { return pgtest.Shared(t).Database(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := tenancytest.New(t, cfg, tenancytest.WithURL(url(t))).App
			require.NoError(t, MigrateRiver(t.Context(), app))
			lib := NewSquirrel(app)
			box := outbox.New(app, outbox.Config{})

			type done struct{ slug, title string }
			worked := make(chan done, 10)
			workers := river.NewWorkers()
			river.AddWorker(workers, acquiring{app: app, do: func(ctx context.Context, tenant *tenancy.Tenant, title string) error {
				titles, err := lib.Titles(ctx, "Ursula") // the job is in its tenant
				if err == nil && (len(titles) != 1 || titles[0] != title) {
					err = errors.New("in another tenant's library")
				}
				worked <- done{tenant.Slug, title}
				return err
			}})
			client, err := river.NewClient(riverDriver(app), &river.Config{
				Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2}}, Workers: workers,
				FetchCooldown: 10 * time.Millisecond, FetchPollInterval: 20 * time.Millisecond,
			})
			require.NoError(t, err)

			want := map[done]bool{{"thor", "Lavinia"}: true, {"potter", "Orsinia"}: true}
			for job := range want {
				ctx := tenant(t, app, job.slug)
				require.NoError(t, lib.Add(ctx, "Ursula", job.title))
				require.NoError(t, box.Tx(ctx, nil, func(tx *outbox.Tx) error { return tx.Add(ctx, "acquired", job.title) }))
				sorry := errors.New("sorry")
				require.ErrorIs(t, box.Tx(ctx, nil, func(tx *outbox.Tx) error {
					require.NoError(t, tx.Add(ctx, "acquired", "never"))
					return sorry
				}), sorry)
			}
			// Delivered twice, as when a dispatcher died in between: it is one job all the same.
			_, err = box.Dispatch(t.Context(), func(ctx context.Context, tenant tenancy.Tenant, m outbox.Message) error {
				require.NoError(t, Enqueue(client)(ctx, tenant, m))
				return Enqueue(client)(ctx, tenant, m)
			})
			require.NoError(t, err)

			require.NoError(t, client.Start(t.Context()))
			got := map[done]bool{}
			for range want {
				got[<-worked] = true
			}
			require.NoError(t, client.Stop(context.WithoutCancel(t.Context())))
			assert.Equal(t, want, got)
			assert.Empty(t, worked)
		})
	}
}
