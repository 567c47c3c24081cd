package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

// actor is one of a server's many users: it does one thing after another, for one tenant after another.
type actor struct {
	s   *server
	rng *rand.Rand

	prepared *sql.Stmt                // across tenants
	spent    *sql.Stmt                // to be closed
	known    map[tenancy.ID][]written // the last few
}

// written is a write that was acknowledged to this actor.
type written struct {
	id    uint64
	parts int
}

func newActor(s *server, rng *rand.Rand) *actor {
	return &actor{s: s, rng: rng, known: map[tenancy.ID][]written{}}
}

// visit is an actor in a tenant.
type visit struct {
	*actor
	t *tenancy.Tenant
}

// deed is one kind of work.
type deed struct {
	kind   string
	weight int
	calm   bool // it fails in no weather but bad, and wastes no time: it is done in calm weather too
	do     func(v *visit, ctx context.Context) error
}

var deeds = []deed{
	{"read", 30, true, (*visit).read},
	{"read all", 4, true, (*visit).readAll},
	{"read half", 6, false, (*visit).readHalf},
	{"prepared", 12, true, (*visit).usePrepared},
	{"insert", 14, true, (*visit).insert},
	{"transaction", 10, true, (*visit).transaction},
	{"rolled back", 5, true, (*visit).rolledBack},
	{"savepoint", 5, true, (*visit).savepoint},
	{"slow transaction", 1, false, (*visit).slow},
	{"held connection", 5, true, (*visit).held},
	{"several statements", 4, true, (*visit).several},
	{"wrong tenant", 2, true, (*visit).wrongTenant},
	{"no tenant", 1, true, (*visit).noTenant},
	{"shared write", 1, true, (*visit).sharedWrite},
	{"linger", 1, false, (*visit).linger},
	{"burst", 16, true, (*visit).burst},
}

func (a *actor) run(ctx context.Context) {
	total := 0
	for _, d := range deeds {
		total += d.weight
	}
	for ctx.Err() == nil {
		n := a.rng.IntN(total)
		for _, d := range deeds {
			if n -= d.weight; n < 0 {
				a.once(ctx, d)
				break
			}
		}
	}
}

// shed closes the statement that another took the place of.
func (a *actor) shed() {
	if a.spent != nil {
		_ = a.spent.Close()
		a.spent = nil
	}
}

// close closes what an actor keeps.
func (a *actor) close() {
	if a.prepared != nil {
		_ = a.prepared.Close()
	}
}

// once does one deed in some tenant.
func (a *actor) once(ctx context.Context, d deed) {
	defer a.shed()
	crowd := *a.s.crowd.Load()
	if len(crowd) == 0 {
		a.pause(ctx, 10*time.Millisecond)
		a.s.look(ctx)
		return
	}
	// Some are busier than others.
	who := crowd[min(a.rng.IntN(len(crowd)), a.rng.IntN(len(crowd)))]
	limit := 5 * time.Second
	if a.rng.IntN(20) == 0 {
		limit = time.Duration(a.rng.Int64N(int64(5 * time.Millisecond)))
	}
	policy := tenancy.Policy{KeepGoing: a.rng.IntN(4) == 0 || d.kind == "linger"}
	err := a.s.do(ctx, d.kind, limit, func(ctx context.Context) error { return a.act(ctx, d, who, policy) })
	if err != nil {
		a.pause(ctx, time.Duration(a.rng.IntN(10))*time.Millisecond)
	}
}

// act does a deed in a tenant, whom it finds by the slug or by the ID.
func (a *actor) act(ctx context.Context, d deed, who tenancy.Tenant, policy tenancy.Policy) error {
	var ref tenancy.Referrer = who.ID
	if a.rng.IntN(3) > 0 {
		t, err := a.s.app.ResolveSlug(ctx, who.Slug)
		if err != nil {
			return err
		}
		ref = t
	}
	return a.s.app.Run(ctx, ref, policy, func(ctx context.Context, t *tenancy.Tenant) error {
		return d.do(&visit{actor: a, t: t}, ctx)
	})
}

func (a *actor) pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (v *visit) db() *sql.DB { return v.s.app.DB() }

