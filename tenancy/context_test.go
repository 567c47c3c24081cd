package tenancy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// S30
func TestEnterAndLeave(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor, odin := create(t, a, "thor"), create(t, a, "odin")
		_, ok := From(t.Context())
		require.False(t, ok)

		inThor := enter(t, thor)
		got, ok := From(inThor)
		require.True(t, ok)
		require.Equal(t, thor.ID, got.ID)
		_, err := into(a, inThor, &odin)
		require.ErrorIs(t, err, ErrTenantMismatch)
		_, _, _, err = a.Enter(inThor, &odin, Policy{})
		require.ErrorIs(t, err, ErrTenantMismatch)
		require.ErrorIs(t, visit(a, inThor, "odin", func(context.Context) error { return nil }), ErrTenantMismatch)
		require.ErrorIs(t, a.ForEach(inThor, func(context.Context, Tenant) error { return nil }), ErrTenantMismatch)

		again, err := into(a, inThor, &thor)
		require.NoError(t, err)
		require.Equal(t, inThor, again)
		ask(t, a, again, "Hammer?")

		outside := Leave(inThor)
		_, ok = From(outside)
		require.False(t, ok)
		_, err = a.DB().ExecContext(outside, "SELECT 1")
		require.ErrorIs(t, err, ErrNoTenant)
		inOdin, err := into(a, outside, &odin)
		require.NoError(t, err)
		require.Empty(t, questions(t, a, inOdin))

		// A bare route counts as being inside too.
		_, err = into(a, backend.WithStore(t.Context(), odin.Store), &thor)
		require.ErrorIs(t, err, ErrTenantMismatch)
		inOdin, err = into(a, backend.WithRoute(t.Context(), odin.Route()), &odin)
		require.NoError(t, err)
		got, ok = From(inOdin)
		require.True(t, ok, "it is known by more than its route now")
		require.Equal(t, odin.ID, got.ID)
		_, err = into(a, t.Context(), &Tenant{})
		require.ErrorIs(t, err, ErrNoTenant)
		_, err = into(a, t.Context(), nil)
		require.ErrorIs(t, err, ErrNoTenant)

		// Renamed meanwhile: the same tenant, followed to its new place.
		donar, err := a.Rename(t.Context(), id(t, a, "thor"), "donar")
		require.NoError(t, err)
		followed, err := into(a, inThor, &donar)
		require.NoError(t, err)
		require.Equal(t, []string{"Hammer?"}, questions(t, a, followed))
	})
}

// Who prints a tenant means its slug. What this process knows beyond it is not shown, nor read without its locks.
func TestTenantPrintsAsItsSlug(t *testing.T) {
	t.Parallel()
	thor := Tenant{ID: "01a218d3-ab51-7f35-b683-bfd29dc2fb61", Slug: "thor", Name: "Thor", live: &live{}}
	var page strings.Builder
	require.NoError(t, template.Must(template.New("").Parse("{{.}} {{.Slug}}")).Execute(&page, &thor))
	assert.Equal(t, "thor thor", page.String())
	assert.Equal(t, "thor thor thor", fmt.Sprintf("%v %+v %s", thor, &thor, thor))
}

