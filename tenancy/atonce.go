package tenancy

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// atOnce is a change of one tenant by a single statement, outside of a transaction: one round trip, where a transaction
// takes one for each of its statements and another for its end. Postgres has statements that change several tables. What it
// cannot do, or finds in its way, it leaves undone, for [registry.change] to do or to say what is wrong.
type atOnce struct {
	reg     *registry
	parts   []string
	args    []any
	touched []touch
}

// arg adds an argument and returns its placeholder.
func (s *atOnce) arg(v any) string {
	s.args = append(s.args, v)
	return "$" + strconv.Itoa(len(s.args))
}

// with adds a part, whose rows are known to those that come after it as name.
func (s *atOnce) with(name, query string) { s.parts = append(s.parts, name+" AS ("+query+")") }

// count adds the parts that count the revision up (r) and list what was touched, once the condition holds. It comes last:
// what it depends on is done before it, so that nobody waits for anything while holding the revision's row.
// The tenant's ID is the value of the expression id.
func (s *atOnce) count(ctx context.Context, condition string, t touch, id string) {
	t.actor = actorOf(ctx)
	s.touched = []touch{t}
	s.with("r", `UPDATE tenement_revision SET revision = revision + 1, nonce = `+s.arg(t.nonce)+` WHERE id = 1 AND `+condition+` RETURNING revision`)
	s.with("c", `INSERT INTO tenement_changes (revision, tenant_id, kind, nonce, actor, detail, at) SELECT r.revision, `+strings.Join([]string{
		id, s.arg(string(t.kind)), s.arg(t.nonce), s.arg(t.actor), s.arg(t.detail), s.reg.now(),
	}, ", ")+` FROM r`)
}

// run runs the statement and scans the one row of the last query, whose first column is the revision. done is false when
// there was none, or when something was in the way: nothing was changed then.
func (s *atOnce) run(ctx context.Context, query string, into ...any) (done bool, err error) {
	err = s.row(ctx, s.reg.db, query, into...)
	switch {
	case errors.Is(err, sql.ErrNoRows), inTheWay(err):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, nil
}

// row runs the statement and scans the one row of the last query, whose first column is the revision.
func (s *atOnce) row(ctx context.Context, q interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}, query string, into ...any,
) error {
	return q.QueryRowContext(ctx, `WITH `+strings.Join(s.parts, ",\n")+"\n"+query, s.args...).Scan(append([]any{&s.touched[0].revision}, into...)...)
}

// inTheWay reports whether a statement met what it must not: a row that is another's (23505), or a check of its own
// (22012, a division by zero).
func inTheWay(err error) bool {
	state := sqltext.State(err)
	return state == "23505" || state == "22012"
}

// relaxed has the statement's commit not wait for the disk, which the commit of what comes after it does for both. Should
// the server fail in between, neither was ever there.
const relaxed = `pg_catalog.set_config('synchronous_commit', 'off', true)`

// insert adds the parts that enter a new tenant (t), unless something of it is another's, with its domains (d). Its ID and
// store are expressions, of the rows from. It returns the condition under which all of that was done.
func (s *atOnce) insert(t *Tenant, id, store, from string, hosts []string) (entered string) {
	slug := s.arg(t.Slug)
	s.with("t", `INSERT INTO tenement_tenants (id, slug, name, status, reason, store, meta, created_at, updated_at)
		SELECT `+strings.Join([]string{id, slug, s.arg(t.Name), s.arg(string(t.Status)), s.arg(t.Reason), store, s.arg(string(t.Meta)) + `::jsonb`, s.reg.now(), s.reg.now()}, ", ")+
		from+` WHERE NOT EXISTS (`+takenBy(id, slug, store)+`) ON CONFLICT DO NOTHING RETURNING id, created_at, updated_at`)
	return s.domains(hosts)
}

// claimAtOnce is claim of a tenant that nobody knows yet. It returns nil when something is in the way.
func (a *App) claimAtOnce(ctx context.Context, h *held, p plan, args opArgs) (*run, error) {
	t := p.tenant(h.id)
	t.Domains = sortedDomains(p.domains)
	op := newOperation(h.id, p.kind(), args)
	text, err := op.encodeArgs()
	if err != nil {
		return nil, err
	}
	s := &atOnce{reg: &a.reg}
	entered := s.insert(t, s.arg(string(t.ID)), s.arg(t.Store.String()), "", p.domains)
	s.with("o", `INSERT INTO tenement_operations (tenant, kind, step, args, started_at)
		SELECT t.id, `+strings.Join([]string{s.arg(string(op.Kind)), s.arg(op.Step), s.arg(text), a.reg.now()}, ", ")+` FROM t RETURNING id, started_at`)
	s.count(ctx, entered+` AND EXISTS (SELECT FROM o)`, newTouch(t.ID, p.event, t.Slug, ""), s.arg(string(t.ID)))
	var created, updated, started string
	// All of it or nothing: what is entered without a revision ends in a division by zero.
	done, err := s.run(ctx, `SELECT (SELECT revision FROM r) * (1 / (SELECT count(*) FROM r)), t.created_at, t.updated_at, o.id, o.started_at
		FROM t, o, (SELECT `+relaxed+`) relaxed`,
		&created, &updated, &op.ID, &started)
	if err != nil || !done {
		return nil, err
	}
	if t.Created, t.Updated, err = parseTimes(created, updated); err == nil {
		op.Started, err = time.Parse(timeFormat, started)
	}
	if err != nil {
		return nil, err
	}
	a.noted(ctx, s.touched, []*Tenant{t})
	return &run{a: a, lock: h, known: true, fillStore: p.fill, op: op, t: t}, nil
}

// activateAtOnce is activate, of a tenant that this run entered and about which there is nothing else to say. done is false
// when something is in the way.
func activateAtOnce(ctx context.Context, r *run) (done bool, err error) {
	if r.a.reg.d != backend.Postgres || !r.known || r.made != nil || len(r.approved) > 0 {
		return false, nil
	}
	s := &atOnce{reg: &r.a.reg}
	s.with("o", `DELETE FROM tenement_operations WHERE id = `+s.arg(r.op.ID)+` AND fence = `+s.arg(r.op.fence)+` RETURNING id`)
	s.with("t", `UPDATE tenement_tenants SET version = version + 1, updated_at = `+r.a.reg.now()+`, status = `+s.arg(string(Active))+
		`, reason = '' WHERE id = `+s.arg(string(r.t.ID))+` AND version = `+s.arg(r.t.Version)+` AND EXISTS (SELECT FROM o) RETURNING updated_at`)
	s.count(ctx, `EXISTS (SELECT FROM t)`, newTouch(r.t.ID, EventCreated, "", ""), s.arg(string(r.t.ID)))
	var one int
	var updated string
	// An operation without its tenant, which somebody changed meanwhile, is undone.
	done, err = s.run(ctx, `SELECT (SELECT revision FROM r), 1 / (SELECT count(*) FROM t), (SELECT updated_at FROM t) FROM o`, &one, &updated)
	if err != nil || !done {
		return false, err
	}
	t := *r.t
	t.Version++
	t.Status, t.Reason = Active, ""
	if t.Updated, err = time.Parse(timeFormat, updated); err != nil {
		return false, err
	}
	r.t, r.known, r.op.Step = &t, false, ""
	r.a.noted(ctx, s.touched, []*Tenant{&t})
	return true, nil
}
