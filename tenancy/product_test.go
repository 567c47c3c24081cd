package tenancy

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

func TestReservedSlugs(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "sqlite:"+t.TempDir())
	a := open(t, p.be)
	for _, slug := range []string{"www", "admin", "api", "mail"} {
		_, err := a.Create(t.Context(), Spec{Slug: slug})
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorIs(t, a.CheckSlug(slug), ErrInvalid)
	}
	thor := create(t, a, "thor")
	_, err := a.Rename(t.Context(), thor.ID, "admin")
	require.ErrorIs(t, err, ErrInvalid)
	_, err = a.Create(t.Context(), Spec{Slug: "www", Reserved: true})
	require.NoError(t, err)
	none := open(t, p.backend(t), func(c *Config) { c.ReservedSlugs = []string{} })
	create(t, none, "admin")
}

// who changed what, and when
func TestHistory(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		ctx := WithActor(t.Context(), "odin@asgard.example")
		thor, err := a.Create(ctx, Spec{Slug: "thor"})
		require.NoError(t, err)
		_, err = a.Rename(WithActor(ctx, "loki"), thor.ID, "donar")
		require.NoError(t, err)
		_, err = a.Suspend(t.Context(), thor.ID, "unpaid")
		require.NoError(t, err)
		_, err = a.Delete(ctx, thor.ID)
		require.NoError(t, err)
		require.NoError(t, a.Purge(ctx, thor.ID))
		history, err := a.History(t.Context(), thor.ID, 0)
		require.NoError(t, err)
		type line struct {
			kind          EventKind
			actor, detail string
		}
		var lines []line
		for i, c := range history {
			lines = append(lines, line{c.Kind, c.Actor, c.Detail})
			require.False(t, c.At.IsZero())
			if i > 0 {
				require.Less(t, c.Revision, history[i-1].Revision, "the latest first")
			}
		}
		const odin = "odin@asgard.example"
		require.Equal(t, []line{
			{EventPurged, odin, "donar"},
			{EventPurging, odin, ""},
			{EventDeleted, odin, ""},
			{EventSuspended, "", "unpaid"},
			{EventRenamed, "loki", "thor → donar"},
			{EventCreated, odin, ""},
			{EventClaimed, odin, "thor"},
		}, lines)
		history, err = a.History(t.Context(), thor.ID, 2)
		require.NoError(t, err)
		require.Len(t, history, 2)
	})
}

func TestMetaChanges(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		type meta struct {
			Plan  string `json:"plan"`
			Seats int    `json:"seats"`
			Trial bool   `json:"trial"`
		}
		a, other := open(t, p.be), open(t, p.backend(t))
		thor, err := a.Create(t.Context(), Spec{Slug: "thor", Meta: meta{Plan: "gold"}})
		require.NoError(t, err)
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				_, err := UpdateMeta(t.Context(), []*App{a, other}[i%2], thor.ID, func(m *meta) error { m.Seats++; return nil })
				assert.NoError(t, err)
			})
		}
		group.Wait()
		now, err := a.ByID(t.Context(), thor.ID)
		require.NoError(t, err)
		got, err := MetaAs[meta](now)
		require.NoError(t, err)
		require.Equal(t, meta{Plan: "gold", Seats: 8}, got)
		_, err = a.Update(t.Context(), thor.ID, Patch{Meta: meta{}, IfVersion: thor.Version})
		require.ErrorIs(t, err, ErrChanged)
		broken := errors.New("no")
		_, err = UpdateMeta(t.Context(), a, thor.ID, func(*meta) error { return broken })
		require.ErrorIs(t, err, broken)

		_, err = a.Create(t.Context(), Spec{Slug: "odin", Meta: map[string]any{"plan": "gold", "seats": 3, "trial": true, "o'dd key\"": "x", "seats2": "8"}})
		require.NoError(t, err)
		for _, c := range []struct {
			meta map[string]any
			want []string
		}{
			{map[string]any{"plan": "gold"}, []string{"thor", "odin"}},
			{map[string]any{"plan": "gold", "seats": 8}, []string{"thor"}},
			{map[string]any{"seats": "8"}, nil},
			{map[string]any{"seats2": "8"}, []string{"odin"}},
			{map[string]any{"trial": true}, []string{"odin"}},
			{map[string]any{"trial": false}, []string{"thor"}},
			{map[string]any{"trial": 1}, nil},
			{map[string]any{"o'dd key\"": "x"}, []string{"odin"}},
			{map[string]any{"nothing": "x"}, nil},
		} {
			var found []string
			for tenant, err := range a.Tenants(t.Context(), Filter{Meta: c.meta}) {
				require.NoError(t, err)
				found = append(found, tenant.Slug)
			}
			require.Equal(t, c.want, found, "%v", c.meta)
		}
		for _, err := range a.Tenants(t.Context(), Filter{Meta: map[string]any{"a": []int{1}}}) {
			require.ErrorIs(t, err, ErrInvalid)
		}
	})
}

// dns is what DNS says.
type dns struct {
	mu      sync.Mutex
	records map[string][]string
}

func (d *dns) LookupTXT(_ context.Context, name string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r, ok := d.records[name]; ok {
		return r, nil
	}
	return nil, errors.New("no such host")
}