func TestRef(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		ref, err := RefFrom(enter(t, thor))
		require.NoError(t, err)
		require.Equal(t, thor.Ref(), ref)
		_, err = RefFrom(t.Context())
		require.ErrorIs(t, err, ErrNoTenant)
		text, err := json.Marshal(map[string]Ref{"tenant": ref})
		require.NoError(t, err)
		var job map[string]Ref
		require.NoError(t, json.Unmarshal(text, &job))
		require.Equal(t, ref, job["tenant"])

		worker := open(t, p.backend(t)) // another process
		ctx, in, leave, err := worker.Enter(t.Context(), job["tenant"], Policy{})
		require.NoError(t, err)
		require.Equal(t, "thor", in.Slug)
		ask(t, worker, ctx, "Hammer?")
		require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, thor)))
		leave()
		require.Error(t, ctx.Err())

		_, err = ParseRef("thor")
		require.ErrorIs(t, err, ErrInvalid)
		_, err = into(worker, t.Context(), Ref{"thor"})
		require.ErrorIs(t, err, ErrNotFound)
		_, err = into(worker, t.Context(), ID("01900000-0000-7000-8000-000000000000"))
		require.ErrorIs(t, err, ErrNotFound)
		_, err = a.Suspend(t.Context(), thor.ID, "unpaid")
		require.NoError(t, err)
		require.NoError(t, worker.Refresh(t.Context()))
		_, err = into(worker, t.Context(), ref)
		require.ErrorIs(t, err, ErrNotActive)
		_, _, leave, err = worker.Enter(t.Context(), ref, Policy{Operator: true})
		require.NoError(t, err, "an operator may")
		leave()
	})
}

// S47
func TestServedContextEndsWithSuspension(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		other := open(t, p.backend(t)) // another process, which suspends
		thor := create(t, a, "thor")
		require.NoError(t, other.Refresh(t.Context()))

		parent, stop := context.WithCancel(context.WithValue(t.Context(), ctxKey{}, "kept"))
		defer stop()
		serve := func(parent context.Context) (context.Context, context.CancelFunc) {
			ctx, _, done, err := a.Enter(parent, &thor, Policy{})
			require.NoError(t, err)
			return ctx, done
		}
		stream, done := serve(parent)
		defer done()
		derived, cancel := context.WithTimeout(stream, time.Hour)
		defer cancel()
		lazy, lazyDone := serve(parent) // nobody waits for this one
		defer lazyDone()
		over, overDone := serve(parent)
		overDone()
		require.ErrorIs(t, over.Err(), context.Canceled, "a request that was served is over")
		<-over.Done()
		require.NoError(t, stream.Err())
		require.Equal(t, "kept", stream.Value(ctxKey{}))
		ask(t, a, derived, "Hammer?")
		got, ok := From(derived)
		require.True(t, ok)
		require.Equal(t, thor.ID, got.ID)

		_, err := other.Suspend(t.Context(), id(t, other, "thor"), "unpaid")
		require.NoError(t, err)
		require.NoError(t, stream.Err(), "not known here yet")
		require.NoError(t, a.Refresh(t.Context()))
		<-stream.Done()
		<-derived.Done()
		require.ErrorIs(t, stream.Err(), context.Canceled)
		require.ErrorIs(t, lazy.Err(), context.Canceled)
		<-lazy.Done()
		for _, ctx := range []context.Context{stream, derived, lazy} {
			var inactive *NotActiveError
			require.ErrorAs(t, context.Cause(ctx), &inactive)
			require.Equal(t, NotActiveError{Slug: "thor", Status: Suspended, Reason: "unpaid"}, *inactive)
			require.Equal(t, "kept", ctx.Value(ctxKey{}))
		}
		_, _, _, err = a.Enter(parent, &thor, Policy{})
		require.ErrorIs(t, err, ErrNotActive, "also with the copy from before")

		_, err = other.Activate(t.Context(), id(t, other, "thor"))
		require.NoError(t, err)
		require.NoError(t, a.Refresh(t.Context()))
		again, againDone := serve(parent)
		defer againDone()
		waiting := again.Done()
		require.NoError(t, again.Err())
		require.Error(t, stream.Err(), "what was cancelled stays so")
		stop()
		<-waiting
		require.ErrorIs(t, again.Err(), context.Canceled)
		require.NotErrorIs(t, context.Cause(again), ErrNotActive)
	})
}

type ctxKey struct{}

