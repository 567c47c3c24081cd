package tenancy

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A panic of a hook is that hook's error, whoever calls it.
func TestPanicOfAHook(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		var logged syncBuffer
		bug := errors.New("a bug")
		hooks := func(c *Config) {
			c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
			c.Hooks.OnCreate = func(_ context.Context, tenant Tenant, _ Seed) error {
				if tenant.Slug == "boom" {
					panic(bug)
				}
				return nil
			}
			c.Hooks.OnChange = func(context.Context, Event) { panic("a bug in OnChange") }
		}
		a := open(t, p.be, hooks)
		_, err := a.Create(t.Context(), Spec{Slug: "boom"})
		require.ErrorIs(t, err, bug)
		ops, err := a.Operations(t.Context())
		require.NoError(t, err)
		require.Len(t, ops, 1)
		require.True(t, ops[0].Stopped)
		require.Contains(t, ops[0].Error, "OnCreate: panic: a bug")
		require.Contains(t, logged.String(), "guard_test.go", "the stack")
		boom, err := a.BySlug(t.Context(), "boom")
		require.NoError(t, err)
		require.Equal(t, Failed, boom.Status)
		create(t, a, "thor")

		// In the background: another process died, and this one goes on.
		_, err = a.Shared().ExecContext(t.Context(), "UPDATE tenement_operations SET stopped = FALSE")
		require.NoError(t, err)
		b := open(t, p.backend(t), hooks, func(c *Config) { c.PollInterval = 10 * time.Millisecond })
		require.Eventually(t, func() bool {
			ops, err := b.Operations(t.Context())
			return err == nil && len(ops) == 1 && ops[0].Stopped
		}, time.Minute, 5*time.Millisecond)
		_, err = a.Suspend(t.Context(), id(t, a, "thor"), "unpaid")
		require.NoError(t, err)
		require.NoError(t, b.Refresh(t.Context()))
		require.Contains(t, logged.String(), "a bug in OnChange")
	})
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
