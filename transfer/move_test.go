package transfer_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

var plans = files("00001_plans.sqlite.sql", `
CREATE TABLE plans (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, next INTEGER REFERENCES plans (id));
INSERT INTO plans (name) VALUES ('free'), ('gone');`,
	"00001_plans.postgres.sql", `
CREATE TABLE plans (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, next bigint REFERENCES plans (id));
INSERT INTO plans (name) VALUES ('free'), ('gone');`)

func withPlans(c *tenancy.Config) { c.Shared = []migrate.Source{{Name: "plans", FS: plans}} }

// elsewhere opens the registry of another place as a command does.
func (p place) elsewhere(t testing.TB, url string, d backend.Dialect) place {
	be, err := backend.Open(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	app, err := p.Elsewhere(t.Context(), be)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, app.Close()) })
	return place{app, d, url}
}

// shared runs SQL in the shared store.
func (p place) shared(t testing.TB, statements ...string) {
	for _, s := range statements {
		_, err := p.Shared().ExecContext(t.Context(), s)
		require.NoError(t, err, s)
	}
}

func (p place) plans(t testing.TB) (names []string) {
	rows, err := p.Shared().QueryContext(t.Context(), `SELECT name FROM plans ORDER BY id`)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var name string
		require.NoError(t, rows.Scan(&name))
		names = append(names, name)
	}
	require.NoError(t, rows.Err())
	return names
}

// populate makes what is moved.
func (p place) populate(t testing.TB) []tenancy.Tenant {
	p.shared(t, `DELETE FROM plans WHERE name = 'gone'`, `INSERT INTO plans (name, next) VALUES ('pro', 1)`)
	thor := p.create(t, "thor", blogRows...)
	odin := p.create(t, "odin", blogRows[0])
	suspended := p.create(t, "loki", blogRows[0])
	suspended, err := p.Suspend(t.Context(), suspended.ID, "the bill")
	require.NoError(t, err)
	gone := p.create(t, "baldur")
	gone, err = p.Delete(t.Context(), gone.ID)
	require.NoError(t, err)
	return []tenancy.Tenant{thor, odin, suspended, gone}
}

// requireMoved: what is in the target is what is in the source, and the source is as it was.
func requireMoved(t *testing.T, a, b place, was []tenancy.Tenant) {
	assert.Equal(t, []string{"free", "pro"}, b.plans(t))
	for _, w := range was {
		same, err := a.ByID(t.Context(), w.ID)
		require.NoError(t, err)
		assert.Equal(t, w.Status, same.Status, "the source stays as it was")
		moved, err := b.ByID(t.Context(), w.ID)
		require.NoError(t, err)
		assert.Equal(t, []any{w.Slug, w.Name, w.Status, w.Reason, w.Store, w.Domains}, []any{moved.Slug, moved.Name, moved.Status, moved.Reason, moved.Store, moved.Domains})
		requireSame(t, transfer.InStore(a.App, w.ID), transfer.InStore(b.App, w.ID))
	}
	for _, p := range []place{a, b} {
		findings, err := p.Doctor(t.Context())
		require.NoError(t, err)
		assert.Empty(t, findings)
		ops, err := p.Operations(t.Context())
		require.NoError(t, err)
		assert.Empty(t, ops)
	}
	var there bool
	require.NoError(t, b.Shared().QueryRowContext(t.Context(), tableThere(b.dialect, "tenement_transfer")).Scan(&there))
	assert.False(t, there, "nothing is left of the move")
}

func tableThere(d backend.Dialect, name string) string {
	if d == backend.Postgres {
		return fmt.Sprintf(`SELECT to_regclass('public.%s') IS NOT NULL`, name)
	}
	return fmt.Sprintf(`SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '%s')`, name)
}

