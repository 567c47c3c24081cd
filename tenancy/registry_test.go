package tenancy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
	"github.com/tenement-go/tenement/migrate"
)

// S82: the registry's tables are no user's to undo.
func TestRegistryIsNoSource(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		create(t, a, "thor")
		for _, undo := range []func() (*migrate.Result, error){
			func() (*migrate.Result, error) {
				return a.Migrator().Down(t.Context(), "tenement", 1, migrate.DownOptions{Set: migrate.SetShared})
			},
			func() (*migrate.Result, error) {
				return a.Migrator().Redo(t.Context(), "tenement", migrate.DownOptions{Set: migrate.SetShared})
			},
		} {
			_, err := undo()
			require.ErrorIs(t, err, migrate.ErrUnknownSource)
			require.NotContains(t, err.Error(), "has tenement")
		}
		_, err := a.Migrator().Redo(t.Context(), "", migrate.DownOptions{Set: migrate.SetShared})
		require.NoError(t, err, "plans is the only one")
		_, err = a.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		status, err := a.Migrator().Status(t.Context())
		require.NoError(t, err)
		require.Empty(t, status.Drift)
		require.True(t, status.Shared.Current)
	})
}

// S82: an empty registry beside many stores is one finding, and nothing is removed.
func TestRegistryEmpty(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		tenants := map[string]Tenant{}
		for _, slug := range []string{"baldr", "loki", "odin", "thor"} {
			tenants[slug] = create(t, a, slug)
			ask(t, a, enter(t, tenants[slug]), slug)
		}
		for _, table := range []string{"tenement_domains", "tenement_tenants", "tenement_changes"} {
			_, err := a.Shared().ExecContext(t.Context(), "DELETE FROM "+table)
			require.NoError(t, err)
		}
		empty := open(t, p.backend(t))
		findings, err := empty.Doctor(t.Context())
		require.NoError(t, err)
		require.Len(t, findings, 1)
		require.Equal(t, FindingRegistryBehind, findings[0].Code)
		require.Empty(t, findings[0].Repair)
		require.ErrorIs(t, empty.Repair(t.Context(), findings[0]), ErrNoRepair)

		// One after the other they are adopted, with the IDs that they had.
		for slug, before := range tenants {
			adopted, err := empty.Adopt(t.Context(), Spec{Store: slug, Name: "Found"})
			require.NoError(t, err)
			require.Equal(t, before.ID, adopted.ID)
			require.Equal(t, slug, adopted.Slug)
			require.NoError(t, empty.Run(t.Context(), adopted, Policy{}, func(ctx context.Context, _ *Tenant) error {
				require.Equal(t, []string{slug}, questions(t, empty, ctx))
				return nil
			}))
		}
		requireHealthy(t, empty)
	})
}

// A dump that was restored under another name.
func TestRestoredUnderAnotherName(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor, odin := create(t, a, "thor"), create(t, a, "odin")
		ask(t, a, enter(t, thor), "Hammer?")
		create(t, a, "baldr")

		// In place of the store that was there.
		require.NoError(t, p.be.Rename(t.Context(), thor.Route(), backend.MustParseStore("thor-restored")))
		findings, err := a.Doctor(t.Context())
		require.NoError(t, err)
		findings = only(findings, FindingLedgerOrphan)
		require.Len(t, findings, 1)
		require.Equal(t, FindingStoreMissing, findings[0].Code)
		require.NoError(t, a.Repair(t.Context(), findings[0]))
		now, err := a.ByID(t.Context(), thor.ID)
		require.NoError(t, err)
		require.Equal(t, "thor-restored", now.Store.String())
		require.Equal(t, []string{"Hammer?"}, questions(t, a, enter(t, now)))

		// Beside the one it was copied from: a tenant of its own.
		twin := backend.MustParseStore("odin2")
		require.NoError(t, p.be.Create(t.Context(), backend.Route{Store: twin, Owner: string(odin.ID)}))
		_, err = a.Create(t.Context(), Spec{Slug: "odin2"})
		require.ErrorIs(t, err, ErrStoreTaken)
		_, err = a.Adopt(t.Context(), Spec{Slug: "odin", Store: "odin2"})
		require.ErrorIs(t, err, ErrSlugTaken)
		_, err = a.Adopt(t.Context(), Spec{Store: "odin"})
		require.ErrorIs(t, err, ErrConflict)
		_, err = a.Adopt(t.Context(), Spec{Store: "nowhere"})
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		adopted, err := a.Adopt(t.Context(), Spec{Store: "odin2", Domains: []string{"odin2.example"}})
		require.NoError(t, err)
		require.NotEqual(t, odin.ID, adopted.ID)
		require.Equal(t, "odin2.example", adopted.PrimaryDomain())
		_, err = a.DB().ExecContext(enter(t, adopted), "CREATE TABLE mine (n INTEGER)")
		require.NoError(t, err)
	})
}

