package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// errands are what a process is killed in the middle of. Each is done to a tenant of its own, or makes one of that slug.
var errands = []string{"create", "rename", "purge", "clone", "import", "restore", "migrate"}

// errand is one of them.
type errand struct {
	Op, Slug, File string
	Tenant         tenancy.ID
	Version        int
}

func (e errand) do(ctx context.Context, app *tenancy.App) (err error) {
	switch e.Op {
	case "create":
		_, err = app.Create(ctx, tenancy.Spec{Slug: e.Slug})
	case "rename":
		_, err = app.Rename(ctx, e.Tenant, e.Slug)
	case "purge":
		err = app.Purge(ctx, e.Tenant)
	case "clone":
		_, err = transfer.Clone(ctx, app, e.Tenant, transfer.CloneOptions{Spec: tenancy.Spec{Slug: e.Slug, Name: cloneOf + string(e.Tenant)}})
	case "import":
		_, err = transfer.Import(ctx, app, e.File, transfer.ImportOptions{})
	case "restore":
		_, err = transfer.Restore(ctx, app, e.Tenant, e.File, transfer.RestoreOptions{})
	case "migrate":
		_, err = app.Migrator().Up(ctx, migrate.UpOptions{})
	}
	return err
}

// runErrand is the process that is to be killed.
func runErrand(o order) error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	app, closeAll, err := open(ctx, o.URL, max(o.Errand.Version, 1))
	if err != nil {
		return err
	}
	fmt.Println("go") // the time until the end is counted from here
	return errors.Join(o.Errand.do(ctx, app), closeAll())
}

// crash kills processes in the middle of errands over one set-up. After each, the process that runs it finishes what was
// begun, or undoes it, by itself.
func crash(ctx context.Context, st *stage, t terms) (*verdict, error) {
	app, closeAll, err := open(ctx, st.direct, 1)
	if err != nil {
		return nil, err
	}
	v := &verdict{Faults: map[faultKind]int{}}
	h := &hospital{
		company: company{st: st, order: order{URL: st.direct, Journal: st.dir}},
		app:     app, v: v, rng: rand.New(rand.NewPCG(t.seed, 2)), usual: map[string]time.Duration{},
	}
	for i := 0; v.faults() < t.kills && i < 3*t.kills; i++ {
		if err := h.accident(ctx, i); err != nil {
			return nil, errors.Join(err, closeAll())
		}
	}
	c := newCourt(app, &record{}, v, 0)
	return v, errors.Join(c.doctor(ctx), c.shared(ctx), closeAll())
}

// hospital is the process that goes on.
type hospital struct {
	company
	app   *tenancy.App
	v     *verdict
	rng   *rand.Rand
	usual map[string]time.Duration // how long an errand takes that nobody cuts off
}

func (h *hospital) accident(ctx context.Context, i int) error {
	e := errand{Op: errands[i%len(errands)], Slug: fmt.Sprintf("new%d", i), File: filepath.Join(filepath.Dir(h.st.dir), fmt.Sprintf("%d.tenant", i)), Version: 1}
	old, err := h.prepare(ctx, &e, i)
	if err != nil {
		return err
	}
	defer os.Remove(e.File)
	p, err := h.start(func(o *order) { o.Errand = e })
	if err != nil {
		return err
	}
	p.ready()
	began := time.Now()
	usual := h.usual[e.Op]
	if usual == 0 { // the first of a kind is not killed
		<-p.done
		h.usual[e.Op] = time.Since(began)
	} else {
		select {
		case <-p.done:
		case <-time.After(time.Duration(h.rng.Int64N(int64(usual)))):
			p.kill()
			h.v.Faults[faultKind("killed in "+e.Op)]++
		}
	}
	h.v.Ops++
	return h.recover(ctx, e, old)
}

// prepare makes what the errand needs.
func (h *hospital) prepare(ctx context.Context, e *errand, i int) (old tenancy.Tenant, err error) {
	if e.Op == "create" {
		return old, nil
	}
	if old, err = h.app.Create(ctx, tenancy.Spec{Slug: fmt.Sprintf("old%d", i)}); err != nil {
		return old, err
	}
	e.Tenant = old.ID
	switch e.Op {
	case "import", "restore":
		name := cloneOf + string(old.ID) // which an import gets another ID than
		if _, err = h.app.Update(ctx, old.ID, tenancy.Patch{Name: &name}); err != nil {
			return old, err
		}
		if _, err = transfer.Export(ctx, h.app, old.ID, e.File, transfer.ExportOptions{}); err == nil && e.Op == "import" {
			if _, err = h.app.Delete(ctx, old.ID); err != nil {
				return old, err
			}
			err = h.app.Purge(ctx, old.ID)
		}
	case "purge":
		_, err = h.app.Delete(ctx, old.ID)
	case "migrate":
		e.Version = 2
	}
	return old, err
}

// recover waits until nothing is under way, looks whether everything is one thing or the other, and clears up.
func (h *hospital) recover(ctx context.Context, e errand, old tenancy.Tenant) error {
	findings, err := h.calm(ctx, e)
	if err != nil {
		return err
	}
	for _, f := range findings {
		if f.Code != tenancy.FindingLeftover { // what was being built for everybody
			h.v.add("lost: killed in %s: the doctor says: %s %s: %s", e.Op, f.Code, f.Subject, f.Detail)
		} else if err := h.app.Repair(ctx, f); err != nil {
			h.v.add("lost: killed in %s: repairing %s: %v", e.Op, f.Subject, err)
		}
	}
	c := newCourt(h.app, &record{}, h.v, 0)
	if err := c.each(ctx, c.store); err != nil {
		return err
	}
	if _, err := h.app.ByID(ctx, old.ID); e.Op != "create" && e.Op != "purge" && e.Op != "import" && err != nil {
		h.v.add("lost: killed in %s: tenant %s: %v", e.Op, old.Slug, err)
	}
	return h.clear(ctx)
}

// calm waits until nothing is under way, and returns what else the doctor says. To find no operation once is not enough: the
// server may still be committing what the killed process asked for.
func (h *hospital) calm(ctx context.Context, e errand) (findings []tenancy.Finding, err error) {
	unfinished := func(f tenancy.Finding) bool { return f.Code == tenancy.FindingUnfinished }
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		ops, err := h.app.Operations(ctx)
		if err != nil {
			return nil, err
		}
		if len(ops) == 0 {
			if findings, err = h.app.Doctor(ctx); err != nil || !slices.ContainsFunc(findings, unfinished) {
				return findings, err
			}
		}
		if time.Since(began) > time.Minute {
			h.v.add("hung: killed in %s: %+v", e.Op, ops)
			return slices.DeleteFunc(findings, unfinished), nil
		}
	}
}

// clear purges every tenant, and what was set aside.
func (h *hospital) clear(ctx context.Context) error {
	for t, err := range h.app.Tenants(ctx, tenancy.Filter{}) {
		if err == nil {
			_, err = h.app.Delete(ctx, t.ID)
		}
		if err == nil {
			err = h.app.Purge(ctx, t.ID)
		}
		if err != nil {
			return err
		}
	}
	aside, err := h.app.AsideStores(ctx)
	for _, s := range aside {
		err = errors.Join(err, h.app.PurgeAside(ctx, s.Store))
	}
	return err
}