func TestMove(t *testing.T) {
	pairs(t, func(t *testing.T, from, to backend.Dialect) {
		a := newPlace(t, from, blog, withPlans)
		was := a.populate(t)
		b := a.elsewhere(t, placeURL(t, to), to)
		var kinds []transfer.MoveEventKind
		res, err := transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Parallel: 1, OnEvent: func(e transfer.MoveEvent) {
			if e.Kind == transfer.MoveTable && e.Tenant.Slug == "thor" {
				_, err := a.DB().ExecContext(backend.WithRouter(t.Context(), &was[0]), `DELETE FROM posts`)
				assert.ErrorIs(t, err, tenancy.ErrReadOnly)
				assert.Len(t, a.query(t, was[0], `SELECT id FROM posts`), 2, "reads go on")
			}
			_, err := b.BySlug(t.Context(), "thor")
			if e.Kind != transfer.MoveEnrolled {
				assert.ErrorIs(t, err, tenancy.ErrNotFound, "nobody is served from the target yet")
			}
			kinds = append(kinds, e.Kind)
		}})
		require.NoError(t, err)
		assert.True(t, res.InService)
		require.Len(t, res.Tenants, len(was))
		for i, moved := range res.Tenants {
			assert.Equal(t, was[i].ID, moved.Tenant.ID)
			assert.Equal(t, was[i].Status == tenancy.Active, moved.ReadOnly > 0)
		}
		assert.Equal(t, int64(2+3+2+1), res.Tenants[0].Rows)
		for _, kind := range []transfer.MoveEventKind{transfer.MoveStarted, transfer.MoveShared, transfer.MoveMade, transfer.MoveLoaded, transfer.MoveVerified, transfer.MoveDone, transfer.MoveEnrolled} {
			assert.Contains(t, kinds, kind)
		}
		requireMoved(t, a, b, was)

		// Numbers go on, and what was taken away is there again.
		moved, err := b.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		b.exec(t, moved, `INSERT INTO posts (author, title, made) VALUES (2, 'after', '2024-03-02 00:00:00')`)
		assert.Equal(t, []string{"4"}, b.query(t, moved, `SELECT id FROM posts WHERE title = 'after'`))
		b.shared(t, `INSERT INTO plans (name) VALUES ('new')`)
		assert.Equal(t, []string{"free", "pro", "new"}, b.plans(t))

		// What is there stays as it is there.
		_, err = transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{})
		require.ErrorIs(t, err, tenancy.ErrConflict)
		res, err = transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Resume: true, NoShared: true})
		require.NoError(t, err)
		assert.Empty(t, res.Tenants)
		assert.Len(t, b.query(t, moved, `SELECT id FROM posts`), 3)

		// And back, one by one.
		back := b.elsewhere(t, placeURL(t, from), from)
		for _, id := range []tenancy.ID{was[0].ID, was[1].ID} {
			_, err = transfer.Move(t.Context(), b.App, back.App, transfer.MoveOptions{Tenants: []tenancy.ID{id}})
			require.NoError(t, err)
		}
		assert.Equal(t, []string{"free", "pro", "new"}, back.plans(t))
		again, err := back.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		requireSame(t, transfer.InStore(b.App, again.ID), transfer.InStore(back.App, again.ID))
		_, err = transfer.Move(t.Context(), back.App, back.App, transfer.MoveOptions{})
		require.ErrorIs(t, err, transfer.ErrSamePlace)
		_, err = transfer.Move(t.Context(), a.App, openPlace(t, a.url, from, blog, withPlans).App, transfer.MoveOptions{Resume: true})
		require.ErrorIs(t, err, transfer.ErrSamePlace)
	})
}

// What is renamed in the source once it was copied is copied anew, also where one has the name now that another had.
func TestMoveWhileRenaming(t *testing.T) {
	for _, prepared := range []bool{false, true} {
		t.Run(fmt.Sprint("prepared ", prepared), func(t *testing.T) {
			pairs(t, func(t *testing.T, from, to backend.Dialect) {
				a := newPlace(t, from, blog, withPlans)
				was := a.populate(t)
				b := a.elsewhere(t, placeURL(t, to), to)
				rename := func() {
					var err error
					was[1], err = a.Rename(t.Context(), was[1].ID, "donar")
					assert.NoError(t, err)
					was[0], err = a.Rename(t.Context(), was[0].ID, "odin")
					assert.NoError(t, err)
				}
				opt := transfer.MoveOptions{Parallel: 1}
				if prepared {
					_, err := transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Prepare: true})
					require.NoError(t, err)
					rename()
					opt.Resume = true
				} else {
					opt.OnEvent = func(e transfer.MoveEvent) {
						if e.Kind == transfer.MoveMade && e.Tenant.ID == was[2].ID {
							rename()
						}
					}
				}
				res, err := transfer.Move(t.Context(), a.App, b.App, opt)
				require.NoError(t, err)
				assert.True(t, res.InService)
				require.Len(t, res.Tenants, len(was))
				for i, moved := range res.Tenants {
					assert.Equal(t, was[i].Store, moved.Tenant.Store)
				}
				requireMoved(t, a, b, was)
				require.NoError(t, b.Run(t.Context(), was[0].Ref(), tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
					_, err := b.DB().ExecContext(ctx, `DELETE FROM settings`)
					return err
				}))
			})
		})
	}
}