func only(findings []Finding, without FindingCode) []Finding {
	var left []Finding
	for _, f := range findings {
		if f.Code != without {
			left = append(left, f)
		}
	}
	return left
}

// An orphan keeps what is in it, whatever is done about it.
func TestSetAside(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		orphan := backend.Route{Store: backend.MustParseStore(strings.Repeat("o", backend.MaxNameLen)), Owner: "someone"}
		require.NoError(t, p.be.Create(t.Context(), orphan))
		_, err := a.SetAside(t.Context(), thor.Store)
		require.ErrorIs(t, err, ErrConflict)
		aside, err := a.SetAside(t.Context(), orphan.Store)
		require.NoError(t, err)
		require.Equal(t, "someone", aside.Owner)
		require.True(t, strings.HasPrefix(orphan.Store.String(), aside.Was))
		requireHealthy(t, a)
		list, err := a.AsideStores(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.Equal(t, aside.Store, list[0].Store)
		_, err = a.Create(t.Context(), Spec{Slug: "sly", Store: aside.Store.String()})
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorIs(t, a.PurgeAside(t.Context(), thor.Store), backend.ErrStoreMissing)
		require.NoError(t, a.PurgeAside(t.Context(), aside.Store))
		list, err = a.AsideStores(t.Context())
		require.NoError(t, err)
		require.Empty(t, list)
	})
}

// backup is the registry as it was.
var registryTables = []string{"tenement_tenants", "tenement_domains", "tenement_revision", "tenement_changes"}

func backUp(t *testing.T, a *App) {
	for _, table := range registryTables {
		_, err := a.Shared().ExecContext(t.Context(), fmt.Sprintf("CREATE TABLE kept_%s AS SELECT * FROM %s", table, table))
		require.NoError(t, err)
	}
}

func putBack(t *testing.T, a *App) {
	tx, err := a.Shared().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }()
	for _, table := range []string{"tenement_domains", "tenement_tenants", "tenement_revision", "tenement_changes"} {
		_, err := tx.ExecContext(t.Context(), "DELETE FROM "+table)
		require.NoError(t, err)
	}
	for _, table := range registryTables {
		_, err := tx.ExecContext(t.Context(), fmt.Sprintf("INSERT INTO %s SELECT * FROM kept_%s", table, table))
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit())
}

// S82: a registry that was put back from a backup is noticed, also when it has come as far again.
func TestRegistryPutBack(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a, other := open(t, p.be), open(t, p.backend(t))
		thor, odin := create(t, a, "thor", "thor.example"), create(t, a, "odin")
		backUp(t, a)
		_, err := a.Suspend(t.Context(), thor.ID, "unpaid")
		require.NoError(t, err)
		_, err = a.AddDomain(t.Context(), odin.ID, "odin.example")
		require.NoError(t, err)
		loki := create(t, a, "loki", "loki.example")
		suspended, err := a.Resolve(t.Context(), "thor.example")
		require.NoError(t, err)
		require.Equal(t, Suspended, suspended.Status)

		putBack(t, a)
		now, err := a.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		require.Equal(t, Active, now.Status, "who asks the registry gets its answer")
		found, err := a.Resolve(t.Context(), "thor.example")
		require.NoError(t, err)
		require.Equal(t, Active, found.Status)
		_, err = a.Resolve(t.Context(), "odin.example")
		require.ErrorIs(t, err, ErrUnknownHost)
		_, err = a.ResolveID(t.Context(), loki.ID)
		require.ErrorIs(t, err, ErrNotFound)

		// Again, and this time others write as many changes as were lost.
		require.NoError(t, other.Refresh(t.Context()))
		_, err = a.Suspend(t.Context(), thor.ID, "unpaid")
		require.NoError(t, err)
		suspended, err = a.ResolveID(t.Context(), thor.ID)
		require.NoError(t, err)
		require.Equal(t, Suspended, suspended.Status)
		putBack(t, a)
		_, err = other.Suspend(t.Context(), odin.ID, "unpaid")
		require.NoError(t, err)
		require.NoError(t, a.Refresh(t.Context()))
		found, err = a.ResolveID(t.Context(), thor.ID)
		require.NoError(t, err)
		require.Equal(t, Active, found.Status)
		found, err = a.ResolveID(t.Context(), odin.ID)
		require.NoError(t, err)
		require.Equal(t, Suspended, found.Status)
	})
}

