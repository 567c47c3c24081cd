package placed_test

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/backend/placed"
	"github.com/tenement-go/tenement/internal/pgtest"
)

// onEach runs a test on two places of each kind, which can be opened more than once.
func onEach(t *testing.T, test func(t *testing.T, home, eu placed.Place)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, placed.Place{Name: "home", URL: "sqlite:" + t.TempDir()}, placed.Place{Name: "eu", URL: "sqlite:" + t.TempDir()})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, placed.Place{Name: "home", URL: pgtest.Shared(t).Database(t)}, placed.Place{Name: "eu", URL: pgtest.Shared(t).Database(t)})
	})
}

// askedHome is a home that does something first when it is asked where a store is.
type askedHome struct {
	backend.Backend
	backend.Locker
	backend.ScriptRunner
	src    driver.Source
	shared *sql.DB
	first  func()
}

func newAskedHome(t *testing.T, p placed.Place) *askedHome {
	t.Helper()
	be, err := backend.Open(t.Context(), p.URL)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	h := &askedHome{Backend: be, Locker: be.(backend.Locker), ScriptRunner: be.(backend.ScriptRunner), src: be.(driver.Sourcer).Source(), first: func() {}}
	h.shared = driver.OpenDB(askedSource{h.src, h}, backend.Route{}, driver.AccessShared)
	t.Cleanup(func() { require.NoError(t, h.shared.Close()) })
	return h
}

func (h *askedHome) Source() driver.Source { return h.src }
func (h *askedHome) Shared() *sql.DB       { return h.shared }

type askedSource struct {
	driver.Source
	h *askedHome
}

func (s askedSource) Session(ctx context.Context, rt backend.Route, access driver.Access) (driver.Session, error) {
	sess, err := s.Source.Session(ctx, rt, access)
	return askedSession{sess, s.h}, err
}

type askedSession struct {
	driver.Session
	h *askedHome
}

func (s askedSession) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	if strings.HasPrefix(query, "SELECT place FROM tenement_places WHERE store") {
		s.h.first()
	}
	return s.Session.QueryContext(ctx, query, args)
}

// A store that another process has moved is renamed where it is, also while others look for stores that there are not,
// for which what home has just said is not remembered.
func TestRenameOfAMovedStore(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, home, eu placed.Place) {
		one := open(t, home, eu)
		h := newAskedHome(t, home)
		other := open(t, placed.Place{Name: "home", Backend: h}, eu)
		a, b, ghost := route("a"), route("b").Store, route("ghost").Store
		require.NoError(t, one.Create(backend.WithPlace(t.Context(), "home"), a))
		_, err := other.Stat(t.Context(), a.Store)
		require.NoError(t, err)
		move(t, one, a, "eu")

		asking := false
		h.first = func() {
			if asking {
				return
			}
			asking = true
			_, err := other.Stat(t.Context(), ghost)
			require.ErrorIs(t, err, backend.ErrStoreMissing)
			asking = false
		}
		require.NoError(t, other.Rename(t.Context(), a, b))
		for name, be := range map[string]*placed.Backend{"one": one, "other": other} {
			at, err := be.PlaceOf(t.Context(), b)
			require.NoError(t, err, name)
			require.Equal(t, "eu", at, name)
			_, err = be.Stat(t.Context(), b)
			require.NoError(t, err, name)
		}
	})
}

// COPY, and whoever asks for the driver's own connection, go on where the store is now as statements do, within a
// transaction that has sent nothing.
func TestFirstThingOfAMovedStore(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, home, eu placed.Place) {
		one, other := open(t, home, eu), open(t, home, eu)
		for name, first := range map[string]func(t *testing.T, conn *sql.Conn){
			"raw": func(t *testing.T, conn *sql.Conn) {
				var raw any
				require.NoError(t, conn.Raw(func(c any) error {
					raw = c.(driver.Rawer).Raw()
					return nil
				}))
				require.NotNil(t, raw)
			},
			"copy out": func(t *testing.T, conn *sql.Conn) {
				var out strings.Builder
				require.NoError(t, conn.Raw(func(c any) error {
					_, err := c.(driver.Copier).CopyOut(t.Context(), &out, `COPY notes TO STDOUT`)
					return err
				}))
				require.Equal(t, "1\n", out.String())
			},
			"copy in": func(t *testing.T, conn *sql.Conn) {
				require.NoError(t, conn.Raw(func(c any) error {
					_, err := c.(driver.Copier).CopyIn(t.Context(), strings.NewReader("2\n"), `COPY notes FROM STDIN`)
					return err
				}))
			},
		} {
			if strings.HasPrefix(name, "copy") && one.Dialect() != backend.Postgres {
				continue
			}
			t.Run(name, func(t *testing.T) {
				rt := route(strings.ReplaceAll(name, " ", "-"))
				ctx := backend.WithRoute(t.Context(), rt)
				require.NoError(t, one.Create(backend.WithPlace(t.Context(), "home"), rt))
				_, err := other.Stat(t.Context(), rt.Store)
				require.NoError(t, err)
				move(t, one, rt, "eu")
				_, err = one.DB().ExecContext(ctx, `CREATE TABLE notes (id int); INSERT INTO notes VALUES (1)`)
				require.NoError(t, err)

				conn, err := other.DB().Conn(ctx)
				require.NoError(t, err)
				defer func() { _ = conn.Close() }()
				tx, err := conn.BeginTx(ctx, nil)
				require.NoError(t, err)
				defer func() { _ = tx.Rollback() }()
				first(t, conn)
				require.NoError(t, tx.Commit())
				require.NoError(t, conn.Close())
				at, err := other.PlaceOf(t.Context(), rt.Store)
				require.NoError(t, err)
				require.Equal(t, "eu", at)
				if name == "copy in" {
					var n int
					require.NoError(t, one.DB().QueryRowContext(ctx, `SELECT count(*) FROM notes`).Scan(&n))
					require.Equal(t, 2, n)
				}
			})
		}
	})
}

// move makes a store anew in another place.
func move(t *testing.T, be *placed.Backend, rt backend.Route, place string) {
	t.Helper()
	require.NoError(t, be.Drop(t.Context(), rt))
	require.NoError(t, be.Create(backend.WithPlace(t.Context(), place), rt))
}