// mark checks that a row that was read is the tenant's.
func (v *visit) mark(what, mark string) {
	if mark != string(v.t.ID) && !ofClone(v.t.Name, mark) {
		v.s.breach("wrong: %s in tenant %s (%s) read a row of %q", what, v.t.ID, v.t.Slug, mark)
	}
}

// ofClone reports whether a tenant of that name may have the rows of another: it says of whom it is a clone.
func ofClone(name, mark string) bool { return name == cloneOf+mark }

const cloneOf = "clone of "

const (
	sqlInsert = `INSERT INTO entries (write_id, part, mark) VALUES ($1, $2, $3)`
	sqlRead   = `SELECT mark, part FROM entries WHERE write_id = $1`
)

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// marks reads (mark, part) rows and returns how many there were.
func (v *visit) marks(what string, rows *sql.Rows, err error, atMost int) (n int, _ error) {
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for n < atMost && rows.Next() {
		var mark string
		var part int
		if err := rows.Scan(&mark, &part); err != nil {
			return n, err
		}
		v.mark(what, mark)
		n++
	}
	if n < atMost && rows.Err() != nil {
		return n, rows.Err()
	}
	v.s.ops.Add(1)
	return n, nil
}

const all = 1 << 60

// read reads what this actor wrote, or what the tenant's creation did.
func (v *visit) read(ctx context.Context) error {
	return v.readFrom(ctx, "read", v.db())
}

func (v *visit) readFrom(ctx context.Context, what string, q querier) error {
	w := v.one()
	rows, err := q.QueryContext(ctx, sqlRead, int64(w.id))
	return v.whole(what, w, rows, err)
}

// one returns one of the writes that are known to be in the tenant.
func (v *visit) one() written {
	known := v.known[v.t.ID]
	if len(known) == 0 {
		return written{parts: 1} // of its creation
	}
	return known[v.rng.IntN(len(known))]
}