// The registry of the first version, with operations half done, is brought to what this version needs.
func TestUpgradeOfTheRegistry(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		first := fstest.MapFS{}
		require.NoError(t, fs.WalkDir(migrations, "migrations", func(path string, _ fs.DirEntry, err error) error {
			if name := filepath.Base(path); strings.HasPrefix(name, "00001_") {
				text, err := migrations.ReadFile(path)
				require.NoError(t, err)
				first[name] = &fstest.MapFile{Data: text}
			}
			return err
		}))
		m, err := migrate.New(p.be, migrate.Config{
			System: []migrate.Source{{Name: "tenement", FS: first, Table: "goose_tenement"}}, Tenant: []migrate.Source{polls()},
		})
		require.NoError(t, err)
		require.NoError(t, m.Prepare(t.Context()))
		at := "2026-01-02T03:04:05.000000Z"
		for _, row := range []struct{ n, slug, status, store, op, opSlug, opStore string }{
			{"1", "thor", "active", "thor", "", "", ""},
			{"2", "donar", "active", "wotan", "rename", "wotan", "donar"},
			{"3", "loki", "deleted", "loki", "purge", "", ""},
			{"4", "baldr", "provisioning", "baldr", "", "", ""},
			{"5", "tyr", "failed", "tyr", "", "", ""},
		} {
			id := "01900000-0000-7000-8000-00000000000" + row.n
			_, err := p.be.Shared().ExecContext(t.Context(), `INSERT INTO tenement_tenants
				(id, slug, name, status, reason, store, op, op_slug, op_store, created_at, updated_at) VALUES ($1, $2, $2, $3, '', $4, $5, $6, NULLIF($7, ''), $8, $8)`,
				id, row.slug, row.status, row.store, row.op, row.opSlug, row.opStore, at)
			require.NoError(t, err)
			_, err = p.be.Shared().ExecContext(t.Context(), `INSERT INTO tenement_domains (host, tenant_id, is_primary) VALUES ($1, $2, TRUE)`, row.slug+".example", id)
			require.NoError(t, err)
			require.NoError(t, m.Provision(t.Context(), backend.Route{Store: backend.MustParseStore(row.store), Owner: id}))
		}
		_, err = p.be.Shared().ExecContext(t.Context(), `UPDATE tenement_revision SET revision = 7`)
		require.NoError(t, err)
		_, err = p.be.Shared().ExecContext(t.Context(), `INSERT INTO tenement_changes (revision, tenant_id, kind) VALUES (7, '01900000-0000-7000-8000-000000000001', 'created')`)
		require.NoError(t, err)

		a := open(t, p.be)
		ops, err := a.Operations(t.Context())
		require.NoError(t, err)
		require.Len(t, ops, 4)
		require.NoError(t, a.FinishOperations(t.Context()))
		for slug, want := range map[string]Status{"thor": Active, "donar": Active, "baldr": Active, "tyr": Failed} {
			tenant, err := a.ByDomain(t.Context(), slug+".example")
			require.NoError(t, err, slug)
			require.Equal(t, slug, tenant.Slug)
			require.Equal(t, slug, tenant.Store.String())
			require.Equal(t, want, tenant.Status)
		}
		_, err = a.BySlug(t.Context(), "loki")
		require.ErrorIs(t, err, ErrNotFound)
		tyr := create(t, a, "tyr")
		requireHealthy(t, a)
		history, err := a.History(t.Context(), "01900000-0000-7000-8000-000000000001", 0)
		require.NoError(t, err)
		require.Len(t, history, 1)
		other := open(t, p.backend(t))
		_, err = other.Suspend(t.Context(), tyr.ID, "")
		require.NoError(t, err)
		require.NoError(t, a.Refresh(t.Context()))
	})
}