// What is purged in the source is not moved, whether it was copied before or not.
func TestMoveWhilePurging(t *testing.T) {
	for _, when := range []transfer.MoveEventKind{transfer.MoveStarted, transfer.MoveDone} {
		t.Run(string(when), func(t *testing.T) {
			pairs(t, func(t *testing.T, from, to backend.Dialect) {
				a := newPlace(t, from, blog, withPlans)
				was := a.populate(t)
				b := a.elsewhere(t, placeURL(t, to), to)
				gone := was[3]
				res, err := transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Parallel: 1, OnEvent: func(e transfer.MoveEvent) {
					if e.Kind == when && (e.Tenant.ID == "" || e.Tenant.ID == gone.ID) {
						assert.NoError(t, a.Purge(t.Context(), gone.ID))
					}
				}})
				require.NoError(t, err)
				assert.True(t, res.InService)
				assert.Len(t, res.Tenants, 3)
				requireMoved(t, a, b, was[:3])
				_, err = b.ByID(t.Context(), gone.ID)
				require.ErrorIs(t, err, tenancy.ErrNotFound)
				_, err = b.Backend().Stat(t.Context(), gone.Store)
				require.ErrorIs(t, err, backend.ErrStoreMissing)
			})
		})
	}
}

// Prepared while the application runs, and gone on with when it has stopped: what has changed meanwhile is copied anew.
func TestMovePrepared(t *testing.T) {
	pairs(t, func(t *testing.T, from, to backend.Dialect) {
		a := newPlace(t, from, blog, withPlans)
		was := a.populate(t)
		b := a.elsewhere(t, placeURL(t, to), to)
		res, err := transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Prepare: true})
		require.NoError(t, err)
		assert.False(t, res.InService)
		_, err = b.BySlug(t.Context(), "thor")
		require.ErrorIs(t, err, tenancy.ErrNotFound)
		_, err = transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{})
		require.ErrorIs(t, err, transfer.ErrMoveUnfinished)

		a.shared(t, `INSERT INTO plans (name) VALUES ('gone')`, `DELETE FROM plans WHERE name = 'gone'`)
		a.exec(t, was[0], `UPDATE settings SET value = 'de' WHERE name = 'language'`)
		a.exec(t, was[1], `INSERT INTO authors (name) VALUES ('Zoe')`, `DELETE FROM authors WHERE name = 'Zoe'`) // a number was given out
		renamed, err := a.Rename(t.Context(), was[2].ID, "loptr")
		require.NoError(t, err)
		require.NoError(t, a.Purge(t.Context(), was[3].ID))
		res, err = transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Resume: true})
		require.NoError(t, err)
		require.Len(t, res.Tenants, 3)
		assert.False(t, res.Tenants[0].Same)
		assert.False(t, res.Tenants[2].Same)
		requireMoved(t, a, b, []tenancy.Tenant{was[0], was[1], renamed})
		for info, err := range b.Backend().Stores(t.Context()) {
			require.NoError(t, err)
			assert.NotContains(t, []string{"loki", "baldur"}, info.Store.String())
		}
		moved, err := b.BySlug(t.Context(), "odin")
		require.NoError(t, err)
		b.exec(t, moved, `INSERT INTO authors (name) VALUES ('Yak')`)
		assert.Equal(t, []string{"5"}, b.query(t, moved, `SELECT id FROM authors WHERE name = 'Yak'`))

		// Nothing had changed: nothing is copied.
		c := a.elsewhere(t, placeURL(t, to), to)
		_, err = transfer.Move(t.Context(), a.App, c.App, transfer.MoveOptions{Prepare: true})
		require.NoError(t, err)
		res, err = transfer.Move(t.Context(), a.App, c.App, transfer.MoveOptions{Resume: true})
		require.NoError(t, err)
		for _, m := range res.Tenants {
			assert.True(t, m.Same, m.Tenant.Slug)
		}
	})
}

