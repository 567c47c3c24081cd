package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// What a template may hold is decided by what was done to it: with anything in it that varies, each store is built by
// itself.
func TestTemplateHoldsNothingThatVaries(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	mustExec(t, t.Context(), b.Shared(), "CREATE TABLE plans (id INTEGER); INSERT INTO plans VALUES (1)")
	var next atomic.Int32
	const goose = "CREATE TABLE goose_db_version (id INTEGER PRIMARY KEY, tstamp TIMESTAMP DEFAULT (datetime('now')))"
	for name, c := range map[string]struct {
		build  []string
		varies bool
	}{
		"plain rows":             {[]string{"INSERT INTO v VALUES (1, 'x'), (2, hex(zeroblob(2)))", "UPDATE v SET x = upper(x) || length(x)"}, false},
		"defaults for later":     {[]string{"CREATE TABLE d (a, at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, r BLOB DEFAULT (randomblob(8)), CHECK (a > 0))"}, false},
		"a trigger for later":    {[]string{"CREATE TRIGGER tr AFTER INSERT ON v BEGIN UPDATE v SET x = strftime('%s', 'now'); END"}, false},
		"an index":               {[]string{"CREATE INDEX i ON v (lower(x))", "CREATE VIEW w AS SELECT datetime('now')"}, false},
		"goose's own rows":       {[]string{goose, "INSERT INTO goose_db_version (id) VALUES (1)"}, false},
		"goose's own questions":  {[]string{goose, "INSERT INTO goose_db_version (id) VALUES (1)", "SELECT tstamp, id FROM goose_db_version ORDER BY tstamp"}, false},
		"more than it asks":      {[]string{goose, "SELECT tstamp, datetime('now') FROM goose_db_version"}, true},
		"an altered table":       {[]string{"CREATE TABLE d (a DEFAULT CURRENT_TIMESTAMP)", "ALTER TABLE d ADD COLUMN b INTEGER DEFAULT 3", "ALTER TABLE d RENAME TO e"}, false},
		"the time":               {[]string{"INSERT INTO v VALUES (1, strftime('%s', 'now'))"}, true},
		"a default used":         {[]string{"CREATE TABLE d (a, at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)", "INSERT INTO d (a) VALUES (1)"}, true},
		"a default in one text":  {[]string{"CREATE TABLE d (a, at DEFAULT CURRENT_TIMESTAMP); INSERT INTO d (a) VALUES (1)"}, true},
		"a table of a query":     {[]string{"CREATE TABLE d AS SELECT random() AS r"}, true},
		"a trigger that runs":    {[]string{"CREATE TRIGGER tr AFTER INSERT ON v BEGIN UPDATE v SET x = Random(); END", "INSERT INTO v VALUES (1, 1)"}, true},
		"chance":                 {[]string{"UPDATE v SET x = hex(randomblob(16))"}, true},
		"a shared table":         {[]string{"INSERT INTO v SELECT id, 'x' FROM plans"}, true},
		"how many it has":        {[]string{"INSERT INTO v SELECT count(*), 'x' FROM plans"}, true},
		"whose store it is":      {[]string{"INSERT INTO v SELECT 1, owner FROM tenement_store"}, true},
		"the same, named public": {[]string{"INSERT INTO v SELECT id, 'x' FROM public.plans; SELECT 1"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			built := 0
			build := func(ctx context.Context, db *sql.DB) error {
				built++
				if _, err := db.ExecContext(ctx, "CREATE TABLE v (id INTEGER, x TEXT)"); err != nil {
					return err
				}
				tx, err := db.BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				defer func() { _ = tx.Rollback() }()
				for _, s := range c.build {
					if _, err := tx.ExecContext(ctx, s); err != nil {
						return fmt.Errorf("%s: %w", s, err)
					}
				}
				return tx.Commit()
			}
			for range 3 {
				rt := backend.Route{Store: backend.MustParseStore(fmt.Sprint("s", next.Add(1))), Owner: "me"}
				require.NoError(t, b.CreateFrom(t.Context(), rt, name, build))
				info, err := b.Stat(t.Context(), rt.Store)
				require.NoError(t, err)
				require.Equal(t, "me", info.Owner)
				mustExec(t, backend.WithRoute(t.Context(), rt), b.DB(), "INSERT INTO v VALUES (9, 9)")
			}
			if c.varies {
				require.Equal(t, 3, built)
			} else {
				require.Equal(t, 1, built)
			}
		})
	}
	t.Cleanup(func() {
		left, err := b.Leftovers(context.Background())
		require.NoError(t, err)
		require.Empty(t, left)
	})
}
