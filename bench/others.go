package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// The rows of what the others feel: reads of 500 tenants, all the time and by all the processors there are, while
// something happens to tenants that are not among them, or to all. A read that fails ends the suite: there are no others
// than those that are counted.

// othersRoles are the ways in which the server may tell tenants apart, by what tenant_role is called.
var othersRoles = []struct{ id, what, param string }{
	{"one", "one role", "auto"},
	{"each", "a role per tenant", "each"},
	{"none", "no role", "off"},
}

// othersEvents are what happens, in this order. What a migration leaves behind, whose statements have all to be planned
// anew, is not the next one's: the quiet moment after it is an event too.
var othersEvents = []struct {
	name, id, what string
	beside         func(ctx context.Context, e *env, v *village) (operation, error)
}{
	{name: "sign-ups", id: "signups", what: "during 5 sign-ups a second", beside: besideSignUps},
	{name: "purges", id: "purges", what: "during 5 purges a second", beside: besidePurges},
	{name: "export", id: "export", what: "during exports of a tenant of 100,000 rows", beside: besideExport},
	{name: "migration", id: "migration", what: "during a fleet migration, theirs too", beside: besideMigration},
	{name: "after it", id: "after", what: "after a fleet migration"},
}

const (
	othersReaders = 500
	othersWarm    = 20_000 // reads, ahead
	othersPace    = 5      // sign-ups and purges, a second
)

// othersSuites are the rows with so many tenants, a suite for each kind of roles.
func othersSuites(tenants, quick int) (suites []suite) {
	for _, r := range othersRoles {
		su := suite{
			name: fmt.Sprintf("others_%d_%s", tenants, r.id),
			what: fmt.Sprintf("reads of %d tenants of %d, %s, 8 goroutines", othersReaders, tenants, r.what),
			measure: func(ctx context.Context, e *env, s *scores) error {
				return others(ctx, e, s, e.pick(tenants, quick), r.param)
			},
		}
		for _, ev := range othersEvents {
			for _, m := range []metric{p50, p99} {
				su.rows = append(su.rows, row{
					id: fmt.Sprintf("%s_%s_%v", su.name, ev.id, m), what: fmt.Sprintf("%v %s ÷ alone", m, ev.what), metric: m, ours: ev.name, ref: "alone",
				})
			}
		}
		suites = append(suites, su)
	}
	return suites
}

func others(ctx context.Context, e *env, s *scores, tenants int, role string) error {
	if tenants > 1000 {
		if err := e.scaleCluster(ctx); err != nil {
			return err
		}
	}
	u, err := e.database(ctx)
	if err != nil {
		return err
	}
	if u, err = withParams(u, "tenant_role", role); err != nil {
		return err
	}
	v, err := e.village(ctx, u)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := v.populate(ctx, tenants); err != nil {
		return err
	}
	s.note("%d tenants were made in %v.", tenants, time.Since(began).Round(time.Second))
	readers := *v
	readers.tenants = v.tenants[:min(othersReaders, tenants)]
	contenders := []contender{{name: "alone", worker: readers.reader}}
	for _, ev := range othersEvents {
		c := contender{name: ev.name, worker: readers.reader}
		if ev.beside != nil {
			if c.beside, err = ev.beside(ctx, e, v); err != nil {
				return fmt.Errorf("%s: %w", ev.name, err)
			}
		}
		contenders = append(contenders, c)
	}
	return e.contest(ctx, s, contest{goroutines: saturating, warm: e.pick(othersWarm, 10)}, contenders...)
}

// populate makes n tenants.
func (v *village) populate(ctx context.Context, n int) error {
	v.tenants = make([]tenancy.ID, n)
	g, inside := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range n {
		g.Go(func() error {
			t, err := v.app.Create(inside, spec(i))
			v.tenants[i] = t.ID
			return err
		})
	}
	v.made, v.version = n, new(1)
	return g.Wait()
}

// paced has an operation done so many times a second, if that is possible.
func (e *env) paced(perSecond int, op operation) operation {
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	e.cleanup(tick.Stop)
	return func(ctx context.Context) error {
		<-tick.C
		return op(ctx)
	}
}

func besideSignUps(_ context.Context, e *env, v *village) (operation, error) {
	return e.paced(othersPace, v.creator(nil)), nil
}

// besidePurges purges tenants that were deleted a while ago, so that a purge has nobody to wait for.
func besidePurges(ctx context.Context, e *env, v *village) (operation, error) {
	bouts := e.rounds + 20 // the warm one is longer
	victims := make(chan tenancy.ID, bouts*e.pick(othersPace+1, 2))
	for range cap(victims) {
		v.made++
		t, err := v.app.Create(ctx, spec(v.made))
		if err == nil {
			t, err = v.app.Delete(ctx, t.ID)
		}
		if err != nil {
			return nil, err
		}
		victims <- t.ID
	}
	return e.paced(othersPace, func(ctx context.Context) error {
		select {
		case id := <-victims:
			return v.app.Purge(ctx, id)
		default:
			return errors.New("all tenants that were to be purged have been")
		}
	}), nil
}

func besideExport(ctx context.Context, e *env, v *village) (operation, error) {
	v.made++
	big, err := v.app.Create(ctx, spec(v.made))
	if err != nil {
		return nil, err
	}
	err = v.app.Run(ctx, big, tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
		_, err := v.app.DB().ExecContext(ctx, `INSERT INTO polls (id, question) SELECT i, 'Which colour, for the ' || i || 'th time?' FROM generate_series(2, $1::integer) i`,
			e.pick(100_000, 100))
		return err
	})
	if err != nil {
		return nil, err
	}
	dir, err := e.dir()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "export.db")
	return func(ctx context.Context) error {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		_, err := transfer.Export(ctx, v.app, big.ID, file, transfer.ExportOptions{})
		return err
	}, nil
}

func besideMigration(_ context.Context, _ *env, v *village) (operation, error) {
	return v.upgrader(nil), nil
}
