package tenancy

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// S20
func TestCreate(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		type plan struct {
			Plan string `json:"plan"`
		}
		var inHook []string
		var a *App
		a = open(t, p.be, func(c *Config) {
			c.Hooks.OnCreate = func(ctx context.Context, tenant Tenant, _ Seed) error {
				_, err := a.ResolveSlug(ctx, "thor")
				require.NoError(t, err)
				_, _, _, err = a.Enter(Leave(ctx), &tenant, Policy{})
				require.ErrorIs(t, err, ErrNotActive, "nobody is served before the tenant is whole")
				ask(t, a, ctx, "Hammer?")
				inHook = questions(t, a, ctx)
				return nil
			}
		})
		thor, err := a.Create(t.Context(), Spec{
			Slug: "thor", Name: "Thor", Domains: []string{"Thor.Polls.example", "thor.example"}, Meta: plan{"gold"},
		})
		require.NoError(t, err)
		require.Equal(t, []string{"Hammer?"}, inHook)
		require.Equal(t, Active, thor.Status)
		require.Equal(t, "thor.polls.example", thor.PrimaryDomain())
		require.Equal(t, "thor", thor.Store.String())

		read, err := a.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		require.Equal(t, thor, read, "what Create returned is what the registry has")
		meta, err := MetaAs[plan](read)
		require.NoError(t, err)
		require.Equal(t, plan{"gold"}, meta)

		name := "Thor the Second"
		edited, err := a.Update(t.Context(), thor.ID, Patch{Name: &name, Meta: plan{"silver"}})
		require.NoError(t, err)
		require.Equal(t, name, edited.Name)
		require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, edited)), "editing keeps the data")
		requireHealthy(t, a)
	})
}

// S21
func TestCreateRefused(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor", "thor.example")

		for _, c := range []struct {
			spec  Spec
			field string
			is    error
		}{
			{Spec{Slug: "thor"}, "slug", ErrSlugTaken},
			{Spec{Slug: "odin", Domains: []string{"odin.example", "THOR.example."}}, "domain", ErrDomainTaken},
			{Spec{Slug: "odin", Store: "thor"}, "store", ErrStoreTaken},
		} {
			_, err := a.Create(t.Context(), c.spec)
			var conflict *ConflictError
			require.ErrorAs(t, err, &conflict)
			require.Equal(t, c.field, conflict.Field)
			require.Equal(t, "thor", conflict.By)
			require.ErrorIs(t, err, c.is)
			require.ErrorIs(t, err, ErrConflict)
		}
		for _, c := range []struct {
			spec  Spec
			field string
		}{
			{Spec{Slug: "Thor"}, "slug"},
			{Spec{Slug: "th_or"}, "slug"},
			{Spec{Slug: "thor-"}, "slug"},
			{Spec{Slug: "public"}, "slug"},
			{Spec{Slug: ""}, "slug"},
			{Spec{Slug: "xn--thor"}, "slug"},
			{Spec{Slug: string(thor.ID)}, "slug"},
			{Spec{Slug: "odin", Name: "O\x00din"}, "name"},
			{Spec{Slug: "odin", Domains: []string{"o din.example"}}, "domain"},
			{Spec{Slug: "odin", Domains: []string{"xn--a.example"}}, "domain"},
			{Spec{Slug: "odin", Store: "a.b"}, "store"},
			{Spec{Slug: "odin", Meta: []int{1}}, "meta"},
			{Spec{Slug: "odin", Meta: map[string]string{"a": "\x00"}}, "meta"},
			{Spec{Slug: "odin", Meta: make(chan int)}, "meta"},
		} {
			_, err := a.Create(t.Context(), c.spec)
			var field *FieldError
			require.ErrorAs(t, err, &field, "%+v", c.spec)
			require.Equal(t, c.field, field.Field, "%+v", c.spec)
			require.NotEmpty(t, field.Rule)
			require.ErrorIs(t, err, ErrInvalid)
		}
		_, err := a.BySlug(t.Context(), "odin")
		require.ErrorIs(t, err, ErrNotFound)

		// A store that no tenant knows of is nobody's to take.
		require.NoError(t, p.be.Create(t.Context(), backend.Route{Store: backend.MustParseStore("loki"), Owner: "someone"}))
		_, err = a.Create(t.Context(), Spec{Slug: "loki"})
		require.ErrorIs(t, err, ErrStoreTaken)
		require.ErrorContains(t, err, "adopt it, or set it aside")
		_, err = a.BySlug(t.Context(), "loki")
		require.ErrorIs(t, err, ErrNotFound, "nothing stays of the claim")
		now, err := a.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		require.Equal(t, thor, now)
	})
}

