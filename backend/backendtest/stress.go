package backendtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

var stressCases = []testCase{
	{
		id: "S03", name: "many goroutines, many tenants, few connections",
		rule:     "Under any mixture of statements, transactions and cancellations each row is its tenant's, none that was committed is lost, and none that was rolled back is kept.",
		conns:    8,
		patience: 4,
		run:      stress,
	},
}

// stressWorker is one goroutine of S03. Every row that it writes has a mark unique in the run, in a column, and the
// tenant's name in another; what became of the row is noted.
type stressWorker struct {
	e      *env
	rng    *rand.Rand
	id     int
	seq    int
	shared *stressShared

	committed map[string]string // mark → tenant
	undone    []string          // marks that must not be found
}

type stressShared struct {
	routes []backend.Route
	budget atomic.Int64 // statements still to run
	insert *sql.Stmt
	read   *sql.Stmt
}

func stress(e *env) {
	goroutines, tenants, statements := 16, 12, int64(2000)
	if e.cfg.Full && !testing.Short() {
		goroutines, tenants, statements = 64, 50, 20_000
	}
	seed := e.cfg.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	e.Logf("seed %d", seed)

	shared := &stressShared{}
	shared.budget.Store(statements)
	for i := range tenants {
		rt := route(fmt.Sprintf("t%02d", i))
		require.NoError(e, e.be.Create(e.ctx, rt))
		e.ddl(rt, `CREATE TABLE entries (mark text PRIMARY KEY, tenant text NOT NULL)`)
		shared.routes = append(shared.routes, rt)
	}
	e.shared(`CREATE TABLE entries (mark text PRIMARY KEY, tenant text NOT NULL)`)
	var err error
	shared.insert, err = e.be.DB().PrepareContext(e.in(shared.routes[0]), insertEntry)
	require.NoError(e, err)
	defer func() { _ = shared.insert.Close() }()
	shared.read, err = e.be.DB().PrepareContext(e.in(shared.routes[0]), selectTenants)
	require.NoError(e, err)
	defer func() { _ = shared.read.Close() }()

	failures := newTally()
	workers := make([]*stressWorker, goroutines)
	var wg sync.WaitGroup
	for i := range workers {
		w := &stressWorker{
			e: e, id: i, shared: shared, committed: map[string]string{},
			rng: rand.New(rand.NewPCG(seed, uint64(i))),
		}
		workers[i] = w
		wg.Go(func() {
			for shared.budget.Load() > 0 && e.ctx.Err() == nil {
				failures.add(w.step())
			}
		})
	}
	wg.Wait()
	require.NoError(e, failures.err(), "seed %d", seed)
	require.NoError(e, e.ctx.Err(), "did not finish in time")

	found := map[string]string{}
	for _, rt := range shared.routes {
		rows, err := e.be.DB().QueryContext(e.in(rt), `SELECT mark, tenant FROM entries`)
		require.NoError(e, err)
		for rows.Next() {
			var mark, tenant string
			require.NoError(e, rows.Scan(&mark, &tenant))
			require.Equal(e, rt.Store.String(), tenant, "row %s in store %s, seed %d", mark, rt.Store, seed)
			found[mark] = tenant
		}
		require.NoError(e, rows.Err())
	}
	for _, db := range e.everyShared() {
		got, err := readStrings(e.ctx, db, `SELECT mark FROM entries`)
		require.NoError(e, err)
		require.Empty(e, got, "rows that landed in the shared store, seed %d", seed)
	}
	total := 0
	for _, w := range workers {
		for mark, tenant := range w.committed {
			require.Equal(e, tenant, found[mark], "the committed row %s, seed %d", mark, seed)
			total++
		}
		for _, mark := range w.undone {
			require.NotContains(e, found, mark, "a row that was rolled back, seed %d", seed)
		}
	}
	require.NotZero(e, total, "no row was committed")
}

const (
	insertEntry   = `INSERT INTO entries (mark, tenant) VALUES ($1, $2)`
	selectTenants = `SELECT tenant FROM entries LIMIT 20`
)