// burst is what most requests are: many small reads, and now and then a write.
func (v *visit) burst(ctx context.Context) error {
	n := 20 + v.rng.IntN(60)
	if v.rng.IntN(4) == 0 {
		tx, err := v.db().BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		for range n {
			if err := v.readFrom(ctx, "read transaction", tx); err != nil {
				return err
			}
		}
		return nil
	}
	for range n {
		var err error
		switch v.rng.IntN(12) {
		case 0:
			err = v.insert(ctx)
		case 1, 2, 3:
			err = v.usePrepared(ctx)
		default:
			err = v.read(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// whole checks that all parts of a write that was acknowledged are there.
func (v *visit) whole(what string, w written, rows *sql.Rows, err error) error {
	n, err := v.marks(what, rows, err, all)
	if err == nil && n != w.parts {
		v.s.breach("lost: %s found %d of %d parts of write %d in tenant %s (%s)", what, n, w.parts, w.id, v.t.ID, v.t.Slug)
	}
	return err
}

func (v *visit) readAll(ctx context.Context) error {
	rows, err := v.db().QueryContext(ctx, `SELECT mark, count(*) FROM entries GROUP BY mark`)
	_, err = v.marks("read all", rows, err, all)
	return err
}

// readHalf leaves rows unread, more or less of them.
func (v *visit) readHalf(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rows, err := v.db().QueryContext(ctx, `SELECT mark, part FROM entries ORDER BY write_id LIMIT 2000`)
	if err == nil && v.rng.IntN(3) == 0 {
		cancel()
	}
	_, err = v.marks("read half", rows, err, 1+v.rng.IntN(100))
	return err
}

// usePrepared uses a statement that was prepared in whatever tenant was first.
func (v *visit) usePrepared(ctx context.Context) error {
	if v.prepared == nil || v.rng.IntN(100) == 0 {
		// To close it waits, without a context, for whoever is at work on a connection that it was prepared on.
		v.spent, v.prepared = v.prepared, nil
		st, err := v.db().PrepareContext(ctx, sqlRead)
		if err != nil {
			return err
		}
		v.prepared = st
	}
	w := v.one()
	rows, err := v.prepared.QueryContext(ctx, int64(w.id))
	return v.whole("prepared", w, rows, err)
}

// writing journals a write around fn, whose error says how it came out: errNever if it cannot be there.
func (v *visit) writing(parts int, fn func(id uint64) error) error {
	id := v.s.j.begin(string(v.t.ID), parts)
	err := fn(id)
	switch {
	case err == nil:
		v.s.j.end(id, lineAck)
		v.learn(written{id: id, parts: parts})
	case errors.Is(err, errNever), refused(err):
		v.s.j.end(id, lineNever)
	default:
		v.s.j.end(id, lineUnknown)
	}
	if err == errNever {
		return nil
	}
	return err
}

// refused reports whether an error says that nothing was done.
func refused(err error) bool {
	return !errors.Is(err, backend.ErrOutcomeUnknown) &&
		(errors.Is(err, backend.ErrReadOnly) || errors.Is(err, backend.ErrNoTenant) || errors.Is(err, backend.ErrTenantMismatch) ||
			errors.Is(err, backend.ErrBusy))
}

const knownWrites = 8

func (v *visit) learn(w written) {
	known := v.known[v.t.ID]
	if len(known) == knownWrites {
		known = slices.Delete(known, 0, 1)
	}
	v.known[v.t.ID] = append(known, w)
}

// errNever: the write was not committed.
var errNever = errors.New("not committed")

func never(err error) error { return fmt.Errorf("%w: %w", errNever, err) }

func (v *visit) put(ctx context.Context, q querier, id uint64, part int) error {
	res, err := q.ExecContext(ctx, sqlInsert, int64(id), part, string(v.t.ID))
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		v.s.breach("wrong: one row was written in tenant %s, and the answer is %d (%v)", v.t.ID, n, err)
	}
	v.s.ops.Add(1)
	return nil
}

func (v *visit) insert(ctx context.Context) error {
	return v.writing(1, func(id uint64) error { return v.put(ctx, v.db(), id, 0) })
}

// several is one text of two statements, without arguments.
func (v *visit) several(ctx context.Context) error {
	err := v.writing(2, func(id uint64) error {
		one := func(part int) string {
			return fmt.Sprintf("INSERT INTO entries (write_id, part, mark) VALUES (%d, %d, '%s');", id, part, v.t.ID)
		}
		if isPostgres(v.s.app.Backend()) {
			_, err := v.db().ExecContext(ctx, one(0)+one(1)) // one transaction, as the server has it
			return err
		}
		_, err := v.db().ExecContext(ctx, "BEGIN IMMEDIATE; "+one(0)+one(1)+" COMMIT")
		return err
	})
	if err == nil {
		v.s.ops.Add(2)
	}
	return err
}

// within runs fn in a transaction. What fails before the commit is never there.
func (v *visit) within(ctx context.Context, begin func(context.Context, *sql.TxOptions) (*sql.Tx, error), fn func(tx *sql.Tx) error) error {
	tx, err := begin(ctx, nil)
	if err != nil {
		return never(err)
	}
	if err := fn(tx); err != nil {
		_ = tx.Rollback()
		if errors.Is(err, errNever) {
			return err
		}
		return never(err)
	}
	return tx.Commit()
}

func (v *visit) transaction(ctx context.Context) error {
	parts := 1 + v.rng.IntN(8)
	return v.writing(parts, func(id uint64) error {
		return v.within(ctx, v.db().BeginTx, func(tx *sql.Tx) error { return v.fill(ctx, tx, id, parts) })
	})
}

// fill writes the parts of a write, and reads in between.
func (v *visit) fill(ctx context.Context, tx querier, id uint64, parts int) error {
	for part := range parts {
		if v.rng.IntN(3) == 0 {
			rows, err := tx.QueryContext(ctx, `SELECT mark, part FROM entries LIMIT 20`)
			if _, err = v.marks("transaction", rows, err, all); err != nil {
				return err
			}
		}
		if err := v.put(ctx, tx, id, part); err != nil {
			return err
		}
	}
	return nil
}

// slow keeps others waiting for longer than they may outlive their contexts by (-late), now and then.
func (v *visit) slow(ctx context.Context) error {
	return v.writing(2, func(id uint64) error {
		return v.within(ctx, v.db().BeginTx, func(tx *sql.Tx) error {
			if err := v.put(ctx, tx, id, 0); err != nil {
				return err
			}
			if v.rng.IntN(10) == 0 {
				v.pause(ctx, 2*time.Second+time.Duration(v.rng.IntN(2000))*time.Millisecond)
			}
			return v.put(ctx, tx, id, 1)
		})
	})
}

func (v *visit) rolledBack(ctx context.Context) error {
	return v.writing(2, func(id uint64) error {
		return v.within(ctx, v.db().BeginTx, func(tx *sql.Tx) error {
			if err := v.fill(ctx, tx, id, 2); err != nil {
				return err
			}
			return errNever
		})
	})
}

func (v *visit) savepoint(ctx context.Context) error {
	return v.writing(2, func(id uint64) error {
		return v.within(ctx, v.db().BeginTx, func(tx *sql.Tx) error {
			if err := v.put(ctx, tx, id, 0); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "SAVEPOINT here"); err != nil {
				return err
			}
			if err := v.put(ctx, tx, id, 7); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "ROLLBACK TO SAVEPOINT here"); err != nil {
				return err
			}
			return v.put(ctx, tx, id, 1)
		})
	})
}

// held works on a connection of its own.
func (v *visit) held(ctx context.Context) error {
	c, err := v.db().Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	rows, err := c.QueryContext(ctx, `SELECT mark, part FROM entries LIMIT 5`)
	if _, err := v.marks("held connection", rows, err, all); err != nil {
		return err
	}
	if err := v.writing(1, func(id uint64) error { return v.put(ctx, c, id, 0) }); err != nil {
		return err
	}
	return v.writing(2, func(id uint64) error {
		return v.within(ctx, c.BeginTx, func(tx *sql.Tx) error { return v.fill(ctx, tx, id, 2) })
	})
}

// wrongTenant uses another tenant's context in a transaction.
func (v *visit) wrongTenant(ctx context.Context) error {
	crowd := *v.s.crowd.Load()
	if len(crowd) == 0 {
		return nil
	}
	other := crowd[v.rng.IntN(len(crowd))]
	if other.Store == v.t.Store || other.ID == v.t.ID {
		return nil
	}
	return v.writing(2, func(id uint64) error {
		return v.within(ctx, v.db().BeginTx, func(tx *sql.Tx) error {
			if err := v.put(ctx, tx, id, 0); err != nil {
				return err
			}
			elsewhere := backend.WithRoute(ctx, other.Route())
			_, err := tx.ExecContext(elsewhere, sqlInsert, int64(id), 9, string(other.ID))
			if err == nil {
				v.s.breach("wrong: a transaction in %s wrote in a context of %s", v.t.ID, other.ID)
			} else if !errors.Is(err, backend.ErrTenantMismatch) && ctx.Err() == nil {
				return err
			} else if ctx.Err() == nil {
				v.s.ops.Add(1)
			}
			return v.put(ctx, tx, id, 1)
		})
	})
}

func (v *visit) noTenant(ctx context.Context) error {
	var n int
	err := v.db().QueryRowContext(tenancy.Leave(ctx), `SELECT count(*) FROM entries`).Scan(&n)
	if err == nil {
		v.s.breach("wrong: a query without a tenant was answered")
	} else if !errors.Is(err, backend.ErrNoTenant) && ctx.Err() == nil {
		v.s.breach("wrong: a query without a tenant failed with: %v", err)
	}
	return nil
}

func (v *visit) sharedWrite(ctx context.Context) error {
	_, err := v.db().ExecContext(ctx, `INSERT INTO public.entries (write_id, part, mark) VALUES (0, 0, $1)`, string(v.t.ID))
	if err == nil {
		v.s.breach("wrong: tenant %s wrote into a shared table", v.t.ID)
	}
	if errors.Is(err, backend.ErrReadOnlyShared) {
		return nil
	}
	return err
}

// linger stays in a context while the tenant may be renamed, deleted, purged, and its name given away.
func (v *visit) linger(ctx context.Context) error {
	for range 5 {
		v.pause(ctx, time.Duration(v.rng.IntN(600))*time.Millisecond)
		if err := v.readAll(ctx); err != nil {
			return err
		}
		if err := v.insert(ctx); err != nil {
			return err
		}
	}
	return nil
}
