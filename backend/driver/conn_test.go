package driver_test

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

var (
	inA = backend.Route{Store: backend.MustParseStore("a"), Owner: "1"}
	inB = backend.Route{Store: backend.MustParseStore("b"), Owner: "2"}
)

// source is a SessionSource that notes what is done to it, and fails where it is told to.
type source struct {
	mu       sync.Mutex
	taken    []taken
	open     int // sessions taken and not released
	sessErr  error
	beginErr error
	execErr  error
	pings    int
}

type taken struct {
	rt     backend.Route
	access driver.Access
}

func (s *source) Session(_ context.Context, rt backend.Route, access driver.Access) (driver.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessErr != nil {
		return nil, s.sessErr
	}
	s.taken = append(s.taken, taken{rt, access})
	s.open++
	return &session{s: s, rt: rt}, nil
}

func (s *source) Ping(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pings++
	return nil
}

func (s *source) Driver() sqldriver.Driver { return driver.Unnamed() }

func (s *source) openSessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

func (s *source) sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.taken)
}

type session struct {
	s        *source
	rt       backend.Route
	released bool
	inTx     bool
	rows     int // open results
	log      []string
}

func (x *session) ExecContext(_ context.Context, query string, _ []sqldriver.NamedValue) (sqldriver.Result, error) {
	x.log = append(x.log, query)
	return sqldriver.RowsAffected(1), x.s.execErr
}

func (x *session) QueryContext(_ context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	if x.released {
		return nil, errors.New("used after it was released")
	}
	x.rows++
	left := 3
	if query == "one" {
		left = 1
	}
	return &rows{x: x, left: left}, nil
}

func (x *session) BeginTx(context.Context, sqldriver.TxOptions) (sqldriver.Tx, error) {
	if x.s.beginErr != nil {
		return nil, x.s.beginErr
	}
	x.inTx = true
	return x, nil
}

func (x *session) Commit() error   { x.inTx = false; return nil }
func (x *session) Rollback() error { x.inTx = false; return nil }

func (x *session) SetReadOnly(on bool) { x.rt.ReadOnly = on }

func (x *session) Ping(ctx context.Context) error { return x.s.Ping(ctx) }

func (x *session) Release() {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	switch {
	case x.released:
		panic("a session was released twice")
	case x.inTx:
		panic("a session was released inside a transaction")
	case x.rows > 0:
		panic("a session was released while its rows are open")
	}
	x.released = true
	x.s.open--
}

type rows struct {
	x    *session
	left int
}

func (r *rows) Columns() []string { return []string{"store"} }
func (r *rows) Close() error      { r.x.rows--; return nil }

func (r *rows) Next(dest []sqldriver.Value) error {
	if r.left--; r.left < 0 {
		return io.EOF
	}
	dest[0] = r.x.rt.Store.String()
	return nil
}

func routed(t testing.TB) (*source, *sql.DB) {
	src := &source{}
	db := driver.OpenDB(src, backend.Route{}, driver.AccessTenant)
	t.Cleanup(func() {
		require.NoError(t, db.Close())
		require.Zero(t, src.openSessions(), "sessions that were never released")
	})
	return src, db
}

func with(t testing.TB, rt backend.Route) context.Context {
	return backend.WithRoute(t.Context(), rt)
}

// S01
func TestNoSessionIsTakenWithoutARoute(t *testing.T) {
	t.Parallel()
	src, db := routed(t)
	ctx := t.Context()
	_, err := db.ExecContext(ctx, "x")
	require.ErrorIs(t, err, backend.ErrNoTenant)
	_, err = db.Exec("x")
	require.ErrorIs(t, err, backend.ErrNoTenant)
	_, err = db.QueryContext(ctx, "x")
	require.ErrorIs(t, err, backend.ErrNoTenant)
	stmt, err := db.Prepare("x")
	require.NoError(t, err, "preparing touches no store")
	_, err = stmt.ExecContext(ctx)
	require.ErrorIs(t, err, backend.ErrNoTenant)
	_, err = stmt.QueryContext(ctx)
	require.ErrorIs(t, err, backend.ErrNoTenant)
	require.NoError(t, stmt.Close())
	_, err = db.BeginTx(ctx, nil)
	require.ErrorIs(t, err, backend.ErrNoTenant)
	_, err = db.Begin()
	require.ErrorIs(t, err, backend.ErrNoTenant)
	conn, err := db.Conn(ctx)
	require.NoError(t, err, "holding a connection takes no session yet")
	_, err = conn.ExecContext(ctx, "x")
	require.ErrorIs(t, err, backend.ErrNoTenant)
	require.NoError(t, conn.PingContext(ctx))
	require.NoError(t, conn.Close())
	require.NoError(t, db.PingContext(ctx))
	require.Zero(t, src.sessions())
	require.Equal(t, 2, src.pings)
}

