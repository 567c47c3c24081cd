package postgres

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// replicas are the servers that a backend's Replica reads from. Each is a backend of its own, that is opened when it is
// first needed and closed with its owner.
type replicas struct {
	of     *Backend
	all    []*replica
	db     *driver.Handle
	native PGX
}

// replica is one of them.
type replica struct {
	url     string
	cfg     Config
	opening chan struct{} // who opens it holds it
	be      atomic.Pointer[Backend]
	failed  atomic.Int64  // when it last failed, in Unix nanoseconds
	at      atomic.Uint64 // how far it was last seen to be
	since   atomic.Int64  // the last break of a connection before that: after one it may be behind that again
}

// replicaRest is for how long a replica that failed is only asked when no other answers.
const replicaRest = time.Second

var _ backend.Replicator = (*Backend)(nil)

// Replica returns the routed handle that only reads, on the replicas ([Config.Replicas]) where there are some; see
// [backend.Replicator]. A store is read from always the same of them while it answers, so that reads do not go back in
// time. Only where none answers it fails: it does not turn to the primary.
func (be *Backend) Replica() *sql.DB { return be.replicas.db.DB() }

// ReplicaPGX returns [Backend.Replica] as a handle that speaks pgx, the same one each time.
func (be *Backend) ReplicaPGX() *PGX { return &be.replicas.native }

// newReplicas makes the replicas, and opens none. It returns an error that wraps [backend.ErrInvalidURL] when a URL is wrong.
func (be *Backend) newReplicas() error {
	r := &be.replicas
	r.of = be
	for _, text := range be.cfg.Replicas {
		own := be.cfg
		own.Replicas = nil
		cfg := own
		_, err := parsePool(text, &cfg)
		switch {
		case err != nil:
			return fmt.Errorf("replica: %w", err)
		case len(cfg.Replicas) > 0:
			return fmt.Errorf("%w: a replica has a replica", backend.ErrInvalidURL)
		}
		r.all = append(r.all, &replica{url: text, cfg: own, opening: make(chan struct{}, 1)})
	}
	return nil
}

func (r *replicas) close() (err error) {
	err = r.db.Close()
	for _, rep := range r.all {
		if be := rep.be.Load(); be != nil {
			err = errors.Join(err, be.Close())
		}
	}
	return err
}

// readSource is the Backend as the connections of its Replica see it.
type readSource struct{ be *Backend }

var (
	_ driver.Source               = readSource{}
	_ sqldriver.NamedValueChecker = readSource{}
)

func (s readSource) Session(ctx context.Context, rt backend.Route, _ driver.Access) (driver.Session, error) {
	return s.be.reader(ctx, rt)
}

func (s readSource) Ping(ctx context.Context) error {
	return s.be.replicas.use(ctx, backend.Store{}, func(be *Backend) error { return (*source)(be).Ping(ctx) })
}

func (s readSource) Driver() sqldriver.Driver { return driver.Unnamed() }

func (s readSource) CheckNamedValue(*sqldriver.NamedValue) error { return nil }

// reader takes a session that reads rt's store.
func (be *Backend) reader(ctx context.Context, rt backend.Route) (s *session, err error) {
	rt.ReadOnly = true
	err = be.replicas.use(ctx, rt.Store, func(on *Backend) error {
		s, err = on.acquire(ctx, rt, driver.AccessTenant)
		return err
	})
	return s, err
}

// use calls fn with the backend that serves a store, and with the next when that does not answer.
func (r *replicas) use(ctx context.Context, s backend.Store, fn func(*Backend) error) error {
	if r.of.closed.Load() {
		return &backend.Error{Op: "connect", Store: s, Err: backend.ErrClosed}
	}
	if len(r.all) == 0 {
		return fn(r.of)
	}
	var faults []error
	for _, rep := range r.inTurn(s) {
		err := rep.use(ctx, r.of, fn)
		if err == nil || ctx.Err() != nil || errors.Is(err, errPosition) {
			return err
		}
		rep.failed.Store(time.Now().UnixNano())
		faults = append(faults, err)
	}
	return &backend.Error{Op: "connect to a replica", Store: s, Err: errors.Join(faults...)}
}

// inTurn returns the replicas as they are asked: the store's own first, those that have just failed last.
func (r *replicas) inTurn(s backend.Store) []*replica {
	n := len(r.all)
	if n == 1 {
		return r.all
	}
	var turn, resting []*replica
	first := int(uint32(storeKey(s)) % uint32(n))
	for i := range n {
		rep := r.all[(first+i)%n]
		if time.Since(time.Unix(0, rep.failed.Load())) < replicaRest {
			resting = append(resting, rep)
		} else {
			turn = append(turn, rep)
		}
	}
	return append(turn, resting...)
}