// step runs one unit of work. An error of it matters only when its context had not been cancelled.
func (w *stressWorker) step() error {
	rt := w.shared.routes[w.rng.IntN(len(w.shared.routes))]
	ctx, cancel := context.WithCancel(w.e.in(rt))
	defer cancel()
	if w.rng.IntN(10) == 0 {
		if delay := time.Duration(w.rng.IntN(3000)) * time.Microsecond; delay < 200*time.Microsecond {
			cancel()
		} else {
			defer time.AfterFunc(delay, cancel).Stop()
		}
	}
	err := w.work(ctx, rt.Store.String())
	if err != nil && ctx.Err() != nil && !errors.Is(err, errWrongRow) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("in %s: %w", rt.Store, err)
	}
	return nil
}

var errWrongRow = errors.New("a row of another tenant")

func (w *stressWorker) work(ctx context.Context, tenant string) error {
	db := w.e.be.DB()
	switch w.rng.IntN(12) {
	case 0, 1, 2, 3:
		return w.check(ctx, db, tenant)
	case 4:
		w.count(1)
		got, err := readMarksStmt(ctx, w.shared.read)
		return errors.Join(err, only(tenant, got))
	case 5, 6:
		mark := w.mark()
		w.count(1)
		if _, err := db.ExecContext(ctx, insertEntry, mark, tenant); err != nil {
			return err
		}
		w.committed[mark] = tenant
	case 7:
		mark := w.mark()
		w.count(1)
		if _, err := w.shared.insert.ExecContext(ctx, mark, tenant); err != nil {
			return err
		}
		w.committed[mark] = tenant
	case 8, 9:
		return w.transaction(ctx, tenant, w.rng.IntN(3) == 0)
	case 10:
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if err := w.check(ctx, conn, tenant); err != nil {
			return err
		}
		mark := w.mark()
		w.count(1)
		if _, err := conn.ExecContext(ctx, insertEntry, mark, tenant); err != nil {
			return err
		}
		w.committed[mark] = tenant
		return w.check(ctx, conn, tenant)
	default: // a result that is not read to its end
		w.count(1)
		rows, err := db.QueryContext(ctx, selectTenants)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		if rows.Next() {
			var got string
			if err := rows.Scan(&got); err != nil {
				return err
			}
			return only(tenant, []string{got})
		}
		return rows.Err()
	}
	return nil
}

func (w *stressWorker) transaction(ctx context.Context, tenant string, rollback bool) error {
	tx, err := w.e.be.DB().BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	marks := []string{w.mark(), w.mark()}
	for i, mark := range marks {
		w.count(1)
		if _, err := tx.ExecContext(ctx, insertEntry, mark, tenant); err != nil {
			// Nothing of it was committed, and nothing may be.
			w.undone = append(w.undone, marks[:i+1]...)
			return err
		}
	}
	if err := w.check(ctx, tx, tenant); err != nil {
		w.undone = append(w.undone, marks...)
		return err
	}
	w.count(1)
	if rollback {
		w.undone = append(w.undone, marks...)
		if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
			return err
		}
		return nil
	}
	if err := tx.Commit(); err != nil {
		return err // cancelled on the way: either outcome is right
	}
	for _, mark := range marks {
		w.committed[mark] = tenant
	}
	return nil
}

func (w *stressWorker) check(ctx context.Context, q querier, tenant string) error {
	w.count(1)
	got, err := readStrings(ctx, q, selectTenants)
	return errors.Join(err, only(tenant, got))
}

func (w *stressWorker) count(n int64) { w.shared.budget.Add(-n) }

func (w *stressWorker) mark() string {
	w.seq++
	return fmt.Sprintf("%d-%d", w.id, w.seq)
}

func only(tenant string, got []string) error {
	for _, g := range got {
		if g != tenant {
			return fmt.Errorf("%w: %s, read in %s", errWrongRow, g, tenant)
		}
	}
	return nil
}