func TestSessionsAreReleasedWhenDatabaseSQLLetsGo(t *testing.T) {
	t.Parallel()
	src, db := routed(t)
	ctx := with(t, inA)

	_, err := db.ExecContext(ctx, "x")
	require.NoError(t, err)
	require.Zero(t, src.openSessions(), "after a statement")

	src.execErr = errors.New("failed")
	_, err = db.ExecContext(ctx, "x")
	require.ErrorIs(t, err, src.execErr)
	require.Zero(t, src.openSessions(), "after a statement that failed")
	src.execErr = nil

	rows, err := db.QueryContext(ctx, "x")
	require.NoError(t, err)
	require.Equal(t, 1, src.openSessions(), "while rows are open")
	require.True(t, rows.Next())
	require.NoError(t, rows.Close())
	require.Zero(t, src.openSessions(), "after rows that were left early")

	var name string
	require.NoError(t, db.QueryRowContext(ctx, "one").Scan(&name))
	require.Equal(t, "a", name)
	require.Zero(t, src.openSessions(), "after QueryRow")

	tx, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	_, err = tx.Exec("x")
	require.NoError(t, err)
	require.Equal(t, 1, src.openSessions(), "inside a transaction")
	require.NoError(t, tx.Commit())
	require.Zero(t, src.openSessions(), "after a commit")

	src.beginErr = errors.New("failed")
	_, err = db.BeginTx(ctx, nil)
	require.ErrorIs(t, err, src.beginErr)
	require.Zero(t, src.openSessions(), "after a BEGIN that failed")
	src.beginErr = nil

	stmt, err := db.PrepareContext(ctx, "x")
	require.NoError(t, err)
	before := src.sessions()
	require.Zero(t, src.openSessions(), "preparing takes none")
	_, err = stmt.ExecContext(ctx)
	require.NoError(t, err)
	require.Equal(t, before+1, src.sessions())
	require.Zero(t, src.openSessions())
	require.NoError(t, stmt.Close())

	src.sessErr = &backend.Error{Op: "use", Store: inA.Store, Err: backend.ErrStoreMissing}
	_, err = db.ExecContext(ctx, "x")
	require.ErrorIs(t, err, backend.ErrStoreMissing)
	_, err = db.BeginTx(ctx, nil)
	require.ErrorIs(t, err, backend.ErrStoreMissing)
}

// S05
func TestHeldConnection(t *testing.T) {
	t.Parallel()
	src, db := routed(t)
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	require.Zero(t, src.sessions())
	for range 3 {
		_, err = conn.ExecContext(with(t, inA), "x")
		require.NoError(t, err)
		rows, err := conn.QueryContext(with(t, inA), "x")
		require.NoError(t, err)
		require.NoError(t, rows.Close())
		_, err = conn.ExecContext(with(t, inB), "x")
		require.ErrorIs(t, err, backend.ErrTenantMismatch)
		_, err = conn.ExecContext(with(t, backend.Route{Store: inA.Store, Owner: "other"}), "x")
		require.ErrorIs(t, err, backend.ErrTenantMismatch)
		_, err = conn.ExecContext(t.Context(), "x")
		require.ErrorIs(t, err, backend.ErrNoTenant)
		_, err = conn.PrepareContext(with(t, inB), "x")
		require.ErrorIs(t, err, backend.ErrTenantMismatch)
	}
	require.Equal(t, 1, src.sessions(), "one session for as long as it is held")
	require.Equal(t, 1, src.openSessions())
	require.NoError(t, conn.Close())
	require.Zero(t, src.openSessions())

	_, err = db.ExecContext(with(t, inB), "x")
	require.NoError(t, err, "the connection is free for another tenant")
	require.Equal(t, []taken{{inA, driver.AccessTenant}, {inB, driver.AccessTenant}}, src.taken)
}

