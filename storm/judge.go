package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// verdict is what a storm came to.
type verdict struct {
	over                       string
	Ops, Writes, Rows, Tenants int
	Judged                     int // of the writes: those of stores that were read after them, at the end or before a purge
	Calm                       int // deeds in calm weather
	Faults                     map[faultKind]int
	Errors                     map[string]int
	Breaches                   []string
}

func (v *verdict) add(format string, args ...any) {
	v.Breaches = append(v.Breaches, fmt.Sprintf(format, args...))
}

// judge lets everything come to an end, and then compares the stores with the journals.
func judge(ctx context.Context, url, journals string, version int) (*verdict, error) {
	r, err := readJournals(journals)
	if err != nil {
		return nil, err
	}
	v := &verdict{Ops: r.ops, Writes: len(r.writes), Errors: r.errors, Breaches: r.breaches, Faults: map[faultKind]int{}}
	app, closeAll, err := open(ctx, url, version)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := closeAll(); err != nil {
			v.add("leak: closing: %v", err)
		}
	}()
	c := newCourt(app, r, v, version)
	if err := c.settle(ctx); err != nil {
		return nil, err
	}
	return v, c.compare(ctx)
}

type court struct {
	app     *tenancy.App
	r       *record
	v       *verdict
	version int              // that all stores are at; 0: each is at one of its own
	until   map[string]int64 // when each tenant's store was read for the last time
}

func newCourt(app *tenancy.App, r *record, v *verdict, version int) *court {
	return &court{app: app, r: r, v: v, version: version, until: map[string]int64{}}
}

// settle waits until operations are over, looks whether the changes of before are there, brings all stores to the newest
// version and asks the doctor.
func (c *court) settle(ctx context.Context) error {
	if err := settled(ctx, c.app); err != nil {
		c.v.add("hung: %v", err)
	}
	if err := errors.Join(c.changes(ctx), c.unmade(ctx)); err != nil {
		return err
	}
	if c.version > 1 {
		if err := c.antidote(ctx); err != nil {
			return err
		}
		_, err := c.app.Migrator().Up(ctx, migrate.UpOptions{})
		if errors.Is(err, migrate.ErrInvalidIndex) {
			if err := c.dropInvalid(ctx, err); err != nil {
				return err
			}
			_, err = c.app.Migrator().Up(ctx, migrate.UpOptions{})
		}
		if err != nil {
			c.v.add("lost: the last migration failed: %v", err)
		}
	}
	return c.doctor(ctx)
}