// S22
func TestCreateFails(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		t.Run("OnCreate", func(t *testing.T) {
			broken := errors.New("no hammer")
			fail := true
			var a *App
			a = open(t, p.be, func(c *Config) {
				c.Hooks.OnCreate = func(ctx context.Context, tenant Tenant, _ Seed) error {
					ask(t, a, ctx, "Hammer?") // would be there twice if what failed stayed
					if fail {
						return broken
					}
					return nil
				}
			})
			spec := Spec{Slug: "thor", Domains: []string{"thor.example"}}
			_, err := a.Create(t.Context(), spec)
			require.ErrorIs(t, err, broken)
			failed, err := a.Resolve(t.Context(), "thor.example")
			require.NoError(t, err)
			require.Equal(t, Failed, failed.Status)
			require.Contains(t, failed.Reason, "no hammer")
			_, _, _, err = a.Enter(t.Context(), failed, Policy{})
			require.ErrorIs(t, err, ErrNotActive)

			fail = false
			thor, err := a.Create(t.Context(), spec)
			require.NoError(t, err)
			require.Equal(t, failed.ID, thor.ID)
			require.Empty(t, thor.Reason)
			require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, thor)))
			requireHealthy(t, a)
		})
		t.Run("migration", func(t *testing.T) {
			be := newPlaceLike(t, p).be
			bad := open(t, be, func(c *Config) {
				c.Tenant = []migrate.Source{{Name: "polls", FS: files("00001_polls.sql", "-- +goose Up\nCREATE TABLE polls (question TEXT PRIMARY KEY);\nINSERT INTO nowhere VALUES (1);\n")}}
			})
			_, err := bad.Create(t.Context(), Spec{Slug: "thor"})
			require.Error(t, err)
			require.ErrorContains(t, err, "nowhere")
			thor, err := bad.BySlug(t.Context(), "thor")
			require.NoError(t, err)
			require.Equal(t, Failed, thor.Status)
			require.Contains(t, thor.Reason, "nowhere")

			good := open(t, be)
			thor, err = good.Create(t.Context(), Spec{Slug: "thor"})
			require.NoError(t, err)
			ask(t, good, enter(t, thor), "Hammer?")
			requireHealthy(t, good)
		})
	})
}

// S24
func TestCreateAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		apps := []*App{open(t, p.be), open(t, p.backend(t))}
		var (
			group   sync.WaitGroup
			mu      sync.Mutex
			made    int
			refused int
		)
		for i := range 8 {
			group.Go(func() {
				_, err := apps[i%2].Create(t.Context(), Spec{Slug: "thor", Domains: []string{"thor.example"}})
				mu.Lock()
				defer mu.Unlock()
				var conflict *ConflictError
				switch {
				case err == nil:
					made++
				case errors.As(err, &conflict) && conflict.Field == "slug" && conflict.Value == "thor":
					refused++
				default:
					assert.NoError(t, err)
				}
			})
		}
		group.Wait()
		require.Equal(t, 1, made)
		require.Equal(t, 7, refused)
		requireHealthy(t, apps[0])
	})
}

// S25
func TestRename(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor", "thor.example")
		create(t, a, "odin")
		before := thor.Route()
		old := enter(t, thor)
		ask(t, a, old, "Hammer?")
		other := open(t, p.backend(t)) // another process, in which a job is at work
		there, _, leave, err := other.Enter(t.Context(), thor.Ref(), Policy{})
		require.NoError(t, err)
		defer leave()

		_, err = a.Rename(t.Context(), id(t, a, "thor"), "odin")
		require.ErrorIs(t, err, ErrSlugTaken)
		_, err = a.Rename(t.Context(), id(t, a, "thor"), "Donar")
		require.ErrorIs(t, err, ErrInvalid)
		_, err = a.Rename(t.Context(), id(t, a, "nobody"), "donar")
		require.ErrorIs(t, err, ErrNotFound)

		donar, err := a.Rename(t.Context(), id(t, a, "thor"), "donar")
		require.NoError(t, err)
		require.Equal(t, "donar", donar.Store.String())
		require.Equal(t, thor.ID, donar.ID)
		require.Equal(t, thor.Domains, donar.Domains)
		require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, donar)))

		// Who is inside follows, in another process once it has heard.
		ask(t, a, old, "And now?")
		require.NoError(t, other.Refresh(t.Context()))
		require.Equal(t, []string{"And now?", "Hammer?"}, questions(t, other, there))
		now, ok := From(there)
		require.True(t, ok)
		require.Equal(t, "donar", now.Slug)

		// The old name is free, and those who knew it do not reach the new tenant.
		again := create(t, a, "thor")
		ask(t, a, old, "Still?")
		require.Empty(t, questions(t, a, enter(t, again)))
		_, err = a.DB().ExecContext(backend.WithRoute(t.Context(), before), "INSERT INTO polls (question) VALUES ('lost?')")
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		require.Empty(t, questions(t, a, enter(t, again)))

		// A store that is not named after the slug stays.
		_, err = a.Create(t.Context(), Spec{Slug: "loki", Store: "jotun"})
		require.NoError(t, err)
		asgard, err := a.Rename(t.Context(), id(t, a, "loki"), "loptr")
		require.NoError(t, err)
		require.Equal(t, "jotun", asgard.Store.String())

		// A store in the way, of which the registry does not know.
		require.NoError(t, p.be.Create(t.Context(), backend.Route{Store: backend.MustParseStore("tyr"), Owner: "someone"}))
		_, err = a.Rename(t.Context(), id(t, a, "donar"), "tyr")
		require.ErrorIs(t, err, ErrStoreTaken)
		donar, err = a.BySlug(t.Context(), "donar")
		require.NoError(t, err, "nothing changed")
		require.Contains(t, questions(t, a, enter(t, donar)), "Hammer?")
		require.NoError(t, p.be.Drop(t.Context(), backend.Route{Store: backend.MustParseStore("tyr")}))
		requireHealthy(t, a)
	})
}