// S69: the gate itself; the answer to the request is package httpx's.
func TestVersionGate(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		old := open(t, p.be)
		thor := create(t, old, "thor")
		votes := migrate.Source{Name: "votes", FS: files("00001_votes.sql", "-- +goose Up\nCREATE TABLE votes (n INT);\n-- +goose Down\nDROP TABLE votes;\n")}
		more := func(c *Config) { c.Tenant = append(c.Tenant, votes) }
		newer := open(t, p.backend(t), more)
		_, err := into(newer, t.Context(), &Tenant{ID: thor.ID, Slug: "thor", Store: thor.Store, Status: Active})
		require.ErrorIs(t, err, ErrBehind)
		require.ErrorIs(t, visit(newer, t.Context(), "thor", func(context.Context) error { return nil }), ErrBehind)
		var failed *ForEachError
		require.ErrorAs(t, newer.ForEach(t.Context(), func(context.Context, Tenant) error { return nil }), &failed)
		require.Len(t, failed.Failed, 1)
		require.ErrorIs(t, failed, ErrBehind)
		require.NoError(t, newer.ForEach(t.Context(), func(context.Context, Tenant) error { return nil }, With(Policy{Operator: true, AnyVersion: true})))
		require.NoError(t, visit(old, t.Context(), "thor", func(context.Context) error { return nil }), "the old binary goes on")
		skipping := open(t, p.backend(t), more, func(c *Config) { c.Behind = migrate.Serve })
		require.NoError(t, visit(skipping, t.Context(), "thor", func(context.Context) error { return nil }))

		_, err = newer.Migrator().Up(t.Context(), migrate.UpOptions{})
		require.NoError(t, err)
		require.NoError(t, visit(newer, t.Context(), "thor", func(ctx context.Context) error {
			_, err := newer.DB().ExecContext(ctx, "INSERT INTO votes (n) VALUES (1)")
			return err
		}), "without a restart")
	})
}

// S29
func TestForEach(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		for _, slug := range []string{"baldr", "freya", "loki", "odin", "thor"} {
			create(t, a, slug)
		}
		_, err := a.Suspend(t.Context(), id(t, a, "freya"), "")
		require.NoError(t, err)

		// Two at once, and no more: each waits until the other is there.
		var running, most atomic.Int32
		pair := make(chan struct{})
		var mu sync.Mutex
		var seen []string
		err = a.ForEach(t.Context(), func(ctx context.Context, tenant Tenant) error {
			require.True(t, backend.IsApart(ctx), "it goes through all of them, and is not to push out what requests live on")
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			select {
			case pair <- struct{}{}:
			case <-pair:
			}
			ask(t, a, ctx, "in "+tenant.Slug)
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, tenant.Slug)
			return nil
		}, Parallel(2))
		require.NoError(t, err)
		slices.Sort(seen)
		require.Equal(t, []string{"baldr", "loki", "odin", "thor"}, seen)
		require.LessOrEqual(t, most.Load(), int32(2))
		thor, err := a.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		require.Equal(t, []string{"in thor"}, questions(t, a, enter(t, thor)))

		broken := errors.New("mischief")
		err = a.ForEach(t.Context(), func(ctx context.Context, tenant Tenant) error {
			if tenant.Slug == "loki" {
				return broken
			}
			return nil
		})
		var failed *ForEachError
		require.ErrorAs(t, err, &failed)
		require.ErrorIs(t, err, broken)
		require.Equal(t, 3, failed.Done)
		require.Len(t, failed.Failed, 1)
		require.Equal(t, "loki", failed.Failed[0].Slug)
		require.NoError(t, failed.Err)
		require.ErrorContains(t, err, "loki")

		calls := 0
		err = a.ForEach(t.Context(), func(ctx context.Context, tenant Tenant) error { calls++; return broken }, Parallel(1), StopOnError())
		require.ErrorAs(t, err, &failed)
		require.Equal(t, 1, calls)
		require.Error(t, failed.Err)

		ctx, cancel := context.WithCancel(t.Context())
		calls = 0
		err = a.ForEach(ctx, func(ctx context.Context, tenant Tenant) error {
			calls++
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}, Parallel(1))
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 1, calls)

		var all []string
		for tenant, err := range a.Tenants(t.Context(), Filter{}) {
			require.NoError(t, err)
			all = append(all, tenant.Slug)
		}
		require.Equal(t, []string{"baldr", "freya", "loki", "odin", "thor"}, all, "in order of creation")
		for tenant, err := range a.Tenants(t.Context(), Filter{SlugPrefix: "lo", Status: []Status{Active, Deleted}}) {
			require.NoError(t, err)
			require.Equal(t, "loki", tenant.Slug)
		}
		for _, err := range a.Tenants(t.Context(), Filter{Status: []Status{"bored"}}) {
			require.ErrorIs(t, err, ErrInvalid)
		}
	})
}

