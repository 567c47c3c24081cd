package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/postgres"
)

// A fleet's stores have ten tables with two indexes each, a row in each table, and a statement that reads it. The text
// is short enough to need no TOAST table.
const texts = 10

func tenTables() string {
	var ddl strings.Builder
	for t := range texts {
		fmt.Fprintf(&ddl, "CREATE TABLE polls%[1]d (id integer PRIMARY KEY, question varchar(100) NOT NULL);"+
			"CREATE INDEX polls%[1]d_question ON polls%[1]d (question);"+
			"INSERT INTO polls%[1]d VALUES (1, 'Which colour?');\n", t)
	}
	return ddl.String()
}

var readTexts = func() (sql [texts]string) {
	for t := range sql {
		sql[t] = fmt.Sprintf("SELECT question FROM polls%d WHERE id = $1", t)
	}
	return sql
}()

func numbered(i int) backend.Store { return backend.MustParseStore(fmt.Sprintf("t%05d", i)) }

func routeTo(i int) backend.Route { return backend.Route{Store: numbered(i), Owner: fmt.Sprint(i)} }

// routes returns contexts that name the first n stores.
func routes(n int) []context.Context {
	out := make([]context.Context, n)
	for i := range out {
		out[i] = backend.WithRoute(context.Background(), routeTo(i))
	}
	return out
}

// roleParam switches the role for tenants' work on, as it is shipped, or off.
func roleParam(on bool) (name, value string) {
	if on {
		return "tenant_role", "auto"
	}
	return "tenant_role", "off"
}

// fleetKey names a fleet that several suites use.
type fleetKey struct{ role bool }

// fleet is a database with stores.
type fleet struct {
	fleetKey
	url    string // by TCP
	socket string // by the unix socket
	stores int
}

// fleet returns the fleet of that name with at least n stores.
func (e *env) fleet(ctx context.Context, key fleetKey, n int) (*fleet, error) {
	f := e.fleets[key]
	if f == nil {
		u, err := e.database(ctx)
		if err != nil {
			return nil, err
		}
		socket, err := e.cluster.SocketURL(u)
		if err != nil {
			return nil, err
		}
		f = &fleet{fleetKey: key, url: u, socket: socket}
		e.fleets[key] = f
	}
	if f.stores >= n {
		return f, nil
	}
	if err := f.grow(ctx, n); err != nil {
		return nil, err
	}
	// What was written is on its way to the disk before anything is measured.
	return f, e.asAdmin(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "CHECKPOINT")
		return err
	})
}

// grow makes stores until there are n, many in a message.
func (f *fleet) grow(ctx context.Context, n int) error {
	be, err := f.open(ctx, f.socket)
	if err != nil {
		return err
	}
	defer be.Close()
	const message = 16 // stores in one
	var next atomic.Int64
	next.Store(int64(f.stores))
	var g errgroup.Group
	for range 2 {
		g.Go(func() error {
			for {
				first := int(next.Add(message)) - message
				if first >= n {
					return nil
				}
				var scripts []backend.Script
				for i := first; i < min(first+message, n); i++ {
					scripts = append(scripts, backend.Script{Route: routeTo(i), Create: true, SQL: tenTables()})
				}
				if err := errors.Join(be.RunScripts(ctx, scripts, backend.ScriptOptions{Async: true})...); err != nil {
					return err
				}
			}
		})
	}
	if err := errors.Join(g.Wait(), be.Flush(ctx)); err != nil {
		return err
	}
	f.stores = n
	return nil
}

// open opens a backend on the fleet, by a URL that leads there.
func (f *fleet) open(ctx context.Context, via string, params ...string) (*postgres.Backend, error) {
	name, value := roleParam(f.role)
	u, err := withParams(via, append([]string{name, value}, params...)...)
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, u, postgres.Config{})
}

// visits says which store and which text is read next.
type visits struct {
	stores, texts int
	draw          func(rng *rand.Rand) func() (store, text int)
}

// pairs is how many different reads there are.
func (v visits) pairs() int { return v.stores * v.texts }

func sameStore() visits {
	return visits{1, 1, func(*rand.Rand) func() (int, int) {
		return func() (int, int) { return 0, 0 }
	}}
}

func uniform(stores, texts int) visits {
	return visits{stores, texts, func(rng *rand.Rand) func() (int, int) {
		return func() (int, int) { return rng.IntN(stores), rng.IntN(texts) }
	}}
}

// zipf draws stores as visitors do: few of them most of the time.
func zipf(stores, texts int) visits {
	return visits{stores, texts, func(rng *rand.Rand) func() (int, int) {
		z := rand.NewZipf(rng, 1.1, 1, uint64(stores-1))
		return func() (int, int) { return int(z.Uint64()), rng.IntN(texts) }
	}}
}

func routeContext(ctx context.Context, store int) context.Context {
	return backend.WithRoute(ctx, routeTo(store))
}