// Names are compared byte by byte; the tests' databases have another collation (S86).
func TestSlugPrefix(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		for _, slug := range []string{"a-b", "ab", "ab-c", "abc", "ac", "b"} {
			create(t, a, slug)
		}
		var found []string
		for tenant, err := range a.Tenants(t.Context(), Filter{SlugPrefix: "ab"}) {
			require.NoError(t, err)
			found = append(found, tenant.Slug)
		}
		require.Equal(t, []string{"ab", "ab-c", "abc"}, found)
		values, err := Collect(t.Context(), a, func(_ context.Context, tenant Tenant) (int, error) {
			if tenant.Slug == "ac" {
				return 0, errors.New("no")
			}
			return len(tenant.Slug), nil
		})
		var failed *ForEachError
		require.ErrorAs(t, err, &failed)
		require.Len(t, values, 5)
		for i, slug := range []string{"a-b", "ab", "ab-c", "abc", "b"} {
			require.Equal(t, slug, values[i].Tenant.Slug, "in order of slug")
			require.Equal(t, len(slug), values[i].Value)
		}
	})
}

// S87: a change of how hosts are spelled never gives a host to another tenant.
func TestHostRulesChange(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor", "www.thor.example", "thor.test")
		ignoring := config()
		ignoring.IgnoreWWW = true
		_, err := Open(t.Context(), p.backend(t), ignoring)
		var rules *HostRulesError
		require.ErrorAs(t, err, &rules)
		require.Equal(t, []string{"www.thor.example"}, rules.Hosts)
		_, err = a.AddDomain(t.Context(), thor.ID, "thor.example")
		require.NoError(t, err)
		_, err = a.RemoveDomain(t.Context(), thor.ID, "www.thor.example")
		require.NoError(t, err)
		b := open(t, p.backend(t), func(c *Config) { c.IgnoreWWW = true })
		found, err := b.Resolve(t.Context(), "www.thor.example")
		require.NoError(t, err)
		require.Equal(t, thor.ID, found.ID)

		// Who was open before goes by other rules, and registers no host any more.
		odin := create(t, a, "odin")
		spelled := func(err error) {
			t.Helper()
			require.ErrorAs(t, err, &rules)
			require.Empty(t, rules.Hosts)
			require.ErrorContains(t, err, "IgnoreWWW")
		}
		_, err = a.AddDomain(t.Context(), odin.ID, "www.thor.example")
		spelled(err)
		_, err = a.ApproveDomain(t.Context(), odin.ID, "www.thor.example")
		spelled(err)
		_, err = a.Create(t.Context(), Spec{Slug: "loki", Domains: []string{"loki.example", "www.loki.example"}})
		spelled(err)
		require.Empty(t, id(t, b, "loki"), "nothing of it stays")
		_, err = a.Suspend(t.Context(), odin.ID, "unpaid")
		require.NoError(t, err, "what has nothing to do with hosts is done")
		_, err = a.RemoveDomain(t.Context(), thor.ID, "thor.test")
		require.NoError(t, err)
		_, err = b.AddDomain(t.Context(), odin.ID, "www.odin.example")
		require.NoError(t, err)
		found, err = b.Resolve(t.Context(), "odin.example")
		require.NoError(t, err)
		require.Equal(t, odin.ID, found.ID)
		requireHealthy(t, b)
	})
}

