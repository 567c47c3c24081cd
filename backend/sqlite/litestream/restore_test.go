package litestream_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite/litestream"
	"github.com/tenement-go/tenement/tenancy"
)

// What is restored to a moment is what was there at it; and it takes the tenant's place, while the old store is kept.
func TestRestore(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, url string) {
		app := open(t, t.TempDir())
		ctx := t.Context()
		thor := create(t, app, "thor")
		b, _ := replicating(t, app, url, quick)
		var moments []time.Time
		for range 4 {
			mustAdd(t, app, thor.ID)
			moments = append(moments, copied(t, b, app, thor.ID))
		}
		all := content(t, app, thor.ID)
		for i, at := range moments {
			made, err := b.RestoreAs(ctx, app, thor.ID, at, tenancy.Spec{Slug: "thor-" + string(rune('a'+i))})
			require.NoError(t, err)
			require.NotEqual(t, thor.ID, made.ID)
			require.Equal(t, all[:i+1], content(t, app, made.ID))
			require.NoError(t, app.Migrator().Ready(ctx, made.Route()))
		}
		_, err := b.RestoreAs(ctx, app, thor.ID, thor.Created.Add(-time.Hour), tenancy.Spec{Slug: "before"})
		require.ErrorIs(t, err, litestream.ErrNoBackup)
		_, err = app.BySlug(ctx, "before")
		require.ErrorIs(t, err, tenancy.ErrNotFound)

		aside, err := b.Restore(ctx, app, thor.ID, moments[1])
		require.NoError(t, err)
		require.Equal(t, all[:2], content(t, app, thor.ID))
		require.Equal(t, all, inStore(t, app, backend.Route{Store: aside.Store, Owner: string(thor.ID)}))

		// The history goes on: what was before, and what is now.
		mustAdd(t, app, thor.ID)
		now := copied(t, b, app, thor.ID)
		for at, want := range map[time.Time][]string{moments[3]: all, now: content(t, app, thor.ID)} {
			_, err := b.Restore(ctx, app, thor.ID, at)
			require.NoError(t, err)
			require.Equal(t, want, content(t, app, thor.ID))
		}
	})
}

// While somebody writes, what is restored to any moment is all that was begun before it, up to one row; and nothing later.
func TestRestoreWhileWritten(t *testing.T) {
	t.Parallel()
	app := open(t, t.TempDir())
	thor := create(t, app, "thor")
	b, _ := replicating(t, app, fileURL(t), quick)
	mustAdd(t, app, thor.ID)
	first := copied(t, b, app, thor.ID)
	type write struct{ begun, done time.Time }
	var writes []write
	for last := status(t, b, app, thor.ID).Position; len(writes) < 1500; {
		w := write{begun: time.Now()}
		mustAdd(t, app, thor.ID)
		w.done = time.Now()
		writes = append(writes, w)
		if len(writes) > 300 && status(t, b, app, thor.ID).Position != last {
			break
		}
	}
	end := copied(t, b, app, thor.ID)
	all := content(t, app, thor.ID)
	restored := func(at time.Time) []string {
		rows, err := restored(t, b, app, thor.ID, at)
		require.NoError(t, err)
		return rows
	}
	for i := 0; i < len(writes); i += len(writes) / 7 {
		at := writes[i].done
		rows := restored(at)
		require.Equal(t, all[:len(rows)], rows)
		later := 0
		for _, w := range writes {
			if w.begun.After(at) {
				later++
			}
		}
		require.LessOrEqual(t, len(rows), len(all)-later)
	}
	require.Equal(t, all[:1], restored(first))
	require.Equal(t, all, restored(end))
}

// The shared store is copied too, and can be put back as a file.
func TestRestoreShared(t *testing.T) {
	t.Parallel()
	app := open(t, t.TempDir())
	thor := create(t, app, "thor")
	b, stop := replicating(t, app, fileURL(t), quick)
	await(t, func() bool { return status(t, b, app, "").Position != "" })
	stop()
	file := filepath.Join(t.TempDir(), "shared.db")
	require.NoError(t, b.RestoreFile(t.Context(), app, "", time.Now(), file))
	db, err := sql.Open("sqlite", file)
	require.NoError(t, err)
	var id string
	require.NoError(t, db.QueryRowContext(t.Context(), "SELECT id FROM tenement_tenants WHERE slug = 'thor'").Scan(&id))
	require.Equal(t, string(thor.ID), id)
	require.NoError(t, db.Close())
	require.ErrorIs(t, b.RestoreFile(t.Context(), app, "", time.Now(), file), os.ErrExist)
	_, err = b.Restore(context.Background(), app, "", time.Now())
	require.ErrorIs(t, err, tenancy.ErrNotFound)
}
