package litestream_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/tenancy"
)

// Much is written, deleted and packed while the backup looks on: the -wal begins anew many times, the file grows and
// shrinks.
func TestMuch(t *testing.T) {
	t.Parallel()
	app := open(t, t.TempDir())
	ctx := t.Context()
	thor := create(t, app, "thor")
	b, stop := replicating(t, app, fileURL(t), quick)
	db := app.Backend().DBFor(thor.Route())
	type moment struct {
		at   time.Time
		rows []string
	}
	var moments []moment
	for i := range 30 {
		for _, query := range []string{
			"INSERT INTO notes (text) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) SELECT hex(randomblob(1500)) FROM n",
			"DELETE FROM notes WHERE n % 7 = 3",
		} {
			_, err := db.ExecContext(ctx, query)
			require.NoError(t, err)
		}
		switch i % 10 {
		case 4:
			_, err := db.ExecContext(ctx, "DELETE FROM notes WHERE n % 2 = 0")
			require.NoError(t, err)
			_, err = db.ExecContext(ctx, "VACUUM")
			require.NoError(t, err)
		case 9:
			moments = append(moments, moment{copied(t, b, app, thor.ID), content(t, app, thor.ID)})
		}
	}
	stop()
	require.NoError(t, db.Close())
	for _, m := range append(moments, moment{time.Now(), content(t, app, thor.ID)}) {
		rows, err := restored(t, b, app, thor.ID, m.at)
		require.NoError(t, err)
		require.Equal(t, m.rows, rows)
		_, err = b.Restore(ctx, app, thor.ID, m.at)
		require.NoError(t, err)
		require.Equal(t, m.rows, content(t, app, thor.ID))
	}
	_, err := b.RestoreAs(ctx, app, thor.ID, time.Now(), tenancy.Spec{Slug: "thor"})
	require.ErrorIs(t, err, tenancy.ErrConflict)
}
