package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tenement-go/tenement/backend/postgres"
	"github.com/tenement-go/tenement/internal/chart"
	"github.com/tenement-go/tenement/internal/wireproxy"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// The rows of -scale growth: what an application does, with ten tenants and with more and more of them, each number in a
// database of its own, on a server without latency and on one that is a millisecond away.

// growthSizes are the numbers of tenants; quickSizes those with -quick.
var growthSizes, quickSizes = []int{10, 100, 1000, 10000}, []int{3, 6}

// growthWarm is how many reads come ahead of those that are measured.
const growthWarm = 40_000

// growthKind is one of the things that are measured at each size.
type growthKind struct {
	id, what   string
	peer       string // who does it, when it is not us; it is drawn into the chart of reads
	goroutines int
	ops        int
	far        bool // also at a distance
	perTenant  bool // of an operation that does something to all of them
	worker     func(v *village, rng *rand.Rand) operation
}

var growthKinds = []growthKind{
	{id: "read", what: "a point read in a tenant at random, its ID resolved", goroutines: saturating, far: true, worker: (*village).reader},
	{id: "set", what: "the same by acquire, `SET search_path`, query", peer: "SET search_path", goroutines: saturating, far: true, worker: (*village).setter},
	{id: "rls", what: "the same from one table with row-level security, tenant and query in one batch", peer: "row-level security", goroutines: saturating, far: true, worker: (*village).secured},
	{id: "resolve", what: "resolving a host at random, with the cache as it is shipped", worker: (*village).resolver},
	{id: "nothing", what: "a fleet migration with nothing pending, per tenant", ops: 1, far: true, perTenant: true, worker: (*village).nothing},
	{id: "create", what: "App.Create with a domain", ops: 5, far: true, worker: (*village).creator},
	{id: "fleet", what: "a fleet migration of one ADD COLUMN, per tenant", ops: 1, far: true, perTenant: true, worker: (*village).upgrader},
}

var growthSuites = func() (suites []suite) {
	su := suite{name: "growth", what: "10, 100, 1,000 and 10,000 tenants", measure: growth, charts: growthCharts}
	for _, k := range growthKinds {
		for _, far := range distances(k) {
			su.rows = append(su.rows, row{
				id: "growth_" + k.id + map[bool]string{true: "_1ms"}[far], what: k.what + distance(far) + ": 10,000 tenants ÷ 100",
				ours: k.name(growthSizes[3], far), ref: k.name(growthSizes[1], far),
			})
			if k.peer != "" {
				read := growthKinds[0]
				su.rows = append(su.rows, row{
					id: "growth_read_" + k.id + map[bool]string{true: "_1ms"}[far], what: read.what + distance(far) + ", 10,000 tenants ÷ " + k.peer,
					ours: read.name(growthSizes[3], far), ref: k.name(growthSizes[3], far),
				})
			}
		}
	}
	return []suite{su}
}()

func distances(k growthKind) []bool {
	if k.far {
		return []bool{false, true}
	}
	return []bool{false}
}

func distance(far bool) string {
	if far {
		return ", 1 ms away"
	}
	return ""
}

// name is what the contender of a size is called. With -quick the smaller sizes go by the names of the others.
func (k growthKind) name(tenants int, far bool) string {
	return fmt.Sprintf("%s, %d tenants%s", k.id, tenants, distance(far))
}

// village is an application with so many tenants.
type village struct {
	be      *postgres.Backend
	app     *tenancy.App
	pool    *pgxpool.Pool // the peers'
	tenants []tenancy.ID
	version *int // of its tables, which the applications near and far have in common
	made    int
}

func growth(ctx context.Context, e *env, s *scores) error {
	if err := e.scaleCluster(ctx); err != nil {
		return err
	}
	near, far := make([]*village, len(growthSizes)), make([]*village, len(growthSizes))
	for i, n := range growthSizes {
		if e.quick {
			n = quickSizes[min(i, 1)]
		}
		var err error
		if near[i], far[i], err = e.settle(ctx, n); err != nil {
			return fmt.Errorf("%d tenants: %w", n, err)
		}
	}
	for _, k := range growthKinds {
		var contenders []contender
		for i, n := range growthSizes {
			for _, away := range distances(k) {
				v := near[i]
				if away {
					v = far[i]
				}
				c := contender{name: k.name(n, away), worker: func(rng *rand.Rand) operation { return k.worker(v, rng) }}
				if k.perTenant {
					c.per = float64(len(v.tenants))
				}
				contenders = append(contenders, c)
			}
		}
		c := contest{goroutines: k.goroutines, ops: k.ops}
		if k.goroutines > 1 {
			c.warm = e.pick(growthWarm, 10) // each store has been seen where it is at home
		}
		if err := e.contest(ctx, s, c, contenders...); err != nil {
			return err
		}
	}
	return nil
}

// settle makes a database with n tenants, and returns the application beside it and the one that is far away.
func (e *env) settle(ctx context.Context, n int) (near, far *village, err error) {
	u, err := e.database(ctx)
	if err != nil {
		return nil, nil, err
	}
	if near, err = e.village(ctx, u); err != nil {
		return nil, nil, err
	}
	if err = near.populate(ctx, n); err != nil {
		return nil, nil, err
	}
	if err := fillSecured(ctx, near.pool, n); err != nil {
		return nil, nil, err
	}
	proxy, err := wireproxy.NewURL(u)
	if err != nil {
		return nil, nil, err
	}
	e.cleanup(func() { _ = proxy.Close() })
	proxy.SetLatency(500 * time.Microsecond) // each way
	if far, err = e.village(ctx, proxy.URL(u)); err != nil {
		return nil, nil, err
	}
	far.tenants, far.version, far.made = near.tenants, near.version, 1_000_000
	return near, far, nil
}

