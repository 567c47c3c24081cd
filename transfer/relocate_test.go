package transfer_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	_ "github.com/tenement-go/tenement/backend/placed"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// A tenant that is written to all the time is moved there and back: what was acknowledged is there, and nothing else.
func TestRelocateUnderLoad(t *testing.T) {
	t.Parallel()
	for _, dialect := range []backend.Dialect{backend.SQLite, backend.Postgres} {
		t.Run(string(dialect), func(t *testing.T) {
			t.Parallel()
			two := "placed:?home=" + url.QueryEscape(placeURL(t, dialect)) + "&eu=" + url.QueryEscape(placeURL(t, dialect))
			source := files("00001_notes.sql", "CREATE TABLE notes (id TEXT PRIMARY KEY);")
			// A change counts as heard after twice that. Whoever hears of it later than that, on a busy machine, writes to what
			// was copied already.
			often := func(c *tenancy.Config) { c.PollInterval = time.Second }
			apps := []place{openPlace(t, two, dialect, source, often), openPlace(t, two, dialect, source, often)}
			p := apps[0]
			thor, err := p.Create(t.Context(), tenancy.Spec{Slug: "thor", Place: "home"})
			require.NoError(t, err)

			var wg sync.WaitGroup
			ctx, stop := context.WithCancel(t.Context())
			acknowledged := make([][]string, 4)
			for w := range acknowledged {
				app := apps[w%2]
				wg.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						id := fmt.Sprintf("w%d-%06d", w, i)
						err := app.write1(thor.Slug, id)
						if err == nil {
							acknowledged[w] = append(acknowledged[w], id)
						}
					}
				})
			}
			for _, to := range []string{"eu", "home"} {
				require.NoError(t, p.write1s(thor.Slug, "before "+to))
				aside, err := transfer.Relocate(t.Context(), p.App, thor.ID, to, transfer.RelocateOptions{TempDir: t.TempDir()})
				require.NoError(t, err)
				where, err := p.PlaceOf(t.Context(), thor)
				require.NoError(t, err)
				require.Equal(t, to, where)
				require.NoError(t, p.write1s(thor.Slug, "after "+to))
				require.NoError(t, p.PurgeAside(t.Context(), aside.Store))
			}
			stop()
			wg.Wait()
			want := append(slices.Concat(acknowledged...), "before eu", "after eu", "before home", "after home")
			got := p.query(t, thor, `SELECT id FROM notes`)
			for _, id := range want {
				if !assert.Contains(t, got, id, "acknowledged and lost") {
					break
				}
			}
			findings, err := p.Doctor(t.Context())
			require.NoError(t, err)
			require.Empty(t, findings)
			var field *tenancy.FieldError
			_, err = transfer.Relocate(t.Context(), p.App, thor.ID, "home", transfer.RelocateOptions{})
			require.ErrorAs(t, err, &field)
		})
	}
}

// A place that does not answer is refused before anything has changed.
func TestRelocateToAPlaceThatIsDown(t *testing.T) {
	t.Parallel()
	for dialect, down := range map[backend.Dialect]string{
		backend.SQLite:   "sqlite:" + filepath.Join(os.Args[0], "no directory"),
		backend.Postgres: "postgres://nobody@127.0.0.1:1/app?sslmode=disable", // where nobody listens
	} {
		t.Run(string(dialect), func(t *testing.T) {
			t.Parallel()
			home, source := "placed:?home="+url.QueryEscape(placeURL(t, dialect))+"&eu=", files("00001_notes.sql", "CREATE TABLE notes (id TEXT PRIMARY KEY);")
			openPlace(t, home+url.QueryEscape(placeURL(t, dialect)), dialect, source) // it was up once
			p := openPlace(t, home+url.QueryEscape(down), dialect, source)
			thor := p.create(t, "thor")
			_, err := transfer.Relocate(t.Context(), p.App, thor.ID, "eu", transfer.RelocateOptions{TempDir: t.TempDir()})
			require.ErrorIs(t, err, backend.ErrUnreachable)
			now, err := p.ByID(t.Context(), thor.ID)
			require.NoError(t, err)
			require.Equal(t, thor, now)
			ops, err := p.Operations(t.Context())
			require.NoError(t, err)
			require.Empty(t, ops)
		})
	}
}

// write1 writes one row as a request would.
func (p place) write1(slug, id string) error {
	ctx := context.Background()
	t, err := p.ResolveSlug(ctx, slug)
	if err != nil {
		return err
	}
	return p.Run(ctx, t, tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
		_, err := p.DB().ExecContext(ctx, `INSERT INTO notes (id) VALUES ($1)`, id)
		return err
	})
}

// write1s is write1 until the tenant can be written to.
func (p place) write1s(slug, id string) error {
	for begun := time.Now(); ; {
		if err := p.write1(slug, id); err == nil || time.Since(begun) > time.Minute {
			return err
		}
	}
}
