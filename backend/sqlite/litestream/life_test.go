package litestream_test

import (
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// A history is a tenant's, whatever its file is called: it goes on when that is renamed, and a later tenant that gets the
// name has one of its own, also while the backup has the file of the first one open.
func TestNamesChangeHands(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, url string) {
		app := open(t, t.TempDir())
		ctx := t.Context()
		first := create(t, app, "thor")
		b, _ := replicating(t, app, url, quick)
		for range 3 {
			mustAdd(t, app, first.ID)
		}
		early := copied(t, b, app, first.ID)
		before := content(t, app, first.ID)
		_, err := app.Rename(ctx, first.ID, "odin")
		require.NoError(t, err)
		second := create(t, app, "thor")
		mustAdd(t, app, second.ID)
		mustAdd(t, app, first.ID)
		late, other := copied(t, b, app, first.ID), copied(t, b, app, second.ID)
		after, theirs := content(t, app, first.ID), content(t, app, second.ID)

		// Purged while it is open, and its name given away at once.
		_, err = app.Delete(ctx, first.ID)
		require.NoError(t, err)
		require.NoError(t, app.Purge(ctx, first.ID))
		third := create(t, app, "odin")
		for range 5 {
			mustAdd(t, app, third.ID)
		}
		now := copied(t, b, app, third.ID)
		for i, want := range []struct {
			id   tenancy.ID
			at   time.Time
			rows []string
		}{
			{first.ID, early, before},
			{first.ID, late, after},
			{first.ID, now, after},
			{second.ID, other, theirs},
			{second.ID, now, theirs},
			{third.ID, now, content(t, app, third.ID)},
		} {
			made, err := b.RestoreAs(ctx, app, want.id, want.at, tenancy.Spec{Slug: fmt.Sprint("copy", i)})
			require.NoError(t, err)
			require.Equal(t, want.rows, content(t, app, made.ID), i)
		}
		_, err = b.Restore(ctx, app, first.ID, now)
		require.ErrorIs(t, err, tenancy.ErrNotFound)
	})
}

// A tenant that nobody writes to costs nothing: no request, no descriptor, no lock.
func TestIdle(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	dir := t.TempDir()
	app := open(t, dir)
	thor, loki := create(t, app, "thor"), create(t, app, "loki")
	b, stop := replicating(t, app, s.url(), quick)
	mustAdd(t, app, thor.ID)
	copied(t, b, app, thor.ID)
	require.Equal(t, 1, raw(t, app, thor))
	stop()
	require.Zero(t, raw(t, app, thor))
	cfg := quick
	cfg.Idle = 50 * time.Millisecond
	b, stop = replicating(t, app, s.url(), cfg)
	mustAdd(t, app, thor.ID)
	mustAdd(t, app, loki.ID)
	copied(t, b, app, thor.ID)
	copied(t, b, app, loki.ID)
	// The -wal of a store of which nobody has more than our own connection: the backup has let go of it.
	idle := func(tenant tenancy.Tenant) func() bool {
		return func() bool { return raw(t, app, tenant) == 0 && exists(note(dir, tenant)) }
	}
	await(t, idle(thor))
	asked := len(s.about(thor.ID))
	for range 20 {
		mustAdd(t, app, loki.ID)
		copied(t, b, app, loki.ID)
	}
	await(t, idle(loki))
	require.Len(t, s.about(thor.ID), asked, "asked about a tenant that nobody has written to")

	// Neither does the next process ask.
	stop()
	asked = len(s.about(thor.ID))
	b, stop = replicating(t, app, s.url(), cfg)
	mustAdd(t, app, loki.ID)
	copied(t, b, app, loki.ID)
	stop()
	require.Len(t, s.about(thor.ID), asked)

	// What was written while nobody looked is copied.
	mustAdd(t, app, thor.ID)
	replicating(t, app, s.url(), cfg)
	copied(t, b, app, thor.ID)
}

func note(dir string, tenant tenancy.Tenant) string {
	return filepath.Join(dir, "litestream", string(tenant.ID), "closed.json")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// raw is how many descriptors of a store's file this process has that are open for reading alone: none of SQLite's.
func raw(t *testing.T, app *tenancy.App, tenant tenancy.Tenant) (n int) {
	t.Helper()
	path := app.Backend().(*sqlite.Backend).Path(tenant.Store)
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err != nil || to != path {
			continue
		}
		if info, err := os.ReadFile("/proc/self/fdinfo/" + e.Name()); err == nil && strings.Contains(string(info), "flags:\t02100000") {
			n++
		}
	}
	return n
}

// While the target refuses everything, stores are served, renamed and dropped as if it did not; afterwards all is there.
func TestTargetAway(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	app := open(t, t.TempDir())
	ctx := t.Context()
	thor, loki := create(t, app, "thor"), create(t, app, "loki")
	cfg := quick
	cfg.Log = slog.New(slog.DiscardHandler)
	b, _ := replicating(t, app, s.url(), cfg)
	mustAdd(t, app, thor.ID)
	mustAdd(t, app, loki.ID)
	copied(t, b, app, thor.ID)
	copied(t, b, app, loki.ID)
	s.down.Store(true)
	for i := range 3 {
		for range 5 {
			mustAdd(t, app, thor.ID)
		}
		mustAdd(t, app, loki.ID)
		await(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.refused > i
		})
		_, err := app.Rename(ctx, thor.ID, fmt.Sprint("thor", i))
		require.NoError(t, err)
	}
	require.Error(t, b.RestoreFile(ctx, app, thor.ID, time.Now(), filepath.Join(t.TempDir(), "thor.db")))
	s.down.Store(false)
	for _, tenant := range []tenancy.Tenant{thor, loki} {
		at := copied(t, b, app, tenant.ID)
		rows, err := restored(t, b, app, tenant.ID, at)
		require.NoError(t, err)
		require.Equal(t, content(t, app, tenant.ID), rows)
	}
}

