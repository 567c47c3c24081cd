package tenancy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// fillBy makes a store as an import does: with a row and a file.
func fillBy(a *App) Filler {
	return func(ctx context.Context, t Tenant) error {
		if err := a.migrator.Provision(ctx, t.route()); err != nil {
			return err
		}
		a.step("import: provisioned")
		dir, err := a.Dir(ctx)
		if err != nil {
			return err
		}
		defer dir.Close()
		if err := dir.WriteFile("logo", []byte("hammer"), 0o600); err != nil {
			return err
		}
		_, err = a.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ('Hammer?')")
		a.step("import: half filled")
		return err
	}
}

func TestCreateBy(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		dir := t.TempDir()
		a := open(t, p.be, func(c *Config) {
			c.FilesDir = dir
			c.Hooks.OnCreate = func(context.Context, Tenant, Seed) error { return errors.New("it is not for those") }
		})
		thor, err := a.CreateBy(t.Context(), Spec{Slug: "thor", Domains: []string{"thor.example"}}, fillBy(a))
		require.NoError(t, err)
		assert.Equal(t, Active, thor.Status)
		assert.Equal(t, "thor.example", thor.PrimaryDomain())
		assert.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, thor)))

		// It fails, in whatever way: nothing is left.
		short, cancel := context.WithCancel(t.Context())
		for name, fill := range map[string]Filler{
			"before":   func(context.Context, Tenant) error { return errors.New("no") },
			"after":    func(ctx context.Context, t Tenant) error { return errors.Join(fillBy(a)(ctx, t), errors.New("no")) },
			"panics":   func(ctx context.Context, t Tenant) error { _ = fillBy(a)(ctx, t); panic("no") },
			"is ended": func(ctx context.Context, t Tenant) error { defer cancel(); return fillBy(a)(ctx, t) },
		} {
			_, err := a.CreateBy(short, Spec{Slug: "loki", Domains: []string{"loki.example"}}, fill)
			require.Error(t, err, name)
			if name == "is ended" {
				short, cancel = context.WithCancel(t.Context())
			}
			_, err = a.BySlug(t.Context(), "loki")
			require.ErrorIs(t, err, ErrNotFound, name)
			_, err = a.be.Stat(t.Context(), backend.MustParseStore("loki"))
			require.ErrorIs(t, err, backend.ErrStoreMissing, name)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, entries, 1, name)
			requireHealthy(t, a)
		}
		cancel()
		_, err = a.CreateBy(t.Context(), Spec{Slug: "thor"}, fillBy(a))
		require.ErrorIs(t, err, ErrSlugTaken)
		_, err = a.CreateBy(t.Context(), Spec{Slug: "odin", Domains: []string{"thor.example"}}, fillBy(a))
		require.ErrorIs(t, err, ErrDomainTaken)
		_, err = a.CreateBy(t.Context(), Spec{Slug: "odin"}, nil)
		require.Error(t, err)
	})
}

// S23, S84: a tenant that somebody filled who died is undone by whoever runs; given again the call succeeds.
func TestKilledCreateBy(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	onEach(t, func(t *testing.T, p place) {
		e := errand{URL: p.url, Files: t.TempDir(), Op: "import"}
		a := open(t, p.be, func(c *Config) { c.FilesDir, c.PollInterval = e.Files, 20*time.Millisecond })
		for i, step := range []string{"create: claimed", "import: provisioned", "import: half filled", "import: filled", "import: fill done"} {
			e.Step, e.Slug = step, fmt.Sprintf("t%d", i)
			require.True(t, e.send(t), step)
			require.Eventually(t, func() bool {
				_, err := a.BySlug(t.Context(), e.Slug)
				return errors.Is(err, ErrNotFound)
			}, time.Minute, time.Millisecond, step)
			entries, err := os.ReadDir(e.Files)
			require.NoError(t, err)
			aside, err := a.AsideDirs(t.Context())
			require.NoError(t, err)
			require.Len(t, entries, len(aside), step)
			_, err = a.be.Stat(t.Context(), backend.MustParseStore(e.Slug))
			require.ErrorIs(t, err, backend.ErrStoreMissing, step)
			requireHealthy(t, a)
			again, err := a.CreateBy(t.Context(), e.spec(), fillBy(a))
			require.NoError(t, err, step)
			require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, again)))
			_, err = a.Delete(t.Context(), again.ID)
			require.NoError(t, err)
			require.NoError(t, a.Purge(t.Context(), again.ID))
		}
		e.Step, e.Slug = "import: fill committed", "last"
		require.True(t, e.send(t))
		last, err := a.BySlug(t.Context(), "last")
		require.NoError(t, err)
		require.Equal(t, Active, last.Status)
		require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, last)))
	})
}

// What a tenant that was undone had in the ledger goes with it, also when whoever dropped its store did not get further.
func TestUndoneAndNotForgotten(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		interrupted(t, p, "unmake: dropped", func(a *App) error {
			_, err := a.CreateBy(t.Context(), Spec{Slug: "thor"}, func(ctx context.Context, thor Tenant) error {
				return errors.Join(a.migrator.Provision(ctx, thor.route()), errors.New("no"))
			})
			return err
		})
		a := open(t, p.be)
		require.NoError(t, a.FinishOperations(t.Context()))
		_, err := a.BySlug(t.Context(), "thor")
		require.ErrorIs(t, err, ErrNotFound)
		requireHealthy(t, a)
	})
}