// A move that is gone on with under a registry from its middle does not remove what tenants were served from since.
func TestMoveUnderAnOlderRegistry(t *testing.T) {
	for name, since := range map[string]func(t *testing.T, a place, thor tenancy.Tenant){
		"moved again": func(*testing.T, place, tenancy.Tenant) {},
		"purged meanwhile": func(t *testing.T, a place, thor tenancy.Tenant) {
			_, err := a.Delete(t.Context(), thor.ID)
			require.NoError(t, err)
			require.NoError(t, a.Purge(t.Context(), thor.ID))
		},
		"renamed meanwhile": func(t *testing.T, a place, thor tenancy.Tenant) {
			_, err := a.Rename(t.Context(), thor.ID, "donar")
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			pairs(t, func(t *testing.T, from, to backend.Dialect) {
				a := newPlace(t, from, blog)
				thor := a.create(t, "thor", blogRows...)
				url := placeURL(t, to)
				b := a.elsewhere(t, url, to)
				_, err := transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{})
				require.NoError(t, err)
				b.exec(t, thor, `INSERT INTO authors (name) VALUES ('Yak')`)

				b.shared(t, `DELETE FROM tenement_domains`, `DELETE FROM tenement_tenants`, `DELETE FROM tenement_changes`,
					`CREATE TABLE tenement_transfer (tenant TEXT PRIMARY KEY, store TEXT NOT NULL)`,
					`INSERT INTO tenement_transfer (tenant, store) VALUES ('`+string(thor.ID)+`', 'thor')`)
				since(t, a, thor)
				again := a.elsewhere(t, url, to)
				res, err := transfer.Move(t.Context(), a.App, again.App, transfer.MoveOptions{Resume: true})
				require.NoError(t, err)
				require.Len(t, res.Aside, 1)
				kept, err := backend.ParseStore(res.Aside[0])
				require.NoError(t, err)
				moved := tenancy.Tenant{ID: thor.ID, Store: kept}
				assert.Len(t, again.query(t, moved, `SELECT id FROM authors WHERE name = 'Yak'`), 1)
				findings, err := again.Doctor(t.Context())
				require.NoError(t, err)
				assert.Empty(t, findings)
			})
		})
	}
}

// A move that died when it had handed stores over finds them, and what has not changed is not copied anew.
func TestMoveHandedOver(t *testing.T) {
	pairs(t, func(t *testing.T, from, to backend.Dialect) {
		a := newPlace(t, from, blog, withPlans)
		was := a.populate(t)
		b := a.elsewhere(t, placeURL(t, to), to)
		_, err := transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Prepare: true})
		require.NoError(t, err)
		arrived := backend.Route{Store: was[0].Store, Owner: tenancy.ArrivalOwner(was[0].ID)}
		require.NoError(t, b.Backend().(backend.Adopter).Restamp(t.Context(), arrived, string(was[0].ID)))
		res, err := transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Resume: true})
		require.NoError(t, err)
		assert.Equal(t, []bool{true, true, true, true}, same(res))
		assert.Empty(t, res.Aside)
		requireMoved(t, a, b, was)
	})
}

// What a move has brought and has not put into service yet is nobody's to adopt.
func TestDoctorBesideAMove(t *testing.T) {
	pairs(t, func(t *testing.T, from, to backend.Dialect) {
		a := newPlace(t, from, blog)
		thor := a.create(t, "thor", blogRows...)
		b := a.elsewhere(t, placeURL(t, to), to)
		_, err := transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Prepare: true})
		require.NoError(t, err)
		findings, err := b.Doctor(t.Context())
		require.NoError(t, err)
		require.Len(t, findings, 1)
		assert.Equal(t, tenancy.FindingArrival, findings[0].Code)
		assert.Empty(t, findings[0].Repair)
		require.ErrorIs(t, b.Repair(t.Context(), findings[0]), tenancy.ErrNoRepair)
		findings[0].Code = tenancy.FindingStoreOrphan // as one that an earlier version has found
		require.NoError(t, b.Repair(t.Context(), findings[0]))
		_, err = b.ByID(t.Context(), thor.ID)
		require.ErrorIs(t, err, tenancy.ErrNotFound)

		a.exec(t, thor, `INSERT INTO authors (name) VALUES ('Yak')`)
		_, err = transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Resume: true})
		require.NoError(t, err)
		assert.Len(t, b.query(t, thor, `SELECT id FROM authors WHERE name = 'Yak'`), 1)
	})
}

