package tenancy

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

// A spare is a store that is made, with all of its tables, before there is a tenant: a sign-up then costs what it writes
// into the registry. It is named after the ID of the tenant to come, because on Postgres each rename of a schema has every
// connection plan all of its statements anew. Its stamp says that it is a spare until it is given away, and never after: a
// registry that is older than its stores, and takes for spares what have become customers' stores since, neither gives
// those away nor removes them.

const spareStamp = "spare:"

// spareOwner is the stamp of a spare.
func spareOwner(id ID) string { return spareStamp + string(id) }

func isSpare(owner string) bool { return strings.HasPrefix(owner, spareStamp) }

// spareStore is the name of a spare. No slug looks like an ID.
func spareStore(id ID) (backend.Store, error) { return backend.ParseStore(string(id)) }

func spareRoute(id ID) (backend.Route, error) {
	s, err := spareStore(id)
	return backend.Route{Store: s, Owner: spareOwner(id)}, err
}

// ofSpare reports whether the tenant was given a spare. Until that is stamped it has the stamp of a spare, and is the tenant's
// all the same: nobody else is ever given it.
func (t *Tenant) ofSpare() bool { return t.Store.String() == string(t.ID) }

// dropUnstamped removes the spare that a tenant was given and that was never stamped: nobody has written to it.
func (r *run) dropUnstamped(ctx context.Context) error {
	if !r.t.ofSpare() {
		return nil
	}
	return r.a.dropSpareStore(ctx, r.t.ID)
}

// dropSpareStore removes the store of a spare. What is there under the name and has another stamp is a customer's, whatever the
// registry says, and stays.
func (a *App) dropSpareStore(ctx context.Context, id ID) error {
	rt, err := spareRoute(id)
	if err == nil {
		err = a.be.Drop(ctx, rt)
	}
	if errors.Is(err, backend.ErrStoreMissing) {
		err = nil
	}
	return err
}

// The states of a spare.
const (
	spareMaking   = "making"   // its store may be there, or a part of it
	spareReady    = "ready"    // at the fingerprint that its row has
	spareDropping = "dropping" // its store may be there still
)

// errNoSpare: there is none, or what the tenant is to have is another's. The ordinary way is the one that says which.
var errNoSpare = errors.New("there is no spare for it")

// createFromSpare makes a tenant of a spare. It returns errNoSpare, having changed nothing, when that cannot be, and *unfinished
// when others had the lock of the new tenant first and did not make it.
func (a *App) createFromSpare(ctx context.Context, p plan) (*Tenant, error) {
	if a.cfg.Spares == 0 || p.fill != nil || p.named || p.place != "" {
		return nil, errNoSpare
	}
	args, live := a.createArgs(p)
	if stamper, ok := a.be.(backend.Stamper); ok && !args.Hook && len(args.Domains) == 0 && len(live) <= maxIn {
		return a.giveAtOnce(ctx, stamper, p)
	}
	r, err := a.claimSpare(ctx, p, args, live)
	if err != nil {
		return nil, err
	}
	a.step("create: claimed")
	t := r.t
	err = a.withTenant(ctx, "create", t.ID, func(ctx context.Context, h *held) error {
		r.lock = h
		// Others could have gone on with it before the lock was had.
		op, err := operation(ctx, a.reg.db, t.ID)
		switch {
		case err != nil:
			return err
		case op == nil || op.fence != r.op.fence:
			if _, err := a.goOn(ctx, h, false); err != nil {
				return err
			}
			t, err = one(ctx, a.reg.db, selectByID, string(t.ID))
			if err == nil && slices.Contains([]Status{Provisioning, Failed, Deleted}, t.Status) {
				err = &unfinished{t.ID} // they failed, or deleted it
			}
			return err
		}
		made, err := r.finish(ctx)
		if made != nil {
			t = made
		}
		return err
	})
	if err != nil && r.lock == nil {
		err = r.failed(ctx, err)
		t = r.t
	}
	return t, err
}

