package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing/fstest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/machine"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

const (
	soakTables = 20
	zipf       = 1.1
	soakActors = 8
)

func soakSources(tables int) []migrate.Source {
	var b strings.Builder
	b.WriteString("-- +goose Up\n")
	for i := range tables {
		fmt.Fprintf(&b, "CREATE TABLE things_%d (id BIGINT PRIMARY KEY, value BIGINT NOT NULL);\nINSERT INTO things_%d (id, value) VALUES (1, 0);\n", i, i)
	}
	return []migrate.Source{{Name: "soak", FS: fstest.MapFS{"00001_things.sql": {Data: []byte(b.String())}}}}
}

func openSoak(ctx context.Context, url string, tables int) (*tenancy.App, func() error, error) {
	be, err := backend.Open(ctx, url)
	if err != nil {
		return nil, nil, err
	}
	app, err := tenancy.Open(ctx, be, tenancy.Config{Tenant: soakSources(tables)})
	if err != nil {
		return nil, nil, errors.Join(err, be.Close())
	}
	return app, func() error { return errors.Join(app.Close(), be.Close()) }, nil
}

// slugs returns which tenant is how busy: the same order for each process of a run.
func slugs(seed uint64, n int) []string {
	all := make([]string, n)
	for i, k := range rand.New(rand.NewPCG(seed, 3)).Perm(n) {
		all[i] = fmt.Sprintf("t%d", k)
	}
	return all
}

// visitor reads and writes a row of some tenant's, each time in one of its tables.
type visitor struct {
	app    *tenancy.App
	tables int
	rng    *rand.Rand
}

func (v *visitor) visit(ctx context.Context, slug string) error {
	t, err := v.app.ResolveSlug(ctx, slug)
	if err != nil {
		return err
	}
	return v.app.Run(ctx, t, tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
		table := v.rng.IntN(v.tables)
		if v.rng.IntN(10) == 0 {
			_, err := v.app.DB().ExecContext(ctx, fmt.Sprintf("UPDATE things_%d SET value = value + 1 WHERE id = $1", table), 1)
			return err
		}
		var value int64
		return v.app.DB().QueryRowContext(ctx, fmt.Sprintf("SELECT value FROM things_%d WHERE id = $1", table), 1).Scan(&value)
	})
}

// runSoak is the process that serves for so long, and says each second what it uses.
func runSoak(o order) (err error) {
	ctx := context.Background()
	app, closeAll, err := openSoak(ctx, o.URL, soakTables)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	var ops atomic.Int64
	began := time.Now()
	limited, stop := context.WithTimeout(ctx, o.Soak)
	defer stop()
	group, inside := errgroup.WithContext(limited)
	for i := range soakActors {
		group.Go(func() error {
			rng := rand.New(rand.NewPCG(o.Seed, uint64(i)))
			v, busy := &visitor{app: app, tables: soakTables, rng: rng}, rand.NewZipf(rng, zipf, 1, uint64(o.Tenants-1))
			all := slugs(o.Seed, o.Tenants)
			for inside.Err() == nil {
				if err := v.visit(ctx, all[busy.Uint64()]); err != nil {
					return err
				}
				ops.Add(1)
			}
			return nil
		})
	}
	group.Go(func() error {
		for out := json.NewEncoder(os.Stdout); ; {
			select {
			case <-inside.Done():
				return nil
			case <-time.After(time.Second):
			}
			s := sample{At: time.Since(began).Seconds(), Ops: ops.Load(), Goroutines: runtime.NumGoroutine(), Files: openFiles()}
			if be, ok := app.Backend().(*postgres.Backend); ok {
				s.Retired = be.Stats().Retired
			}
			if s.Memory, err = machine.Anonymous(os.Getpid()); err != nil {
				return err
			}
			if err := out.Encode(s); err != nil {
				return err
			}
		}
	})
	return group.Wait()
}