// S26, S27
func TestDeleteRestorePurge(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		files := t.TempDir()
		a := open(t, p.be, func(c *Config) { c.FilesDir = files })
		thor := create(t, a, "thor", "thor.example")
		old := enter(t, thor)
		ask(t, a, old, "Hammer?")
		stmt, err := a.DB().PrepareContext(old, "SELECT question FROM polls")
		require.NoError(t, err)
		defer stmt.Close()
		pinned := p.be.DBFor(thor.Route())
		defer pinned.Close()
		key, err := Key(old, "front page")
		require.NoError(t, err)
		dir, err := a.Dir(old)
		require.NoError(t, err)
		require.NoError(t, dir.WriteFile("logo", []byte("hammer"), 0o600))
		require.NoError(t, dir.Close())

		require.ErrorIs(t, a.Purge(t.Context(), id(t, a, "thor")), ErrStatus, "only what is deleted can be purged")
		_, err = a.Suspend(t.Context(), id(t, a, "thor"), "unpaid")
		require.NoError(t, err)
		deleted, err := a.Delete(t.Context(), id(t, a, "thor"))
		require.NoError(t, err)
		require.Equal(t, Deleted, deleted.Status)
		_, err = a.Create(t.Context(), Spec{Slug: "thor"})
		require.ErrorIs(t, err, ErrSlugTaken)
		_, err = a.Create(t.Context(), Spec{Slug: "odin", Domains: []string{"thor.example"}})
		require.ErrorIs(t, err, ErrDomainTaken)

		restored, err := a.Restore(t.Context(), id(t, a, "thor"))
		require.NoError(t, err)
		require.Equal(t, Suspended, restored.Status, "as it was before")
		_, err = a.Activate(t.Context(), id(t, a, "thor"))
		require.NoError(t, err)
		require.Equal(t, []string{"Hammer?"}, questions(t, a, old))

		_, err = a.Delete(t.Context(), id(t, a, "thor"))
		require.NoError(t, err)
		require.NoError(t, a.Purge(t.Context(), id(t, a, "thor")))
		_, err = a.BySlug(t.Context(), "thor")
		require.ErrorIs(t, err, ErrNotFound)
		_, err = a.Resolve(t.Context(), "thor.example")
		require.ErrorIs(t, err, ErrUnknownHost)
		requireHealthy(t, a)
		require.ErrorIs(t, a.Purge(t.Context(), id(t, a, "thor")), ErrNotFound)

		again := create(t, a, "thor", "thor.example")
		require.NotEqual(t, thor.ID, again.ID)
		require.Empty(t, questions(t, a, enter(t, again)))
		for name, try := range map[string]func() error{
			"context":  func() error { _, err := a.DB().ExecContext(old, "INSERT INTO polls VALUES ('ghost')"); return err },
			"prepared": func() error { _, err := stmt.ExecContext(old); return err },
			"pinned": func() error {
				_, err := pinned.ExecContext(t.Context(), "INSERT INTO polls VALUES ('ghost')")
				return err
			},
		} {
			require.ErrorIs(t, try(), backend.ErrStoreMissing, name)
		}
		require.Empty(t, questions(t, a, enter(t, again)))
		newKey, err := Key(enter(t, again), "front page")
		require.NoError(t, err)
		require.NotEqual(t, key, newKey)
		_, err = a.Dir(old)
		require.ErrorIs(t, err, ErrNotFound)
		dir, err = a.Dir(enter(t, again))
		require.NoError(t, err)
		_, err = dir.Stat("logo")
		require.Error(t, err)
		require.NoError(t, dir.Close())
		_, err = into(a, t.Context(), thor.Ref())
		require.ErrorIs(t, err, ErrNotFound)
	})
}