// With IgnoreWWW no host is registered by a spelling that leads elsewhere when it is read again, and those that an earlier version
// registered can be named as the registry has them.
func TestHostsAsListed(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		ignoring := func(c *Config) {
			c.IgnoreWWW = true
			c.Hooks.ApproveDomain = func(context.Context, Tenant, PendingDomain) error { return nil }
		}
		a := open(t, p.be, ignoring)
		thor, odin := create(t, a, "thor", "www.thor.example"), create(t, a, "odin", "odin.example", "www.www.test")
		_, err := a.AddDomain(t.Context(), thor.ID, "www.www.evil.example")
		require.ErrorIs(t, err, ErrInvalid)
		_, err = a.Create(t.Context(), Spec{Slug: "loki", Domains: []string{"www.www.evil.example"}})
		require.ErrorIs(t, err, ErrInvalid)

		_, err = a.Shared().ExecContext(t.Context(), `UPDATE tenement_revision SET host_rules = ''`)
		require.NoError(t, err)
		b := open(t, p.backend(t), ignoring)
		all := 0
		for _, id := range []ID{thor.ID, odin.ID} {
			was, err := b.ByID(t.Context(), id)
			require.NoError(t, err)
			for _, d := range was.Domains {
				all++
				_, err := b.RemoveDomain(t.Context(), id, d.Host)
				require.NoError(t, err, d.Host)
			}
		}
		require.Equal(t, 3, all)

		_, err = b.AddDomain(t.Context(), odin.ID, "evil.example")
		require.NoError(t, err)
		const listed = "www.evil.example"
		for _, insert := range []string{
			`INSERT INTO tenement_domains (host, tenant_id, is_primary) VALUES ('` + listed + `', $1, FALSE)`,
			`INSERT INTO tenement_domains (host, tenant_id, is_primary) VALUES ('www.www.example', $1, FALSE)`,
			`INSERT INTO tenement_pending_domains (host, tenant_id, token, created_at) VALUES ('www.www.other.example', $1, '', '2026-01-01T00:00:00.000000Z')`,
		} {
			_, err := b.Shared().ExecContext(t.Context(), insert, string(thor.ID))
			require.NoError(t, err)
		}
		after, err := b.SetPrimaryDomain(t.Context(), thor.ID, listed)
		require.NoError(t, err)
		require.Equal(t, listed, after.PrimaryDomain())
		after, err = b.MoveDomain(t.Context(), listed, odin.ID)
		require.NoError(t, err)
		require.Equal(t, []Domain{{Host: "evil.example", Primary: true}, {Host: listed}}, after.Domains)
		after, err = b.RemoveDomain(t.Context(), odin.ID, listed)
		require.NoError(t, err)
		require.Equal(t, []Domain{{Host: "evil.example", Primary: true}}, after.Domains)
		after, err = b.RemoveDomain(t.Context(), odin.ID, listed)
		require.NoError(t, err, "as it is looked up")
		require.Empty(t, after.Domains)
		_, err = b.RemoveDomain(t.Context(), thor.ID, "www.www.other.example")
		require.NoError(t, err)
		pending, err := b.PendingDomains(t.Context(), thor.ID)
		require.NoError(t, err)
		require.Empty(t, pending)
		after, err = b.RemoveDomain(t.Context(), thor.ID, "www.www.example")
		require.NoError(t, err)
		require.Empty(t, after.Domains)
		_, err = b.RemoveDomain(t.Context(), thor.ID, listed)
		require.ErrorIs(t, err, ErrUnknownHost)
		_, err = b.MoveDomain(t.Context(), listed, odin.ID)
		require.ErrorIs(t, err, ErrUnknownHost)
	})
}

// A spare is not given to a tenant whose hosts are spelled by other rules than the registry's.
func TestHostRulesChangeWithSpares(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		spare := func(c *Config) { c.Spares = 2 }
		a := open(t, p.be, spare)
		require.NoError(t, a.FillSpares(t.Context()))
		b := open(t, p.backend(t), spare, func(c *Config) { c.IgnoreWWW = true })
		_, err := a.Create(t.Context(), Spec{Slug: "loki", Domains: []string{"www.loki.example"}})
		var rules *HostRulesError
		require.ErrorAs(t, err, &rules)
		require.Empty(t, id(t, b, "loki"))
		spares, err := b.Spares(t.Context())
		require.NoError(t, err)
		require.Len(t, spares, 2)
		create(t, b, "loki", "www.loki.example")
	})
}