// use calls fn when the replica is as far as the context asks.
func (rep *replica) use(ctx context.Context, of *Backend, fn func(*Backend) error) error {
	be := rep.be.Load()
	if be == nil {
		var err error
		if be, err = rep.open(ctx, of); err != nil {
			return err
		}
	}
	if p := backend.PositionFrom(ctx); p != "" {
		if err := rep.await(ctx, be, p); err != nil {
			return err
		}
	}
	return fn(be)
}

// open opens the replica. Tenants' work on it is done by the role that does it on the primary: the replica may not have
// heard of it yet, and is of no use until it has.
func (rep *replica) open(ctx context.Context, of *Backend) (*Backend, error) {
	select {
	case rep.opening <- struct{}{}:
		defer func() { <-rep.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if be := rep.be.Load(); be != nil {
		return be, nil
	}
	cfg := rep.cfg
	cfg.TenantRole = of.roles.setting()
	be, err := openAs(ctx, rep.url, cfg, true)
	if err != nil {
		return nil, err
	}
	rep.be.Store(be)
	if of.closed.Load() { // which may not have seen it
		return nil, errors.Join(&backend.Error{Op: "connect", Err: backend.ErrClosed}, be.Close())
	}
	return be, nil
}

// errPosition: the context asks for a position that is none of Postgres'.
var errPosition = errors.New("it is not a position of this backend")

// await waits until the replica is as far as p. It holds no connection meanwhile.
func (rep *replica) await(ctx context.Context, be *Backend, p backend.Position) error {
	want, err := parseLSN(string(p))
	if err != nil {
		return &backend.Error{Op: "read", Err: fmt.Errorf("position %q: %w", p, errPosition)}
	}
	if rep.at.Load() >= want && rep.since.Load() == be.lastBreak.Load() {
		return nil
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		since := be.lastBreak.Load()
		at, err := be.replayed(ctx)
		if err != nil {
			return err
		}
		rep.at.Store(at)
		rep.since.Store(since)
		if at >= want {
			return nil
		}
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return &backend.Error{Op: "wait for the replica", Err: fmt.Errorf("%w: it is at %s, %s is asked for", ctx.Err(), formatLSN(at), p)}
		}
	}
}

// replayed asks how far a server is that may be a standby, or one that was promoted.
func (be *Backend) replayed(ctx context.Context) (uint64, error) {
	var text string
	err := be.withConn(ctx, "read", backend.Route{}, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, "select (case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn() "+
			"else pg_catalog.pg_current_wal_lsn() end)::pg_catalog.text", be.queryMode()).Scan(&text)
	})
	if err != nil {
		return 0, err
	}
	return parseLSN(text)
}

// Position returns how far the write-ahead log is on disk, which holds all that was committed, but for what was committed
// with synchronous_commit off; see [backend.Replicator].
func (be *Backend) Position(ctx context.Context) (backend.Position, error) {
	for {
		var at string
		var page uint64
		err := be.withConn(ctx, "position", backend.Route{}, func(c *pgx.Conn) error {
			return c.QueryRow(ctx, "select pg_catalog.pg_current_wal_flush_lsn()::pg_catalog.text,pg_catalog.current_setting('wal_block_size')::int8",
				be.queryMode()).Scan(&at, &page)
		})
		if err != nil {
			return "", err
		}
		lsn, err := parseLSN(at)
		if err != nil {
			return "", &backend.Error{Op: "position", Err: err}
		}
		if lsn%page != 0 {
			return backend.Position(at), nil
		}
		// At the end of a page it may be in the middle of a record, of somebody who has not committed yet and need not do so
		// soon (XLogBackgroundFlush writes whole pages): a replica would not get there. A commit goes on from it.
		err = be.upkeep(ctx, "position", backend.Route{}, "set local synchronous_commit=local;select pg_catalog.pg_current_xact_id();")
		if err != nil {
			return "", err
		}
	}
}

// parseLSN reads a position in the log, such as 16/B374D848.
func parseLSN(text string) (uint64, error) {
	var high, low uint32
	if n, err := fmt.Sscanf(text, "%X/%X", &high, &low); n != 2 || err != nil || formatLSN(uint64(high)<<32|uint64(low)) != text {
		return 0, errPosition
	}
	return uint64(high)<<32 | uint64(low), nil
}

func formatLSN(lsn uint64) string { return fmt.Sprintf("%X/%X", uint32(lsn>>32), uint32(lsn)) }

// oneReplicaParam joins several replica parameters of a URL to one, with spaces between them: pgx takes one of several.
func oneReplicaParam(text string) string {
	base, query, found := strings.Cut(text, "?")
	if !found || !strings.Contains(base, "://") {
		return text // a keyword DSN has one of each
	}
	var params, replicas []string
	for _, param := range strings.Split(query, "&") {
		if value, is := strings.CutPrefix(param, "replica="); is {
			replicas = append(replicas, value)
		} else {
			params = append(params, param)
		}
	}
	if len(replicas) < 2 {
		return text
	}
	return base + "?" + strings.Join(append(params, "replica="+strings.Join(replicas, "%20")), "&")
}