// dropInvalid does what the error says: a CREATE INDEX CONCURRENTLY that was cut off left an index that is invalid.
func (c *court) dropInvalid(ctx context.Context, err error) error {
	var run *migrate.RunError
	if !errors.As(err, &run) {
		return err
	}
	for _, f := range run.Result.Failures {
		if errors.Is(f, migrate.ErrInvalidIndex) {
			db := c.app.Backend().Maintenance(backend.Route{Store: f.Store})
			_, err := db.ExecContext(ctx, "DROP INDEX "+indexName)
			if err = errors.Join(err, db.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}

// unmade purges the tombstones of tenants that never were: their creation was cut off, and somebody deleted them. They have
// no store, which the doctor says.
func (c *court) unmade(ctx context.Context) error {
	for t, err := range c.app.Tenants(ctx, tenancy.Filter{Status: []tenancy.Status{tenancy.Deleted}}) {
		if err != nil {
			return err
		}
		if _, err := c.app.Backend().Stat(ctx, t.Store); !errors.Is(err, backend.ErrStoreMissing) || c.r.made[string(t.ID)] {
			continue
		}
		if err := c.app.Purge(ctx, t.ID); err != nil {
			return err
		}
	}
	return nil
}

// antidote takes the rows away that made a migration fail.
func (c *court) antidote(ctx context.Context) error {
	return c.each(ctx, func(ctx context.Context, t *tenancy.Tenant) error {
		_, err := c.app.DB().ExecContext(ctx, fmt.Sprintf("DELETE FROM entries WHERE write_id = %d", poison))
		return err
	})
}

// each calls fn in every tenant that has a store, whatever its status.
func (c *court) each(ctx context.Context, fn func(ctx context.Context, t *tenancy.Tenant) error) error {
	for t, err := range c.app.Tenants(ctx, tenancy.Filter{}) {
		if err != nil {
			return err
		}
		if t.Status == tenancy.Failed || t.Status == tenancy.Provisioning {
			continue
		}
		if err := c.app.Run(ctx, t.ID, tenancy.Policy{Operator: true, AnyVersion: true}, fn); err != nil {
			c.v.add("lost: tenant %s (%s, %s): %v", t.ID, t.Slug, t.Status, err)
		}
	}
	return nil
}

// repairable are the findings that a killed process, or a creation that failed, may leave: what nobody's data is in.
var repairable = map[tenancy.FindingCode]bool{tenancy.FindingFailed: true, tenancy.FindingLeftover: true, tenancy.FindingAdvice: true}

func (c *court) doctor(ctx context.Context) error {
	aside, err := c.app.AsideStores(ctx)
	if err != nil {
		return err
	}
	for _, s := range aside { // what a process that died left of a creation
		if err := c.app.PurgeAside(ctx, s.Store); err != nil {
			c.v.add("lost: purging what was set aside: %v", err)
		}
	}
	for t, err := range c.app.Tenants(ctx, tenancy.Filter{Status: []tenancy.Status{tenancy.Failed}}) {
		if err != nil {
			return err
		}
		if _, err = c.app.Delete(ctx, t.ID); err == nil {
			err = c.app.Purge(ctx, t.ID)
		}
		if err != nil {
			c.v.add("lost: purging a tenant that failed: %v", err)
		}
	}
	for round := range 2 {
		findings, err := c.app.Doctor(ctx)
		if err != nil {
			return err
		}
		for _, f := range findings {
			if round > 0 || !repairable[f.Code] {
				c.v.add("lost: the doctor says: %s %s: %s", f.Code, f.Subject, f.Detail)
			} else if err := c.app.Repair(ctx, f); err != nil && !errors.Is(err, tenancy.ErrNoRepair) {
				c.v.add("lost: repairing %s %s: %v", f.Code, f.Subject, err)
			}
		}
	}
	return nil
}

// changes compares the registry with what was acknowledged of it. Each change makes a version of a tenant, a later one than
// those before: what is there is the last that was acknowledged, or comes after it.
func (c *court) changes(ctx context.Context) error {
	for t, err := range c.app.Tenants(ctx, tenancy.Filter{}) {
		if err != nil {
			return err
		}
		c.change(t)
	}
	return nil
}

func (c *court) change(t tenancy.Tenant) {
	now := state{t.Version, t.Status, t.Slug}
	for _, then := range c.r.states[string(t.ID)] {
		if then.version > now.version || then.version == now.version && then != now {
			c.v.add("lost: of tenant %s version %d was acknowledged, %s (%s), and it is version %d, %s (%s)",
				t.ID, then.version, then.slug, then.status, now.version, now.slug, now.status)
		}
	}
}

// compare reads every store.
func (c *court) compare(ctx context.Context) error {
	present := map[string]bool{}
	err := c.each(ctx, func(ctx context.Context, t *tenancy.Tenant) error {
		present[string(t.ID)] = true
		c.v.Tenants++
		if c.r.gone[string(t.ID)] {
			c.v.add("wrong: tenant %s (%s) is there, and its purge was acknowledged", t.ID, t.Slug)
		}
		return c.store(ctx, t)
	})
	if err != nil {
		return err
	}
	c.absent(present)
	return c.shared(ctx)
}

// absent goes by what was read of tenants before they were purged, and looks whether those that are gone were to be. What was
// written to one that nobody could read is not judged.
func (c *court) absent(present map[string]bool) {
	for _, s := range c.r.readings {
		c.content(s)
	}
	lost := map[string]bool{}
	for id := range c.r.made {
		if lost[id] = !present[id] && !c.r.mayBeGone(id); lost[id] {
			c.v.add("lost: tenant %s was in service and is gone, and nobody purged it", id)
		}
	}
	for id, w := range c.r.writes {
		tenant := c.r.tenants[w.tenant]
		switch until, read := c.until[tenant]; {
		case w.outcome == lineAck && lost[tenant]:
			c.v.add("lost: write %d of tenant %s was acknowledged, and the tenant is gone", id, tenant)
			c.v.Judged++
		case read && w.at <= until: // which is 0 where it was not acknowledged
			c.v.Judged++
		}
	}
}

// store reads one store.
func (c *court) store(ctx context.Context, t *tenancy.Tenant) error {
	s, err := readContent(ctx, c.app, t)
	if err != nil {
		return err
	}
	c.content(s)
	return c.migrated(ctx, t)
}

// migrated looks whether the store has all of each migration up to its version, once. That is the court's, or where it has
// none, the greatest that the store says it has.
func (c *court) migrated(ctx context.Context, t *tenancy.Tenant) error {
	recorded, err := c.versions(ctx, `SELECT version_id FROM goose_db_version`)
	if err != nil {
		return err
	}
	done, err := c.versions(ctx, `SELECT version FROM migrated`)
	if err != nil {
		return err
	}
	at := c.version
	if at == 0 {
		for v := range recorded {
			at = max(at, v)
		}
	}
	for v := range newest + 1 {
		c.once(t, v, "its version row", recorded[v], v <= at)
		c.once(t, v, "its statements", done[v], v <= at && leavesRow(v))
	}
	return c.altered(ctx, t, at)
}

// versions counts how often a query gives each version.
func (c *court) versions(ctx context.Context, query string) (map[int]int, error) {
	rows, err := c.app.DB().QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	n := map[int]int{}
	for rows.Next() {
		var v int
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		n[v]++
	}
	return n, rows.Err()
}

// once looks whether what is to be there once is, and what is not to be is not.
func (c *court) once(t *tenancy.Tenant, version int, what string, n int, wanted bool) {
	kind := "wrong"
	switch {
	case wanted && n == 1, !wanted && n == 0:
		return
	case n == 0:
		kind = "lost"
	}
	c.v.add("%s: tenant %s (%s, created %v): migration %d: %s: %d times", kind, t.ID, t.Slug, t.Created, version, what, n)
}

// altered looks whether the tables are those of a version.
func (c *court) altered(ctx context.Context, t *tenancy.Tenant, version int) error {
	if version >= indexVersion {
		var n int
		if err := c.app.DB().QueryRowContext(ctx, sqlIndex[c.app.Backend().Dialect()]).Scan(&n); err != nil {
			return err
		}
		c.once(t, indexVersion, "its index", n, true)
	}
	var columns []string
	for v := range version + 1 {
		if addsColumn(v) {
			columns = append(columns, fmt.Sprintf("c%d", v))
		}
	}
	if columns == nil {
		return nil
	}
	var n int
	err := c.app.DB().QueryRowContext(ctx, "SELECT count(*) FROM (SELECT "+strings.Join(columns, ", ")+" FROM entries LIMIT 0) AS altered").Scan(&n)
	if err != nil {
		c.v.add("lost: tenant %s (%s, created %v): migrations: their columns: %v", t.ID, t.Slug, t.Created, err)
	}
	return nil
}

// shared looks whether the shared table has its one row.
func (c *court) shared(ctx context.Context) error {
	var n int
	var mark string
	err := c.app.Shared().QueryRowContext(ctx, `SELECT count(*), max(mark) FROM entries`).Scan(&n, &mark)
	if err == nil && (n != 1 || mark != sharedMark) {
		c.v.add("wrong: the shared table has %d rows, of %q among others", n, mark)
	}
	return err
}