func TestTenantsPages(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		const n = 2*pageSize + 1
		insertTenants(t, a, n)
		seen := map[ID]bool{}
		for tenant, err := range a.Tenants(t.Context(), Filter{}) {
			require.NoError(t, err)
			require.False(t, seen[tenant.ID])
			require.Len(t, tenant.Domains, 2)
			seen[tenant.ID] = true
		}
		require.Len(t, seen, n)
	})
}

func TestKey(t *testing.T) {
	t.Parallel()
	thor := &Tenant{ID: "01900000-0000-7000-8000-000000000001", Store: backend.MustParseStore("thor")}
	ctx := enter(t, *thor)
	seen := map[string][]string{}
	for _, parts := range [][]string{{}, {""}, {"a", "b"}, {"a:b"}, {`a\`, "b"}, {`a\:b`}, {"a", "", "b"}} {
		key, err := Key(ctx, parts...)
		require.NoError(t, err)
		require.NotContains(t, seen, key, "%q", parts)
		seen[key] = parts
	}
	_, err := Key(t.Context(), "a")
	require.ErrorIs(t, err, ErrNoTenant)
}

func TestLogHandler(t *testing.T) {
	t.Parallel()
	thor := &Tenant{ID: "01900000-0000-7000-8000-000000000001", Slug: "thor", Store: backend.MustParseStore("thor")}
	ctx := enter(t, *thor)
	var out bytes.Buffer
	log := slog.New(NewLogHandler(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}})))
	for _, c := range []struct {
		log  *slog.Logger
		ctx  context.Context
		want string
	}{
		{log, t.Context(), "msg=m k=v\n"},
		{log, ctx, "msg=m k=v tenant=thor tenant_id=" + string(thor.ID) + "\n"},
		{log.With("a", 1), ctx, "msg=m a=1 k=v tenant=thor tenant_id=" + string(thor.ID) + "\n"},
		{log.With("a", 1).WithGroup("g").With("b", 2).WithGroup("h"), ctx, "msg=m a=1 tenant=thor tenant_id=" + string(thor.ID) + " g.b=2 g.h.k=v\n"},
		{log.WithGroup("g").With("b", 2), t.Context(), "msg=m g.b=2 g.k=v\n"},
	} {
		out.Reset()
		c.log.InfoContext(c.ctx, "m", "k", "v")
		assert.Equal(t, c.want, out.String())
	}
}

func TestDir(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be, func(c *Config) { c.FilesDir = t.TempDir() })
		thor, odin := create(t, a, "thor"), create(t, a, "odin")
		dir, err := a.Dir(enter(t, thor))
		require.NoError(t, err)
		defer dir.Close()
		require.NoError(t, dir.WriteFile("logo", []byte("hammer"), 0o600))
		other, err := a.Dir(enter(t, odin))
		require.NoError(t, err)
		defer other.Close()
		_, err = other.ReadFile("logo")
		require.Error(t, err)
		_, err = other.ReadFile("../" + string(thor.ID) + "/logo")
		require.Error(t, err, "nothing leads out")
		_, err = a.Dir(t.Context())
		require.ErrorIs(t, err, ErrNoTenant)
		_, err = a.Dir(enter(t, Tenant{ID: "..", Store: thor.Store}))
		require.ErrorIs(t, err, ErrInvalid)
		_, err = open(t, p.be).Dir(enter(t, thor))
		require.ErrorContains(t, err, "FilesDir")
	})
}