// giveAtOnce claims a spare, stamps it and enters the tenant, active, in one statement. There is nothing to be done afterwards,
// and so nothing that somebody would have to go on with.
func (a *App) giveAtOnce(ctx context.Context, stamper backend.Stamper, p plan) (*Tenant, error) {
	p.status, p.event = Active, EventCreated
	t := p.tenant("")
	t.Domains = sortedDomains(p.domains)
	s := &atOnce{reg: &a.reg}
	// By ctid, which the lock holds still: a plan that was made when there were few spares goes through all of them for an ID.
	// What to look for is in the text, not in arguments: a general plan would expect to find next to none by those, and
	// cost so much that the server plans the statement anew each time (choose_custom_plan in plancache.c).
	s.with("s", `DELETE FROM tenement_spares WHERE ctid = (SELECT ctid FROM tenement_spares WHERE state = '`+spareReady+`' AND fingerprint = '`+
		a.spares.fingerprint+`' AND `+stamper.OwnerSQL("id")+` = '`+spareStamp+`' || id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id`)
	entered := s.insert(t, `s.id`, `s.id`, ` FROM s`, p.domains)
	s.with("l", a.migrator.EnterSQL(s.arg, `SELECT id, id FROM t`))
	s.count(ctx, entered, newTouch("", p.event, "", ""), `(SELECT id FROM t)`)
	var created, updated, stamped string
	// All of it or nothing: without a revision it ends in a division by zero, which the outer side of the join is looked at for.
	done, err := s.run(ctx, `SELECT made.one * (SELECT revision FROM r), t.id, t.created_at, t.updated_at, `+stamper.StampSQL("t.id", "t.id")+`::text
		FROM (SELECT 1 / count(*) FROM r) made (one) LEFT JOIN t ON true`, &t.ID, &created, &updated, &stamped)
	switch {
	case err != nil:
		return nil, err
	case !done:
		return nil, errNoSpare
	}
	if t.Store, err = spareStore(t.ID); err != nil {
		return nil, err
	}
	if t.Created, t.Updated, err = parseTimes(created, updated); err != nil {
		return nil, err
	}
	s.touched[0].id = t.ID
	a.migrator.Given(t.Store)
	a.noted(ctx, s.touched, []*Tenant{t})
	return t, nil
}

// claimSpare enters a tenant whose store is a spare, and the operation that creates it.
func (a *App) claimSpare(ctx context.Context, p plan, args opArgs, live []string) (r *run, err error) {
	err = a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		r = &run{a: a, known: true}
		id, err := tx.takeSpare(ctx, a.spares.fingerprint)
		if err != nil {
			return nil, err
		}
		if p.store, err = spareStore(id); err != nil {
			return nil, err
		}
		t, err := tx.insertTenant(ctx, id, p, args.Domains)
		switch {
		case errors.Is(err, ErrConflict), err == nil && t == nil:
			return nil, errNoSpare
		case err != nil:
			return nil, err
		}
		return tx.beginCreation(ctx, r, t, p, args, live)
	})
	if errors.Is(err, ErrConflict) { // a domain
		err = errNoSpare
	}
	return r, err
}

// takeSpare removes a spare from the list, and returns errNoSpare when there is none.
func (tx *registryTx) takeSpare(ctx context.Context, fingerprint string) (id ID, err error) {
	skip := "" // SQLite has one writer
	if tx.reg.d == backend.Postgres {
		skip = ` FOR UPDATE SKIP LOCKED`
	}
	err = tx.QueryRowContext(ctx, `DELETE FROM tenement_spares WHERE id = (SELECT id FROM tenement_spares
		WHERE state = $1 AND fingerprint = $2 LIMIT 1`+skip+`) RETURNING id`, spareReady, fingerprint).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = errNoSpare
	}
	return id, err
}

// stampSpare makes the spare that a creation claimed the tenant's store, and reports whether it is that, and as it was made. A
// creation that claimed what is no spare is undone.
func (r *run) stampSpare(ctx context.Context) (pristine bool, err error) {
	rt, err := spareRoute(r.t.ID)
	if err != nil {
		return false, err
	}
	adopter, ok := r.a.be.(backend.Adopter)
	if !ok {
		return false, errors.ErrUnsupported
	}
	err = adopter.Restamp(ctx, rt, string(r.t.ID))
	switch {
	case err == nil:
		r.a.step("create: stamped")
		return true, nil
	case !errors.Is(err, backend.ErrStoreMissing):
		return false, err
	case r.resumed:
		return false, nil // it may be half filled
	}
	// The registry is older than the store, which has been a customer's since; or it is gone.
	return false, &abandon{errNoSpare, erase}
}

// domains adds the part that enters the domains (d) of the tenant that the part t enters. It returns the condition under which
// that was done, and by the rules for hosts that are in force.
func (s *atOnce) domains(hosts []string) (entered string) {
	if len(hosts) == 0 {
		return `EXISTS (SELECT FROM t)`
	}
	values := make([]string, len(hosts))
	for i, d := range sortedDomains(hosts) { // in one order, whoever claims them: nobody waits in a circle
		values[i] = `(` + s.arg(d.Host) + `::text, ` + strconv.FormatBool(d.Primary) + `)`
	}
	s.with("d", `INSERT INTO tenement_domains (host, tenant_id, is_primary)
		SELECT v.host, t.id, v.is_primary FROM t, (VALUES `+strings.Join(values, ", ")+`) v (host, is_primary) RETURNING host`)
	return `(SELECT count(*) FROM d) = ` + strconv.Itoa(len(hosts)) + ` AND host_rules = ` + s.arg(s.reg.hostRules)
}
