package litestream

import (
	"fmt"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/superfly/ltx"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// A store that lost its name while it was open, in whatever moment, to a store with a -wal of its own under that name:
// nothing of that one is sent, nor kept.
func TestNothingOfAnotherStore(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	be, err := sqlite.Open(ctx, t.TempDir(), sqlite.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	app, err := tenancy.Open(ctx, be, tenancy.Config{Tenant: []migrate.Source{{Name: "notes", FS: fstest.MapFS{"00001_notes.sql": {
		Data: []byte("-- +goose Up\nCREATE TABLE notes (text TEXT);\n"),
	}}}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, app.Close()) })
	_, err = app.Migrator().Up(ctx, migrate.UpOptions{})
	require.NoError(t, err)
	write := func(rt backend.Route) {
		db := be.DBFor(rt)
		for range 20 {
			_, err := db.ExecContext(ctx, "INSERT INTO notes VALUES (hex(randomblob(2000)))")
			require.NoError(t, err)
		}
		require.NoError(t, db.Close())
	}
	n := 0
	for name, lose := range map[string]func(s *stream) error{
		"copying": func(s *stream) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.sync(ctx)
		},
		"closing":  func(s *stream) error { return s.close(ctx) },
		"its turn": func(s *stream) error { return s.step(ctx) },
		"snapshot": func(s *stream) error { return s.takeSnapshot(ctx, s.db) },
	} {
		b, err := New("file://"+t.TempDir(), Config{})
		require.NoError(t, err)
		r := &run{b: b, app: app, be: be, rules: rules(time.Hour), streams: map[string]*stream{}}
		n++
		thor, err := app.Create(ctx, tenancy.Spec{Slug: fmt.Sprint("thor", n)})
		require.NoError(t, err)
		s, err := r.newStream(string(thor.ID), thor.Store)
		require.NoError(t, err)
		write(thor.Route())
		require.NoError(t, s.step(ctx))
		there, err := s.client.newest(ctx)
		require.NoError(t, err)
		require.NotZero(t, there.MaxTXID)

		other := backend.Route{Store: thor.Store, Owner: "another"}
		require.NoError(t, be.Drop(ctx, thor.Route()))
		_, err = app.Migrator().ProvisionAt(ctx, other, nil, migrate.ProvisionOptions{})
		require.NoError(t, err)
		db := be.DBFor(other)
		_, err = db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS notes (text TEXT)")
		require.NoError(t, err)
		require.NoError(t, db.Close())
		write(other)

		require.ErrorIs(t, lose(s), errLost, name)
		require.NoError(t, s.send(ctx))
		now, err := s.client.newest(ctx)
		require.NoError(t, err)
		require.Equal(t, there, now, name)
		more := 0
		for _, level := range levels {
			require.NoError(t, s.client.each(ctx, level, func(info *ltx.FileInfo) {
				if info.MaxTXID > there.MaxTXID || level == 9 {
					more++
				}
			}))
		}
		require.Zero(t, more, name)
		if s.db == nil {
			last, err := s.history.newest()
			require.NoError(t, err)
			require.LessOrEqual(t, last, there.MaxTXID, name)
		}
		// Nor is the one of that name opened for it, or what is here gone on with.
		if err := s.close(ctx); err != nil {
			require.ErrorIs(t, err, errLost)
		}
		require.ErrorIs(t, s.step(ctx), errLost, name)
		require.NoError(t, be.Drop(ctx, other))
	}
}

// A store that is being copied, for as long as there is much in it, is not waited for when room is made, and holds nobody up.
func TestRoomIsMadeBesideACopy(t *testing.T) {
	t.Parallel()
	b, err := New("file://"+t.TempDir(), Config{MaxOpen: 2})
	require.NoError(t, err)
	r := &run{b: b, streams: map[string]*stream{}}
	for i, name := range []string{"copied", "idle"} {
		s := &stream{r: r, name: name}
		s.openAs.Store(&s.store)
		s.used.Store(int64(i))
		r.streams[name] = s
	}
	copied := r.streams["copied"]
	copied.mu.Lock()
	defer copied.mu.Unlock()
	require.Equal(t, []*stream{copied, r.streams["idle"]}, r.surplus())
	made := make(chan struct{})
	go func() { r.makeRoom(t.Context()); close(made) }()
	select {
	case <-made:
	case <-time.After(time.Minute):
		t.Fatal("it waits for the copy")
	}
	require.Len(t, r.all(), 2)
}