// A host that is being registered while another process opens with other rules is one that they are checked against.
func TestHostRulesChangeMeanwhile(t *testing.T) {
	t.Parallel()
	p := newPlace(t, pgtest.Shared(t).Database(t))
	a := open(t, p.be)
	thor := create(t, a, "thor")
	tx, err := p.backend(t).Shared().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback() //nolint:errcheck // it was committed
	_, err = tx.ExecContext(t.Context(), `INSERT INTO tenement_domains (host, tenant_id, is_primary) VALUES ('www.thor.example', $1, TRUE)`, string(thor.ID))
	require.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), `UPDATE tenement_revision SET revision = revision WHERE id = 1`)
	require.NoError(t, err)

	be := p.backend(t)
	opened := make(chan error)
	go func() {
		cfg := config()
		cfg.IgnoreWWW = true
		b, err := Open(t.Context(), be, cfg)
		if err == nil {
			err = errors.Join(errors.New("it opened"), b.Close())
		}
		opened <- err
	}()
	require.Eventually(t, func() bool {
		var waits bool
		err := p.be.Shared().QueryRowContext(t.Context(), `SELECT EXISTS (SELECT 1 FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits)
		return err == nil && waits
	}, time.Minute, time.Millisecond)
	require.NoError(t, tx.Commit())
	var rules *HostRulesError
	require.ErrorAs(t, <-opened, &rules)
	require.Equal(t, []string{"www.thor.example"}, rules.Hosts)
}

// S83: a command deletes and purges what a server is serving.
func TestPurgeWaitsForThoseWhoServe(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		files := t.TempDir()
		serving := open(t, p.be, func(c *Config) { c.FilesDir, c.PollInterval = files, 100*time.Millisecond })
		thor := create(t, serving, "thor")
		inside, _, leave, err := serving.Enter(t.Context(), thor, Policy{})
		require.NoError(t, err)
		defer leave()
		// It asks many times within what it has announced: one that misses a few polls is no failure.
		const bound = 3 * time.Second
		var announced int64
		require.NoError(t, serving.Shared().QueryRowContext(t.Context(), `UPDATE tenement_apps SET bound_ms = $1 WHERE bound_ms = $2 RETURNING bound_ms`,
			bound.Milliseconds(), serving.StalenessBound().Milliseconds()).Scan(&announced))
		command := open(t, p.backend(t), func(c *Config) { c.FilesDir = files })
		command.step = func(name string) {
			if name == "purge: claimed" {
				assert.Error(t, inside.Err(), "nothing is removed while somebody serves it")
			}
		}
		began := time.Now()
		_, err = command.Delete(t.Context(), thor.ID)
		require.NoError(t, err)
		require.NoError(t, command.Purge(t.Context(), thor.ID))
		require.GreaterOrEqual(t, time.Since(began), bound-time.Second)
		command.step = func(string) {}

		// One that has not heard, whatever the reason, makes nothing again.
		deaf := open(t, p.backend(t), func(c *Config) { c.FilesDir = files })
		odin := create(t, command, "odin")
		inside, _, leave, err = deaf.Enter(t.Context(), odin.Ref(), Policy{})
		require.NoError(t, err)
		defer leave()
		_, err = deaf.Shared().ExecContext(t.Context(), `UPDATE tenement_apps SET seen_at = '2026-01-01T00:00:00.000000Z', bound_ms = 0, deaf_ms = 0 WHERE bound_ms > 3600000`)
		require.NoError(t, err)
		_, err = command.Delete(t.Context(), odin.ID)
		require.NoError(t, err)
		require.NoError(t, command.Purge(t.Context(), odin.ID))
		require.NoError(t, inside.Err())
		_, err = deaf.Dir(inside)
		require.ErrorIs(t, err, ErrNotFound)
		_, err = os.Stat(filepath.Join(files, string(odin.ID)))
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = deaf.DB().ExecContext(inside, "SELECT 1")
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		requireHealthy(t, command)
	})
}

// What was undone is noticed by the door, at once by who undid it.
func TestDownIsNoticed(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		a := open(t, p.be)
		thor := create(t, a, "thor")
		require.NoError(t, visit(a, t.Context(), "thor", func(context.Context) error { return nil }))
		other := open(t, p.backend(t))
		require.NoError(t, visit(other, t.Context(), "thor", func(context.Context) error { return nil }))
		_, err := a.Migrator().Down(t.Context(), "", 1, migrate.DownOptions{})
		require.NoError(t, err)
		_, err = into(a, t.Context(), thor)
		require.ErrorIs(t, err, ErrBehind)
		require.Eventually(t, func() bool { // within migrate.ReadyBound, on a machine that is not busy
			_, err = into(other, t.Context(), thor)
			return err != nil
		}, time.Minute, time.Millisecond)
		require.ErrorIs(t, err, ErrBehind)
	})
}

// A finding may be repaired elsewhere than it was made.
func TestFindingsTravel(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		files := t.TempDir()
		a := open(t, p.be, func(c *Config) { c.FilesDir = files })
		nobody := "01900000-0000-7000-8000-000000000000"
		require.NoError(t, os.Mkdir(filepath.Join(files, nobody), 0o700))
		if p.be.Dialect() == backend.SQLite {
			dir := strings.TrimPrefix(p.url, "sqlite:")
			require.NoError(t, os.WriteFile(filepath.Join(dir, "tenants", "ghost.db-wal"), nil, 0o600))
		}
		findings, err := a.Doctor(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, findings)
		text, err := json.Marshal(findings)
		require.NoError(t, err)
		var arrived []Finding
		require.NoError(t, json.Unmarshal(text, &arrived))
		there := open(t, p.backend(t), func(c *Config) { c.FilesDir = files })
		for _, f := range arrived {
			require.NoError(t, there.Repair(t.Context(), f))
		}
		requireHealthy(t, a)
	})
}