// What cannot be moved does not keep the others, is named, and puts nobody into service; mended, the move goes on.
func TestMoveFails(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.SQLite, blog, withPlans)
	was := a.populate(t)
	a.exec(t, was[1], `UPDATE authors SET name = 'a' || char(0) WHERE id = 1`)
	b := a.elsewhere(t, placeURL(t, backend.Postgres), backend.Postgres)
	_, err := transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{})
	var many *transfer.MoveError
	require.ErrorAs(t, err, &many)
	require.Len(t, many.Failures, 1)
	assert.Equal(t, "odin", many.Failures[0].Tenant.Slug)
	assert.ErrorIs(t, err, transfer.ErrValue)
	_, err = b.BySlug(t.Context(), "thor")
	require.ErrorIs(t, err, tenancy.ErrNotFound)
	a.exec(t, was[1], `UPDATE authors SET name = 'a' WHERE id = 1`)
	res, err := transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Resume: true})
	require.NoError(t, err)
	assert.Equal(t, []bool{true, false, true, true}, same(res))
	requireMoved(t, a, b, was)

	// A name that is taken is said before anything is made.
	c := a.elsewhere(t, placeURL(t, backend.Postgres), backend.Postgres)
	other := c.create(t, "other")
	_, err = c.AddDomain(t.Context(), other.ID, "odin.example")
	require.NoError(t, err)
	_, err = c.RemoveDomain(t.Context(), other.ID, "other.example")
	require.NoError(t, err)
	_, err = transfer.Move(t.Context(), a.App, c.App, transfer.MoveOptions{})
	require.ErrorIs(t, err, tenancy.ErrDomainTaken)
	_, err = transfer.Move(t.Context(), a.App, c.App, transfer.MoveOptions{Tenants: []tenancy.ID{was[0].ID}})
	require.ErrorIs(t, err, transfer.ErrSharedDiffer, "another tenant sees those of the target")
	_, err = transfer.Move(t.Context(), a.App, c.App, transfer.MoveOptions{Tenants: []tenancy.ID{was[0].ID, was[0].ID}, NoShared: true})
	require.NoError(t, err)
	assert.Equal(t, []string{"free", "gone"}, c.plans(t))
}

// What is loaded waits for the disk once, at the end: a server that failed before that may have forgotten some of it, and the
// move ends, whatever it was at.
func TestMoveServerFails(t *testing.T) {
	t.Parallel()
	pgtest.Shared(t) // or there is none
	for _, after := range []int{1, 4} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			t.Parallel()
			server, err := pgtest.Start(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, server.Stop()) })
			url, _, err := server.NewDatabase(t.Context())
			require.NoError(t, err)
			a := newPlace(t, backend.SQLite, blog, withPlans)
			was := a.populate(t)
			b := a.elsewhere(t, url, backend.Postgres)
			done := 0
			_, err = transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Parallel: 1, OnEvent: func(e transfer.MoveEvent) {
				if e.Kind != transfer.MoveDone {
					return
				}
				if done++; done == after {
					assert.NoError(t, server.Kill(t.Context()))
					assert.NoError(t, server.Revive(t.Context()))
					// No connection of the pool is one that was cut: what was loaded is not seen to be in danger by any other statement.
					assert.Eventually(t, func() bool {
						var g errgroup.Group
						for range 8 {
							g.Go(func() error {
								_, err := b.Shared().ExecContext(t.Context(), `SELECT pg_sleep(0.05)`)
								return err
							})
						}
						return g.Wait() == nil
					}, time.Minute, time.Millisecond)
				}
			}})
			require.Error(t, err)
			if after == len(was) {
				require.ErrorIs(t, err, backend.ErrLockLost)
			}
			_, err = b.BySlug(t.Context(), "thor")
			require.ErrorIs(t, err, tenancy.ErrNotFound, "nobody is served from the target yet")
			_, err = transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Resume: true})
			require.NoError(t, err)
			requireMoved(t, a, b, was)
		})
	}
}

func same(res *transfer.MoveResult) (list []bool) {
	for _, m := range res.Tenants {
		list = append(list, m.Same)
	}
	return slices.Clip(list)
}
