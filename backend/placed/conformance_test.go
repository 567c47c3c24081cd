package placed_test

import (
	"context"
	"net/url"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/backendtest"
	"github.com/tenement-go/tenement/backend/placed"
	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/internal/leak"
	"github.com/tenement-go/tenement/internal/pgtest"

	_ "github.com/tenement-go/tenement/backend/postgres"
)

func TestMain(m *testing.M) { leak.Main(m) }

// open opens a backend of two places.
func open(t testing.TB, home, there placed.Place) *placed.Backend {
	t.Helper()
	be, err := placed.Open(t.Context(), placed.Config{Places: []placed.Place{home, there}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	return be
}

// with returns a database URL with one more parameter.
func with(t testing.TB, databaseURL, name, value string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// Two databases of one server. The stores of a case are in both in turn.
func TestConformancePostgres(t *testing.T) {
	t.Parallel()
	backendtest.Run(t, backendtest.Config{
		New: func(t testing.TB) func(int) backend.Backend {
			urls := []string{pgtest.Shared(t).Database(t), pgtest.Shared(t).Database(t)}
			return func(maxConns int) backend.Backend {
				var places []placed.Place
				for i, u := range urls {
					if maxConns > 0 {
						u = with(t, u, "pool_max_conns", strconv.Itoa(maxConns))
					}
					places = append(places, placed.Place{Name: []string{"home", "eu"}[i], URL: u})
				}
				return open(t, places[0], places[1])
			}
		},
		Foreign: func(ctx context.Context, be backend.Backend, s backend.Store) error {
			_, err := be.(*placed.Backend).In("eu").Shared().ExecContext(ctx, `CREATE SCHEMA "`+s.String()+`" CREATE TABLE notes (id int, mark text);
				INSERT INTO "`+s.String()+`".notes VALUES (1, 'stray')`)
			return err
		},
		SharedReadOnly: true,
	})
}

// Two directories.
func TestConformanceSQLite(t *testing.T) {
	t.Parallel()
	backendtest.Run(t, backendtest.Config{
		New: func(t testing.TB) func(int) backend.Backend {
			dir := t.TempDir()
			return func(maxConns int) backend.Backend {
				if maxConns >= 8 {
					maxConns = 40 // see package sqlite's own
				}
				var places []placed.Place
				for _, name := range []string{"home", "eu"} {
					b, err := sqlite.Open(t.Context(), filepath.Join(dir, name), sqlite.Config{MaxOpenStores: maxConns, Synchronous: sqlite.Off})
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, b.Close()) })
					places = append(places, placed.Place{Name: name, Backend: b})
				}
				return open(t, places[0], places[1])
			}
		},
		SharedReadOnly: true,
		StoresApart:    true,
	})
}