// S04
func TestTransactions(t *testing.T) {
	t.Parallel()
	src, db := routed(t)
	for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
		tx, err := db.BeginTx(with(t, inA), nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(with(t, inB), "x")
		require.ErrorIs(t, err, backend.ErrTenantMismatch)
		_, err = tx.ExecContext(t.Context(), "x")
		require.NoError(t, err, "a transaction carries its tenant")
		stmt, err := tx.Prepare("x")
		require.NoError(t, err)
		_, err = stmt.Exec()
		require.NoError(t, err)
		_, err = stmt.ExecContext(with(t, inB))
		require.ErrorIs(t, err, backend.ErrTenantMismatch)
		require.NoError(t, end(tx))
		require.ErrorIs(t, end(tx), sql.ErrTxDone)
		require.Zero(t, src.openSessions())
	}
	require.Equal(t, 2, src.sessions())

	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	tx, err := conn.BeginTx(with(t, inA), nil)
	require.NoError(t, err)
	_, err = conn.BeginTx(with(t, inA), nil)
	require.Error(t, err, "a second one on the same connection")
	_, err = tx.Exec("x")
	require.NoError(t, err, "the first goes on")
	require.NoError(t, tx.Rollback())
	_, err = conn.ExecContext(t.Context(), "x")
	require.ErrorIs(t, err, backend.ErrNoTenant, "after the transaction the connection carries no tenant by itself")
	tx, err = conn.BeginTx(with(t, inA), nil)
	require.NoError(t, err, "a second one after the first")
	require.NoError(t, tx.Commit())
	require.NoError(t, conn.Close())
}

// S06: a context that ends inside a transaction, with its rows open, gives the session back.
func TestTransactionWhoseContextEnds(t *testing.T) {
	t.Parallel()
	src, db := routed(t)
	db.SetMaxOpenConns(1)
	for range 20 {
		ctx, cancel := context.WithCancel(with(t, inA))
		tx, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		rows, err := tx.QueryContext(ctx, "x")
		require.NoError(t, err)
		require.True(t, rows.Next())
		cancel()
		// With one connection this waits until the transaction has ended.
		_, err = db.ExecContext(with(t, inB), "x")
		require.NoError(t, err)
		require.NoError(t, rows.Close())
	}
	require.Zero(t, src.openSessions())
}