func TestStatusChanges(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		create(t, a, "thor")
		suspended, err := a.Suspend(t.Context(), id(t, a, "thor"), "unpaid")
		require.NoError(t, err)
		require.Equal(t, "unpaid", suspended.Reason)
		again, err := a.Suspend(t.Context(), id(t, a, "thor"), "unpaid")
		require.NoError(t, err)
		require.Equal(t, suspended, again, "nothing changed")
		resumed, err := a.Activate(t.Context(), id(t, a, "thor"))
		require.NoError(t, err)
		require.Equal(t, Active, resumed.Status)
		require.Empty(t, resumed.Reason)
		_, err = a.Delete(t.Context(), id(t, a, "thor"))
		require.NoError(t, err)
		_, err = a.Activate(t.Context(), id(t, a, "thor"))
		var status *StatusError
		require.ErrorAs(t, err, &status)
		require.Equal(t, Deleted, status.Status)
		_, err = a.Suspend(t.Context(), id(t, a, "thor"), "")
		require.ErrorIs(t, err, ErrStatus)
		_, err = a.Rename(t.Context(), id(t, a, "thor"), "odin")
		require.ErrorIs(t, err, ErrStatus)
		require.Equal(t, 1, strings.Count(err.Error(), "rename tenant thor"), err)
		_, err = a.Suspend(t.Context(), id(t, a, "nobody"), "")
		require.ErrorIs(t, err, ErrNotFound)
	})
}

// S28
func TestDomains(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		create(t, a, "thor")
		create(t, a, "odin", "odin.example")
		thor, err := a.AddDomain(t.Context(), id(t, a, "thor"), "Thor.example")
		require.NoError(t, err)
		require.Equal(t, "thor.example", thor.PrimaryDomain(), "the first is primary")
		thor, err = a.AddDomain(t.Context(), id(t, a, "thor"), "bücher.example")
		require.NoError(t, err)
		require.Equal(t, []Domain{{"thor.example", true}, {"xn--bcher-kva.example", false}}, thor.Domains)
		again, err := a.AddDomain(t.Context(), id(t, a, "thor"), "thor.example")
		require.NoError(t, err)
		require.Equal(t, thor, again)
		_, err = a.AddDomain(t.Context(), id(t, a, "odin"), "thor.example")
		var conflict *ConflictError
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, ConflictError{Field: "domain", Value: "thor.example", By: "thor"}, *conflict)

		thor, err = a.SetPrimaryDomain(t.Context(), id(t, a, "thor"), "bücher.example")
		require.NoError(t, err)
		require.Equal(t, "xn--bcher-kva.example", thor.PrimaryDomain())
		_, err = a.SetPrimaryDomain(t.Context(), id(t, a, "thor"), "odin.example")
		require.ErrorIs(t, err, ErrUnknownHost)

		thor, err = a.RemoveDomain(t.Context(), id(t, a, "thor"), "bücher.example")
		require.NoError(t, err)
		require.Equal(t, "thor.example", thor.PrimaryDomain(), "the one that is left is promoted")
		_, err = a.RemoveDomain(t.Context(), id(t, a, "thor"), "odin.example")
		require.ErrorIs(t, err, ErrUnknownHost)

		// While it moves, a reader finds it with one or the other, never with none.
		stop := make(chan struct{})
		var reader sync.WaitGroup
		reader.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, err := a.ByDomain(t.Context(), "thor.example")
				assert.NoError(t, err)
				_, err = a.Resolve(t.Context(), "thor.example")
				assert.NoError(t, err)
			}
		})
		for i := range 10 {
			to := []string{"odin", "thor"}[i%2]
			moved, err := a.MoveDomain(t.Context(), "thor.example", id(t, a, to))
			require.NoError(t, err)
			require.Equal(t, to, moved.Slug)
			now, err := a.Resolve(t.Context(), "thor.example")
			require.NoError(t, err)
			require.Equal(t, to, now.Slug)
		}
		close(stop)
		reader.Wait()
		moved, err := a.MoveDomain(t.Context(), "odin.example", id(t, a, "thor"))
		require.NoError(t, err)
		require.Equal(t, []Domain{{"odin.example", false}, {"thor.example", true}}, moved.Domains)
		odin, err := a.BySlug(t.Context(), "odin")
		require.NoError(t, err)
		require.Empty(t, odin.Domains)
		_, err = a.MoveDomain(t.Context(), "nowhere.example", id(t, a, "thor"))
		require.ErrorIs(t, err, ErrUnknownHost)
	})
}
