package tenancy

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/postgres"
	_ "github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/internal/leak"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
)

func TestMain(m *testing.M) {
	if isVictim() {
		os.Exit(victim())
	}
	leak.Main(m)
}

// files makes migrations from text.
func files(nameAndText ...string) fs.FS {
	m := fstest.MapFS{}
	for i := 0; i < len(nameAndText); i += 2 {
		m[nameAndText[i]] = &fstest.MapFile{Data: []byte(nameAndText[i+1])}
	}
	return m
}

const pollsUp = "-- +goose Up\nCREATE TABLE polls (question TEXT PRIMARY KEY);\n-- +goose Down\nDROP TABLE polls;\n"

func polls() migrate.Source {
	return migrate.Source{Name: "polls", FS: files("00001_polls.sql", pollsUp)}
}

// longerPolls is the next version of polls.
func longerPolls() migrate.Source {
	return migrate.Source{Name: "polls", FS: files("00001_polls.sql", pollsUp,
		"00002_open.sql", "-- +goose Up\nALTER TABLE polls ADD COLUMN open INTEGER;\n-- +goose Down\nALTER TABLE polls DROP COLUMN open;\n")}
}

func plans() migrate.Source {
	return migrate.Source{Name: "plans", FS: files("00001_plans.sql",
		"-- +goose Up\nCREATE TABLE plans (name TEXT PRIMARY KEY);\n-- +goose Down\nDROP TABLE plans;\n")}
}

// place is where a test keeps its stores.
type place struct {
	url string
	be  backend.Backend
}

// onEach runs a test on each backend, and on a Citus cluster where there is one, in a place of its own.
func onEach(t *testing.T, test func(t *testing.T, p place)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, newPlace(t, "sqlite:"+t.TempDir()))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, newPlace(t, pgtest.Shared(t).Database(t)))
	})
	if pgtest.HasCitus() {
		t.Run("citus", func(t *testing.T) {
			t.Parallel()
			test(t, newPlace(t, pgtest.Citus(t).Database(t)))
		})
	}
}

func newPlace(t testing.TB, url string) place {
	p := place{url: url}
	p.be = p.backend(t)
	return p
}

// newPlaceLike makes another place of the same kind.
func newPlaceLike(t testing.TB, p place) place {
	if p.be.Dialect() == backend.SQLite {
		return newPlace(t, "sqlite:"+t.TempDir())
	}
	return newPlace(t, pgtest.Shared(t).Database(t))
}

// backend opens the place once more, as another process would.
func (p place) backend(t testing.TB) backend.Backend {
	be, err := backend.Open(t.Context(), p.url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	return be
}

// config is the least that most tests need. Nothing is polled unless asked for, so a purge waits for nobody.
func config() Config {
	return Config{
		Shared: []migrate.Source{plans()}, Tenant: []migrate.Source{polls()},
		PollInterval: time.Hour,
	}
}

func open(t testing.TB, be backend.Backend, change ...func(*Config)) *App {
	cfg := config()
	for _, f := range change {
		f(&cfg)
	}
	a, err := Open(t.Context(), be, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	return a
}

func create(t testing.TB, a *App, slug string, domains ...string) Tenant {
	tenant, err := a.Create(t.Context(), Spec{Slug: slug, Domains: domains})
	require.NoError(t, err)
	return tenant
}

func ask(t testing.TB, a *App, ctx context.Context, question string) {
	_, err := a.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ($1)", question)
	require.NoError(t, err)
}

func questions(t testing.TB, a *App, ctx context.Context) []string {
	rows, err := a.DB().QueryContext(ctx, "SELECT question FROM polls ORDER BY question")
	require.NoError(t, err)
	defer rows.Close()
	asked := []string{}
	for rows.Next() {
		var q string
		require.NoError(t, rows.Scan(&q))
		asked = append(asked, q)
	}
	require.NoError(t, rows.Err())
	return asked
}

// enter is past the door: in whatever state the tenant is.
func enter(t testing.TB, tenant Tenant) context.Context {
	return backend.WithRouter(t.Context(), &tenant)
}

// into is the door for those who never leave.
func into(a *App, ctx context.Context, who Referrer) (context.Context, error) {
	ctx, _, _, err := a.Enter(ctx, who, Policy{KeepGoing: true})
	return ctx, err
}

// visit is App.Run for a slug, as a request would have it.
func visit(a *App, ctx context.Context, slug string, fn func(ctx context.Context) error) error {
	t, err := a.ResolveSlug(Leave(ctx), slug)
	if err != nil {
		return err
	}
	return a.Run(ctx, t, Policy{}, func(ctx context.Context, _ *Tenant) error { return fn(ctx) })
}

// id is that of the tenant of a slug, empty when there is none.
func id(t testing.TB, a *App, slug string) ID {
	tenant, err := a.BySlug(t.Context(), slug)
	if !errors.Is(err, ErrNotFound) {
		require.NoError(t, err)
	}
	return tenant.ID
}

func requireHealthy(t testing.TB, a *App) {
	findings, err := a.Doctor(t.Context())
	require.NoError(t, err)
	require.Empty(t, findings)
}
