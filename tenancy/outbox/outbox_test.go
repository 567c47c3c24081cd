package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/tenancy/outbox"
	"github.com/tenement-go/tenement/tenancy/tenancytest"
)

func onBoth(t *testing.T, run func(t *testing.T, tt *tenancytest.Tenants)) {
	t.Parallel()
	cfg := tenancy.Config{Shared: []migrate.Source{outbox.Shared()}, Tenant: []migrate.Source{outbox.Tenant()}}
	for name, url := range map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + t.TempDir() },
		"postgres": func(t *testing.T) string { return pgtest.Shared(t).Database(t) + "&pool_max_conns=1" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, tenancytest.New(t, cfg, tenancytest.WithURL(url(t))))
		})
	}
}

// inbox keeps what was delivered.
type inbox struct {
	mu  sync.Mutex
	got []string
}

func (in *inbox) deliver(_ context.Context, t tenancy.Tenant, m outbox.Message) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.got = append(in.got, fmt.Sprintf("%s %s %s", t.Slug, m.Kind, m.Payload))
	return nil
}

func add(t *testing.T, box *outbox.Box, ctx context.Context, kinds ...string) {
	t.Helper()
	require.NoError(t, box.Tx(ctx, nil, func(tx *outbox.Tx) error {
		for _, kind := range kinds {
			if err := tx.Add(ctx, kind, 1); err != nil {
				return err
			}
		}
		return nil
	}))
}

func marks(t *testing.T, tt *tenancytest.Tenants) (n int) {
	t.Helper()
	require.NoError(t, tt.Shared().QueryRowContext(t.Context(), "SELECT count(*) FROM tenement_outbox_work").Scan(&n))
	return n
}

// What was committed is delivered once, in order; what was rolled back is not. With one connection, so that nobody holds
// one while waiting for another.
func TestDelivers(t *testing.T) {
	onBoth(t, func(t *testing.T, tt *tenancytest.Tenants) {
		box := outbox.New(tt.App, outbox.Config{})
		thor, potter := tt.Tenant(t), tt.Tenant(t)
		idle := tt.Tenant(t)
		_ = idle
		add(t, box, thor.Context(), "a", "b")
		add(t, box, potter.Context(), "c")
		sorry := errors.New("sorry")
		require.ErrorIs(t, box.Tx(thor.Context(), nil, func(tx *outbox.Tx) error {
			if err := tx.Add(thor.Context(), "never", 1); err != nil {
				return err
			}
			return sorry
		}), sorry)
		assert.Equal(t, 2, marks(t, tt), "those that have work, and no others")

		var in inbox
		n, err := box.Dispatch(t.Context(), in.deliver)
		require.NoError(t, err)
		assert.Equal(t, 3, n)
		assert.ElementsMatch(t, []string{thor.Slug + " a 1", thor.Slug + " b 1", potter.Slug + " c 1"}, in.got)
		n, err = box.Dispatch(t.Context(), in.deliver)
		require.NoError(t, err)
		assert.Zero(t, n)
		require.ErrorIs(t, box.Tx(t.Context(), nil, func(*outbox.Tx) error { return nil }), tenancy.ErrNoTenant)
	})
}

// What cannot be delivered waits, with what comes after it; other tenants' goes on.
func TestKeepsWhatFails(t *testing.T) {
	onBoth(t, func(t *testing.T, tt *tenancytest.Tenants) {
		box := outbox.New(tt.App, outbox.Config{})
		thor, potter := tt.Tenant(t), tt.Tenant(t)
		add(t, box, thor.Context(), "bad", "after")
		add(t, box, potter.Context(), "good")
		var in inbox
		n, err := box.Dispatch(t.Context(), func(ctx context.Context, tenant tenancy.Tenant, m outbox.Message) error {
			if m.Kind == "bad" {
				return errors.New("nobody listens")
			}
			return in.deliver(ctx, tenant, m)
		})
		var failed *tenancy.TenantError
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, thor.Slug, failed.Slug)
		assert.Equal(t, 1, n)
		n, err = box.Dispatch(t.Context(), in.deliver)
		require.NoError(t, err)
		assert.Equal(t, 2, n)
		assert.Equal(t, []string{potter.Slug + " good 1", thor.Slug + " bad 1", thor.Slug + " after 1"}, in.got)
	})
}