// More stores are written to than may be open at once.
func TestMoreThanMayBeOpen(t *testing.T) {
	t.Parallel()
	app := open(t, t.TempDir())
	var tenants []tenancy.Tenant
	for i := range 7 {
		tenants = append(tenants, create(t, app, fmt.Sprint("t", i)))
	}
	cfg := quick
	cfg.MaxOpen = 2
	b, stop := replicating(t, app, fileURL(t), cfg)
	for range 5 {
		for _, tenant := range tenants {
			mustAdd(t, app, tenant.ID)
		}
		copied(t, b, app, tenants[0].ID)
	}
	stop()
	for _, tenant := range tenants {
		rows, err := restored(t, b, app, tenant.ID, time.Now())
		require.NoError(t, err)
		require.Equal(t, content(t, app, tenant.ID), rows)
	}
}

// Nobody held the -wal in place while the backup had let go of the store: what was checkpointed meanwhile, and is in no -wal
// any more, is in the backup nevertheless.
func TestWALBeganAnewMeanwhile(t *testing.T) {
	t.Parallel()
	app := open(t, t.TempDir())
	ctx := t.Context()
	thor := create(t, app, "thor")
	url := fileURL(t)
	b, stop := replicating(t, app, url, quick)
	for range 50 {
		mustAdd(t, app, thor.ID)
	}
	copied(t, b, app, thor.ID)
	stop()
	for range 50 {
		mustAdd(t, app, thor.ID)
	}
	// Another client's, so that nothing ends the -wal for good.
	db, err := sql.Open("sqlite", app.Backend().(*sqlite.Backend).Path(thor.Store))
	require.NoError(t, err)
	var busy, frames, done int
	require.NoError(t, db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(RESTART)").Scan(&busy, &frames, &done))
	require.Zero(t, busy)
	require.Greater(t, frames, 100)
	mustAdd(t, app, thor.ID) // overwrites the beginning of the -wal, and leaves the end as it was
	b, _ = replicating(t, app, url, quick)
	at := copied(t, b, app, thor.ID)
	rows, err := restored(t, b, app, thor.ID, at)
	require.NoError(t, err)
	require.Equal(t, content(t, app, thor.ID), rows)
	require.NoError(t, db.Close())
}

// What Litestream puts into a store is none of the tenant's: neither an export nor a restored tenant has it.
func TestTablesOfTheTenantAlone(t *testing.T) {
	t.Parallel()
	app := open(t, t.TempDir())
	ctx := t.Context()
	thor := create(t, app, "thor")
	b, stop := replicating(t, app, fileURL(t), quick)
	mustAdd(t, app, thor.ID)
	at := copied(t, b, app, thor.ID)
	m, err := transfer.Export(ctx, app, thor.ID, filepath.Join(t.TempDir(), "thor.db"), transfer.ExportOptions{})
	require.NoError(t, err)
	require.Len(t, m.Tables, 1)
	stop() // what is restored is a tenant, and followed too
	made, err := b.RestoreAs(ctx, app, thor.ID, at, tenancy.Spec{Slug: "copy"})
	require.NoError(t, err)
	c, err := transfer.Verify(ctx, transfer.InStore(app, thor.ID), transfer.InStore(app, made.ID), transfer.VerifyOptions{})
	require.NoError(t, err)
	require.NoError(t, c.Err())
	db := app.Backend().DBFor(made.Route())
	var n int
	require.NoError(t, db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%litestream%'").Scan(&n))
	require.Zero(t, n)
	require.NoError(t, db.Close())
}

// A restored file is put where no store is, and only one that is a store.
func TestInstall(t *testing.T) {
	t.Parallel()
	app := open(t, t.TempDir())
	ctx := t.Context()
	be := app.Backend().(*sqlite.Backend)
	thor := create(t, app, "thor")
	copyOf := filepath.Join(be.Dir(), "copy.db")
	require.NoError(t, be.Backup(ctx, thor.Route(), copyOf))
	require.ErrorIs(t, be.Install(ctx, thor.Route(), copyOf), backend.ErrStoreExists)
	other := filepath.Join(be.Dir(), "other.db")
	require.NoError(t, os.WriteFile(other, nil, 0o600))
	loki := backend.Route{Store: backend.MustParseStore("loki"), Owner: "loki's"}
	require.ErrorIs(t, be.Install(ctx, loki, other), backend.ErrStoreMissing)
	require.NoError(t, be.Install(ctx, loki, copyOf))
	info, err := be.Stat(ctx, loki.Store)
	require.NoError(t, err)
	require.Equal(t, "loki's", info.Owner)
	require.NoFileExists(t, copyOf)

	release, err := be.Hold(ctx, loki.Store)
	require.NoError(t, err)
	_, err = be.Hold(ctx, loki.Store)
	require.ErrorIs(t, err, sqlite.ErrBusy)
	release()
	require.NoError(t, be.Rename(ctx, loki, backend.MustParseStore("sif")))
}