func TestFixedHandles(t *testing.T) {
	t.Parallel()
	src := &source{}
	none, other := t.Context(), with(t, inB)
	anotherOwner := with(t, backend.Route{Store: inA.Store, Owner: "other"})
	noOwner := backend.WithStore(t.Context(), inA.Store)
	for _, tt := range []struct {
		access  driver.Access
		fixed   backend.Route
		allowed []context.Context
		refused []context.Context
	}{
		{driver.AccessTenant, inA, []context.Context{none, with(t, inA), noOwner}, []context.Context{other, anotherOwner}},
		{driver.AccessTenant, backend.Route{Store: inA.Store}, []context.Context{none, with(t, inA), noOwner, anotherOwner}, []context.Context{other}},
		{driver.AccessMaintenance, inA, []context.Context{none, with(t, inA), other, anotherOwner}, nil},
		{driver.AccessShared, backend.Route{}, []context.Context{none, with(t, inA), other}, nil},
	} {
		db := driver.OpenDB(src, tt.fixed, tt.access)
		for _, ctx := range tt.allowed {
			src.taken = nil
			_, err := db.ExecContext(ctx, "x")
			require.NoError(t, err)
			tx, err := db.BeginTx(ctx, nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(none, "x")
			require.NoError(t, err)
			require.NoError(t, tx.Commit())
			conn, err := db.Conn(none)
			require.NoError(t, err)
			for range 2 {
				_, err = conn.ExecContext(none, "x")
				require.NoError(t, err, "a fixed handle's connection needs no tenant in the context")
			}
			require.NoError(t, conn.Close())
			want := taken{tt.fixed, tt.access}
			require.Equal(t, []taken{want, want, want}, src.taken)
		}
		for _, ctx := range tt.refused {
			src.taken = nil
			_, err := db.ExecContext(ctx, "x")
			require.ErrorIs(t, err, backend.ErrTenantMismatch)
			_, err = db.BeginTx(ctx, nil)
			require.ErrorIs(t, err, backend.ErrTenantMismatch)
			_, err = db.PrepareContext(ctx, "x")
			require.ErrorIs(t, err, backend.ErrTenantMismatch)
			tx, err := db.BeginTx(none, nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(ctx, "x")
			require.ErrorIs(t, err, backend.ErrTenantMismatch)
			require.NoError(t, tx.Rollback())
			require.Len(t, src.taken, 1, "refused calls take no session")
		}
		require.NoError(t, db.Close())
		require.Zero(t, src.openSessions())
	}
}

func TestIdleHandlesHoldNothing(t *testing.T) {
	t.Parallel()
	src := &source{}
	var wg sync.WaitGroup
	for i := range 20 {
		rt := backend.Route{Store: backend.MustParseStore(fmt.Sprintf("t%d", i))}
		db := driver.OpenDB(src, rt, driver.AccessTenant)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		for range 10 {
			wg.Go(func() {
				var name string
				assert.NoError(t, db.QueryRowContext(t.Context(), "one").Scan(&name))
				assert.Equal(t, rt.Store.String(), name)
			})
		}
	}
	wg.Wait()
	require.Zero(t, src.openSessions())
	require.Equal(t, 200, src.sessions())
}

func TestHandleClosedWhileAConnectionIsHeld(t *testing.T) {
	t.Parallel()
	src := &source{}
	db := driver.OpenDB(src, backend.Route{}, driver.AccessTenant)
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(with(t, inA), "x")
	require.NoError(t, err)
	require.NoError(t, db.Close())
	require.NoError(t, conn.Close())
	require.Zero(t, src.openSessions())
	_, err = db.Driver().Open("anything")
	require.Error(t, err)
}

// checked is a source that checks arguments itself.
type checked struct{ source }

func (*checked) CheckNamedValue(nv *sqldriver.NamedValue) error {
	if _, ok := nv.Value.(chan int); ok {
		nv.Value = "a channel"
		return nil
	}
	return sqldriver.ErrSkip
}

func TestArgumentsAreTheSourcesToCheck(t *testing.T) {
	t.Parallel()
	_, plain := routed(t)
	_, err := plain.ExecContext(with(t, inA), "x", make(chan int))
	require.Error(t, err, "database/sql's own rules")
	db := driver.OpenDB(&checked{}, inA, driver.AccessTenant)
	defer func() { require.NoError(t, db.Close()) }()
	_, err = db.ExecContext(t.Context(), "x", make(chan int), 1)
	require.NoError(t, err)
}

// bare is a driver that does what the fake session does, without virtual connections: the floor for allocations.
type bare struct{ x *session }

func (b *bare) Connect(context.Context) (sqldriver.Conn, error) { return &bareConn{session: b.x}, nil }
func (b *bare) Driver() sqldriver.Driver                        { return driver.Unnamed() }

type bareConn struct{ *session }

func (*bareConn) Prepare(string) (sqldriver.Stmt, error) { return nil, sqldriver.ErrSkip }
func (*bareConn) Close() error                           { return nil }
func (c *bareConn) Begin() (sqldriver.Tx, error)         { return c.session, nil }

// steady is a source that gives out the same session each time, so that only what the virtual connection adds is counted.
type steady struct {
	source
	x steadySession
}

type steadySession struct{ session }

func (x *steadySession) Ping(context.Context) error { return nil }

func (x *steadySession) Release() {}

func (s *steady) Session(context.Context, backend.Route, driver.Access) (driver.Session, error) {
	return &s.x, nil
}

func TestAllocations(t *testing.T) {
	ctx := with(t, inA)
	ours := &steady{}
	ours.x = steadySession{session{s: &ours.source, rt: inA}}
	db := driver.OpenDB(ours, backend.Route{}, driver.AccessTenant)
	defer func() { _ = db.Close() }()
	floor := sql.OpenDB(&bare{&session{s: &source{}, rt: inA}})
	defer func() { _ = floor.Close() }()

	for name, run := range map[string]func(db *sql.DB){
		"query": func(db *sql.DB) {
			var name string
			if err := db.QueryRowContext(ctx, "one").Scan(&name); err != nil {
				t.Error(err)
			}
		},
		"transaction": func(db *sql.DB) {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := tx.Commit(); err != nil {
				t.Error(err)
			}
		},
	} {
		want := testing.AllocsPerRun(200, func() { run(floor) })
		got := testing.AllocsPerRun(200, func() { run(db) })
		assert.LessOrEqual(t, got, want+1, "allocations of a %s through the virtual connection (bare: %v)", name, want)
	}
}