// A mark is removed when it is old and nothing relies on it; never under somebody who has added a message and not
// committed yet, nor before somebody who could still add one.
func TestMarks(t *testing.T) {
	onBoth(t, func(t *testing.T, tt *tenancytest.Tenants) {
		box := outbox.New(tt.App, outbox.Config{Grace: time.Hour})
		thor := tt.Tenant(t)
		var in inbox
		age := func() { // as if the mark had been made long ago
			_, err := tt.Shared().ExecContext(t.Context(), "UPDATE tenement_outbox_work SET marked = marked - 10000000")
			require.NoError(t, err)
		}
		add(t, box, thor.Context(), "a")
		_, err := box.Dispatch(t.Context(), in.deliver)
		require.NoError(t, err)
		require.Equal(t, 1, marks(t, tt), "it is fresh")
		age()
		_, err = box.Dispatch(t.Context(), in.deliver)
		require.NoError(t, err)
		require.Zero(t, marks(t, tt))

		// Too late: the statement itself refuses, by the database's clock.
		ctx := thor.Context()
		again := outbox.New(tt.App, outbox.Config{Grace: time.Nanosecond})
		require.ErrorIs(t, again.Tx(ctx, nil, func(tx *outbox.Tx) error { return tx.Add(ctx, "late", 1) }), outbox.ErrTooLate)
		_, err = again.Dispatch(t.Context(), in.deliver)
		require.NoError(t, err)
	})
}

// A dispatcher that finds an outbox empty leaves the mark when somebody has added to it and not committed.
func TestMarkUnderATransaction(t *testing.T) {
	t.Parallel()
	cfg := tenancy.Config{Shared: []migrate.Source{outbox.Shared()}, Tenant: []migrate.Source{outbox.Tenant()}}
	tt := tenancytest.New(t, cfg, tenancytest.WithURL(pgtest.Shared(t).Database(t)))
	box := outbox.New(tt.App, outbox.Config{})
	thor := tt.Tenant(t)
	var in inbox
	require.NoError(t, box.Tx(thor.Context(), &sql.TxOptions{}, func(tx *outbox.Tx) error {
		if err := tx.Add(thor.Context(), "slow", 1); err != nil {
			return err
		}
		_, err := tt.Shared().ExecContext(t.Context(), "UPDATE tenement_outbox_work SET marked = marked - 1000000")
		require.NoError(t, err)
		_, err = box.Dispatch(t.Context(), in.deliver)
		require.NoError(t, err)
		require.Equal(t, 1, marks(t, tt))
		return nil
	}))
	n, err := box.Dispatch(t.Context(), in.deliver)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
}

// A tenant that another dispatcher is at is left to it; what a purged one had is forgotten.
func TestLeaseAndPurge(t *testing.T) {
	onBoth(t, func(t *testing.T, tt *tenancytest.Tenants) {
		box, other := outbox.New(tt.App, outbox.Config{}), outbox.New(tt.App, outbox.Config{})
		thor := tt.Tenant(t)
		add(t, box, thor.Context(), "a")
		var in inbox
		n, err := box.Dispatch(t.Context(), func(ctx context.Context, tenant tenancy.Tenant, m outbox.Message) error {
			n, err := other.Dispatch(ctx, in.deliver)
			require.NoError(t, err)
			require.Zero(t, n)
			return in.deliver(ctx, tenant, m)
		})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		add(t, box, thor.Context(), "b")
		_, err = tt.Delete(t.Context(), thor.ID)
		require.NoError(t, err)
		require.NoError(t, tt.Purge(t.Context(), thor.ID))
		_, err = box.Dispatch(t.Context(), in.deliver)
		require.NoError(t, err)
		assert.Zero(t, marks(t, tt))
	})
}

// Run delivers what is there, until it is told to end.
func TestRun(t *testing.T) {
	onBoth(t, func(t *testing.T, tt *tenancytest.Tenants) {
		box := outbox.New(tt.App, outbox.Config{Poll: 10 * time.Millisecond, Batch: 2})
		thor := tt.Tenant(t)
		add(t, box, thor.Context(), "a", "b", "c", "d", "e")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var in inbox
		err := box.Run(ctx, func(ctx context.Context, tenant tenancy.Tenant, m outbox.Message) error {
			if m.Kind == "e" {
				cancel()
			}
			return in.deliver(ctx, tenant, m)
		})
		require.ErrorIs(t, err, context.Canceled)
		assert.Len(t, in.got, 5)
	})
}