func (e *env) village(ctx context.Context, u string) (*village, error) {
	be, err := postgres.Open(ctx, u, postgres.Config{})
	if err != nil {
		return nil, err
	}
	e.cleanup(func() { _ = be.Close() })
	app, err := e.app(ctx, be, tenancy.Config{Tenant: []migrate.Source{{Name: "polls", FS: growthVersions(1)}}})
	if err != nil {
		return nil, err
	}
	pool, err := e.pool(ctx, u, "peers", "")
	return &village{be: be, app: app, pool: pool}, err
}

// fillSecured makes the table that all tenants have in common, with a hundred rows of each.
func fillSecured(ctx context.Context, pool *pgxpool.Pool, n int) error {
	if _, err := pool.Exec(ctx, `
		CREATE TABLE secured (tenant integer NOT NULL, id integer NOT NULL, question text NOT NULL, PRIMARY KEY (tenant, id));
		CREATE POLICY own ON secured USING (tenant = nullif(current_setting('bench.tenant', true), '')::integer)`); err != nil {
		return err
	}
	// Its owner is under the policy too, once it is on.
	if _, err := pool.Exec(ctx, `INSERT INTO secured SELECT t, i, 'Which colour?' FROM generate_series(0, $1::integer - 1) t, generate_series(1, 100) i`, n); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, `ALTER TABLE secured ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; ANALYZE secured`); err != nil {
		return err
	}
	var seen int
	if err := queryAs(ctx, pool, 0, &seen, `SELECT count(*) FROM secured`); err != nil {
		return err
	}
	if seen != 100 {
		return fmt.Errorf("a tenant sees %d rows of 100: the log-in bypasses row-level security", seen)
	}
	return nil
}

func spec(i int) tenancy.Spec {
	return tenancy.Spec{Slug: fmt.Sprintf("t%d", i), Domains: []string{growthHost(i)}}
}

func growthHost(i int) string { return fmt.Sprintf("t%d.bench.example", i) }

// growthVersions makes a table with a row, and adds columns in later versions.
func growthVersions(last int) fs.FS { return versions(pointTable+";\n"+pointRow, last, addColumn) }

func (v *village) reader(rng *rand.Rand) operation {
	return func(ctx context.Context) error {
		id := v.tenants[rng.IntN(len(v.tenants))]
		return v.app.Run(ctx, id, tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
			var q string
			return v.app.DB().QueryRowContext(ctx, `SELECT question FROM polls WHERE id = $1`, 1).Scan(&q)
		})
	}
}

func (v *village) setter(rng *rand.Rand) operation {
	return func(ctx context.Context) error {
		return afterSet(ctx, v.pool, setSearchPath(fmt.Sprintf("t%d", rng.IntN(len(v.tenants)))), func(conn *pgxpool.Conn) error {
			var q string
			return conn.QueryRow(ctx, `SELECT question FROM polls WHERE id = $1`, 1).Scan(&q)
		})
	}
}

func (v *village) secured(rng *rand.Rand) operation {
	return func(ctx context.Context) error {
		var q string
		return queryAs(ctx, v.pool, rng.IntN(len(v.tenants)), &q, `SELECT question FROM secured WHERE id = $1`, 1)
	}
}

// queryAs sends the tenant and a query as one batch, which is one transaction.
func queryAs(ctx context.Context, pool *pgxpool.Pool, tenant int, dest any, sql string, args ...any) error {
	b := new(pgx.Batch)
	b.Queue(`SELECT set_config('bench.tenant', $1, true)`, fmt.Sprint(tenant))
	b.Queue(sql, args...).QueryRow(func(row pgx.Row) error { return row.Scan(dest) })
	return pool.SendBatch(ctx, b).Close()
}

func (v *village) resolver(rng *rand.Rand) operation {
	return func(ctx context.Context) error {
		_, err := v.app.Resolve(ctx, growthHost(rng.IntN(len(v.tenants))))
		return err
	}
}

func (v *village) creator(*rand.Rand) operation {
	return func(ctx context.Context) error {
		v.made++
		_, err := v.app.Create(ctx, spec(v.made))
		return err
	}
}

func (v *village) nothing(*rand.Rand) operation {
	return func(ctx context.Context) error { return v.up(ctx) }
}

func (v *village) upgrader(*rand.Rand) operation {
	return func(ctx context.Context) error {
		*v.version++
		return v.up(ctx)
	}
}

func (v *village) up(ctx context.Context) error {
	return migrateTo(ctx, v.be, growthVersions(*v.version))
}

// growthCharts draws each kind over the number of tenants.
func growthCharts(s *scores) map[string]chart.Chart {
	charts := make(map[string]chart.Chart)
	for _, k := range growthKinds {
		name, who := "growth-"+k.id, ""
		if k.peer != "" {
			name, who = "growth-read", k.peer
		}
		c, begun := charts[name]
		if !begun {
			c = chart.Chart{Title: k.what, X: "tenants, as a power of ten", Y: "µs"}
		}
		for _, far := range distances(k) {
			line := chart.Line{Name: cmp.Or(who, "ours") + distance(far)}
			for _, n := range growthSizes {
				line.X = append(line.X, math.Log10(float64(n)))
				line.Y = append(line.Y, median(s.of[k.name(n, far)][wall])/1e3)
			}
			c.Lines = append(c.Lines, line)
		}
		charts[name] = c
	}
	return charts
}