// A domain leads to whoever proves that it is theirs.
func TestDomainsNeedApproval(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		names := &dns{records: map[string][]string{}}
		a := open(t, p.be, func(c *Config) { c.Hooks.ApproveDomain = DNSChallenge(names, "polls.example") })
		thor, err := a.Create(t.Context(), Spec{Slug: "thor", Domains: []string{"thor.polls.example", "thor.example"}})
		require.NoError(t, err)
		require.Equal(t, []Domain{{"thor.polls.example", true}}, thor.Domains, "our own need no proof")
		loki, err := a.Create(t.Context(), Spec{Slug: "loki", Domains: []string{"thor.example", "polls.example"}})
		require.NoError(t, err)
		require.Empty(t, loki.Domains)
		_, err = a.Resolve(t.Context(), "thor.example")
		require.ErrorIs(t, err, ErrUnknownHost)
		require.ErrorIs(t, a.HostPolicy(t.Context(), "thor.example"), ErrUnknownHost)
		require.NoError(t, a.HostPolicy(t.Context(), "thor.polls.example"))

		_, err = a.AddDomain(t.Context(), loki.ID, "thor.example")
		var pending *DomainPendingError
		require.ErrorAs(t, err, &pending)
		require.ErrorIs(t, err, ErrDomainPending)
		theirs, err := a.PendingDomains(t.Context(), loki.ID)
		require.NoError(t, err)
		require.Len(t, theirs, 2)
		ours, err := a.PendingDomains(t.Context(), thor.ID)
		require.NoError(t, err)
		require.Len(t, ours, 1)
		require.NotEqual(t, pending.Domain.Token, ours[0].Token)
		require.Contains(t, ours[0].Reason, "TXT")

		name, kind, value := ours[0].Record()
		require.Equal(t, "TXT", kind)
		names.mu.Lock()
		names.records[name+"."] = []string{"v=spf1 -all", value}
		names.mu.Unlock()
		_, err = a.AddDomain(t.Context(), loki.ID, "thor.example")
		require.ErrorIs(t, err, ErrDomainPending, "the token is another tenant's")
		thor, err = a.AddDomain(t.Context(), thor.ID, "Thor.example")
		require.NoError(t, err)
		require.Equal(t, []Domain{{"thor.example", false}, {"thor.polls.example", true}}, thor.Domains)
		found, err := a.Resolve(t.Context(), "thor.example")
		require.NoError(t, err)
		require.Equal(t, thor.ID, found.ID)
		_, err = a.AddDomain(t.Context(), loki.ID, "thor.example")
		require.ErrorIs(t, err, ErrDomainTaken)
		ours, err = a.PendingDomains(t.Context(), thor.ID)
		require.NoError(t, err)
		require.Empty(t, ours)

		_, err = a.ApproveDomain(t.Context(), loki.ID, "loki.example")
		require.NoError(t, err, "an operator may")
		_, err = a.RemoveDomain(t.Context(), loki.ID, "polls.example")
		require.NoError(t, err)
		_, err = a.RemoveDomain(t.Context(), loki.ID, "polls.example")
		require.ErrorIs(t, err, ErrUnknownHost)
		_, err = a.Delete(t.Context(), loki.ID)
		require.NoError(t, err)
		require.NoError(t, a.Purge(t.Context(), loki.ID))
		requireHealthy(t, a)
	})
}

// A read-only tenant is read, and not written to: the database says so, not the text.
func TestReadOnlyTenant(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		ctx, _, leave, err := a.Enter(t.Context(), thor, Policy{})
		require.NoError(t, err)
		defer leave()
		ask(t, a, ctx, "Hammer?")
		frozen, err := a.SetReadOnly(t.Context(), thor.ID, "being moved")
		require.NoError(t, err)
		require.Equal(t, ReadOnly, frozen.Status)
		require.NoError(t, ctx.Err(), "it is served")

		require.Equal(t, []string{"Hammer?"}, questions(t, a, ctx))
		write := "INSERT INTO polls (question) VALUES ('Why?')"
		pinned := p.be.DBFor(thor.Route())
		defer pinned.Close()
		conn, err := a.DB().Conn(ctx)
		require.NoError(t, err)
		defer conn.Close()
		for name, try := range map[string]func() error{
			"statement": func() error { _, err := a.DB().ExecContext(ctx, write); return err },
			"returning": func() error {
				var q string
				return a.DB().QueryRowContext(ctx, write+" RETURNING question").Scan(&q)
			},
			"several": func() error { _, err := a.DB().ExecContext(ctx, "SELECT 1; "+write); return err },
			"DDL":     func() error { _, err := a.DB().ExecContext(ctx, "CREATE TABLE more (n INTEGER)"); return err },
			"index":   func() error { _, err := a.DB().ExecContext(ctx, "CREATE INDEX more ON polls (question)"); return err },
			"pinned":  func() error { _, err := pinned.ExecContext(ctx, write); return err },
			"conn":    func() error { _, err := conn.ExecContext(ctx, write); return err },
			"transaction": func() error {
				tx, err := a.DB().BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				defer func() { _ = tx.Rollback() }()
				_, err = tx.ExecContext(ctx, write)
				return err
			},
			"again after an error": func() error { _, err := a.DB().ExecContext(ctx, write); return err },
		} {
			require.ErrorIs(t, try(), ErrReadOnly, name)
		}
		if p.be.Dialect() == backend.Postgres {
			for _, text := range []string{
				"CREATE INDEX CONCURRENTLY more ON polls (question)", "SET transaction_read_only = off; " + write,
			} {
				_, err := a.DB().ExecContext(ctx, text)
				require.Error(t, err, text)
			}
		}
		require.Equal(t, []string{"Hammer?"}, questions(t, a, ctx))
		require.NoError(t, a.Run(t.Context(), thor, Policy{Operator: true}, func(ctx context.Context, _ *Tenant) error {
			ask(t, a, ctx, "An operator's?")
			return nil
		}))
		require.NoError(t, conn.Close())
		_, err = a.Activate(t.Context(), thor.ID)
		require.NoError(t, err)
		ask(t, a, ctx, "And now?")
		require.Equal(t, []string{"An operator's?", "And now?", "Hammer?"}, questions(t, a, ctx))
		requireHealthy(t, a)
	})
}
