package sqlite_test

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
)

// SQLite's own waiting for somebody who is in the middle of a write, which nothing interrupts, ends with the call's context,
// whatever the call is; whoever has the time is served when the other is done.
func TestWaitsForTheLogEndWithTheirContext(t *testing.T) { // S73
	t.Parallel()
	type call struct {
		name string
		do   func(ctx context.Context, b *sqlite.Backend) error
	}
	read := func(text string) func(context.Context, *sqlite.Backend) error {
		return func(ctx context.Context, b *sqlite.Backend) error {
			var n int
			return b.DB().QueryRowContext(ctx, text).Scan(&n)
		}
	}
	write := func(text string) func(context.Context, *sqlite.Backend) error {
		return func(ctx context.Context, b *sqlite.Backend) error {
			_, err := b.DB().ExecContext(ctx, text)
			return err
		}
	}
	begin := func(ctx context.Context, b *sqlite.Backend) error {
		tx, err := b.DB().BeginTx(ctx, nil)
		if err == nil {
			err = tx.Rollback()
		}
		return err
	}
	for _, stuck := range []struct {
		in    string
		calls []call
	}{
		{"shared.db", []call{
			{"a read of the shared store", func(ctx context.Context, b *sqlite.Backend) error {
				return b.Shared().QueryRowContext(ctx, "SELECT count(*) FROM plans").Scan(new(int))
			}},
			{"a write to it", func(ctx context.Context, b *sqlite.Backend) error {
				_, err := b.Shared().ExecContext(ctx, "INSERT INTO plans VALUES (2)")
				return err
			}},
			{"a tenant's read of it", read("SELECT count(*) FROM public.plans")},
			{"a tenant's text of several statements", write("DELETE FROM polls WHERE id IN (SELECT id + 1 FROM plans); INSERT INTO polls VALUES (2)")},
		}},
		{filepath.Join("tenants", "a.db"), []call{
			{"a read", read("SELECT count(*) FROM polls")},
			{"a write", write("INSERT INTO polls VALUES (3)")},
			{"a transaction", begin},
		}},
	} {
		t.Run(stuck.in, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			here, err := sqlite.Open(t.Context(), dir, sqlite.Config{})
			require.NoError(t, err)
			defer here.Close()
			a := tenant(t, here, "a")
			exec(t, a, here.DB(), "CREATE TABLE polls (id INTEGER PRIMARY KEY); INSERT INTO polls VALUES (1)")
			exec(t, t.Context(), here.Shared(), "CREATE TABLE plans (id INTEGER PRIMARY KEY); INSERT INTO plans VALUES (1)")
			fresh, err := sqlite.Open(t.Context(), dir, sqlite.Config{}) // which has not opened the tenant's store yet
			require.NoError(t, err)
			defer fresh.Close()

			release := hindered(t, "stuck", filepath.Join(dir, stuck.in))
			first := stuck.calls[0]
			short, cancel := context.WithTimeout(a, time.Second)
			defer cancel()
			require.ErrorContains(t, first.do(short, fresh), "waiting for the log of the store") // for nobody who opens it
			var patient errgroup.Group
			patient.Go(func() error { return first.do(context.WithoutCancel(a), here) })
			var hasty errgroup.Group
			for _, c := range stuck.calls {
				for name, b := range map[string]*sqlite.Backend{"here": here, "fresh": fresh} {
					hasty.Go(func() error {
						ctx, cancel := context.WithTimeout(a, time.Second)
						defer cancel()
						err := c.do(ctx, b)
						assert.ErrorIs(t, err, context.DeadlineExceeded, "%s, %s", c.name, name)
						if c.name == first.name { // nobody but the other keeps it waiting
							var named *backend.Error
							assert.ErrorAs(t, err, &named, "%s, %s", c.name, name)
						}
						return nil
					})
				}
			}
			require.NoError(t, hasty.Wait())
			release() // all are back before the other is done
			require.NoError(t, patient.Wait())
			for _, b := range []*sqlite.Backend{here, fresh} {
				for _, c := range stuck.calls {
					require.NoError(t, c.do(a, b), c.name)
				}
				exec(t, a, b.DB(), "DELETE FROM polls WHERE id > 1")
				exec(t, t.Context(), b.Shared(), "DELETE FROM plans WHERE id > 1")
			}
		})
	}
}

// So does the wait of whoever opens a store that somebody has for himself.
func TestOpeningAStoreEndsWithItsContext(t *testing.T) { // S73
	t.Parallel()
	dir := t.TempDir()
	b, err := sqlite.Open(t.Context(), dir, sqlite.Config{BusyTimeout: time.Hour})
	require.NoError(t, err)
	defer b.Close()
	a := tenant(t, b, "a")
	release := hindered(t, "alone", filepath.Join(dir, "tenants", "a.db"))
	ctx, cancel := context.WithTimeout(a, time.Second)
	defer cancel()
	back := make(chan error, 1)
	go func() {
		var n int
		back <- b.DB().QueryRowContext(ctx, "SELECT 1").Scan(&n)
	}()
	select {
	case err := <-back:
		require.ErrorIs(t, err, context.DeadlineExceeded)
		release()
	case <-time.After(time.Minute):
		release()
		require.Fail(t, "it waits on")
	}
	require.Equal(t, 1, number(t, a, b.DB(), "SELECT 1"))
}

// Whoever is in the middle of a write keeps a store from being dropped, for whatever SQLite gives up.
func TestStoreWhoseLogIsStuckIsNotDropped(t *testing.T) { // S25
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := open(t)
		a := tenant(t, b, "a")
		exec(t, a, b.DB(), "CREATE TABLE polls (id INTEGER PRIMARY KEY); INSERT INTO polls VALUES (1)")
		other, err := sqlite.Open(t.Context(), b.Dir(), sqlite.Config{}) // for which the log is kept
		require.NoError(t, err)
		defer other.Close()
		require.Equal(t, 1, number(t, a, other.DB(), "SELECT count(*) FROM polls"))
		rt := backend.Route{Store: backend.MustParseStore("a"), Owner: "id-of-a"}
		release := hindered(t, "stuck", b.Path(rt.Store))
		err = b.Drop(t.Context(), rt)
		release()
		require.ErrorIs(t, err, backend.ErrBusy)
		require.Equal(t, 1, number(t, a, b.DB(), "SELECT count(*) FROM polls"))
		require.NoError(t, b.Drop(t.Context(), rt))
	})
}

// hindered has another process keep all others from the store at path until release is called.
func hindered(t *testing.T, mode, path string) (release func()) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the other process locks bytes of the files as on Unix")
	}
	other, in, lines := started(t, mode, path)
	require.True(t, lines.Scan())
	require.Equal(t, "ready", lines.Text())
	return func() {
		require.NoError(t, in.Close())
		require.NoError(t, other.Wait())
	}
}
