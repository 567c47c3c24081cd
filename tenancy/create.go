package tenancy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// Create makes a tenant: it claims slug, store and domains, makes the store, brings it to the newest version, calls
// OnCreate in the tenant's context, and only then is the tenant active and served.
//
// With [Config.Spares] it takes a store that was made ahead, when there is one and the spec names neither store nor place.
//
// It is an [Operation]: when the process dies, another goes on. Called again for a tenant whose creation failed or was
// interrupted, it starts over, with the new spec and the ID it had, in an empty store: what a process that died left of
// the store is set aside (see [App.AsideStores]). It returns a
// [*FieldError] for a spec that is wrong and a [*ConflictError] when slug, store or a domain is another tenant's, in both
// cases having changed nothing. A creation of the same slug that is under way elsewhere is waited for, and then is such
// a conflict. When making the store or OnCreate fails or panics, or ctx ends, the store is removed again, the tenant is
// Failed, and the original error is in the chain of the one returned.
func (a *App) Create(ctx context.Context, spec Spec) (Tenant, error) {
	p, err := a.plan(spec)
	if err != nil {
		return Tenant{}, err
	}
	return a.createPlanned(ctx, p)
}

// createPlanned makes a tenant, or goes on with one of that slug whose creation is not over.
func (a *App) createPlanned(ctx context.Context, p plan) (Tenant, error) {
	var other *unfinished
	id := ID("")
	switch t, err := a.createFromSpare(Leave(ctx), p); {
	case err == nil:
		return *t, nil
	case errors.As(err, &other):
		id = other.id
	case !errors.Is(err, errNoSpare):
		return tenantOf(t), opError(string(p.kind()), p.slug, err)
	}
	for {
		t, err := a.create(Leave(ctx), id, p)
		if errors.As(err, &other) {
			id = other.id
			continue
		}
		if err != nil {
			return t, opError(string(p.kind()), p.slug, err)
		}
		return t, nil
	}
}

// unfinished: the slug is that of a tenant whose creation is not over or, without an ID, it was and the tenant is gone.
type unfinished struct{ id ID }

func (e *unfinished) Error() string { return "tenant " + string(e.id) + " is being created" }

// create makes a tenant with an ID of its own or goes on with the one that is given. That may be purged while its lock is
// waited for, and then its ID is nobody's any more.
func (a *App) create(ctx context.Context, id ID, p plan) (t Tenant, err error) {
	again := id != ""
	if !again {
		if id, err = newID(); err != nil {
			return Tenant{}, err
		}
	}
	err = a.withTenant(ctx, "create", id, func(ctx context.Context, h *held) error {
		r, err := a.claim(ctx, h, p, again)
		if err != nil {
			return err
		}
		a.step("create: claimed")
		made, err := r.finish(ctx)
		if made != nil {
			t = *made
		}
		return err
	})
	return t, err
}

// createArgs is what the operation of a creation is told. live are the domains that lead to the tenant at once.
func (a *App) createArgs(p plan) (args opArgs, live []string) {
	args = opArgs{Place: p.place, Seed: p.seed, Hook: a.cfg.Hooks.OnCreate != nil && p.fill == nil}
	if a.cfg.Hooks.ApproveDomain != nil {
		args.Domains = p.domains
		return args, nil
	}
	return args, p.domains
}

// claim enters the tenant into the registry, unless it is there already, or takes up one whose creation was not finished.
func (a *App) claim(ctx context.Context, h *held, p plan, again bool) (r *run, err error) {
	args, live := a.createArgs(p)
	if !again && a.reg.d == backend.Postgres && len(args.Domains) == 0 && len(live) <= maxIn {
		if r, err = a.claimAtOnce(ctx, h, p, args); err != nil || r != nil {
			return r, err
		}
	}
	err = a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		r = &run{a: a, lock: h, known: true, fillStore: p.fill}
		var t *Tenant
		var err error
		if !again {
			if t, err = tx.insertTenant(ctx, h.id, p, args.Domains); err != nil {
				return nil, err
			}
		}
		if t == nil {
			r.resumed = true
			if t, err = tx.reclaim(ctx, h.id, p, again); err != nil {
				return nil, err
			}
		}
		return tx.beginCreation(ctx, r, t, p, args, live)
	})
	return r, err
}

// beginCreation enters the operation and the domains of a tenant that was entered.
func (tx *registryTx) beginCreation(ctx context.Context, r *run, t *Tenant, p plan, args opArgs, live []string) (after []*Tenant, err error) {
	if r.op, err = tx.begin(ctx, t.ID, p.kind(), "", args); err != nil {
		return nil, err
	}
	primary := ""
	if len(live) > 0 {
		primary = live[0]
	}
	if err := tx.setDomains(ctx, t.ID, live, primary); err != nil {
		return nil, err
	}
	for _, host := range args.Domains {
		if _, err := tx.insertPending(ctx, t.ID, host, "not looked at yet"); err != nil {
			return nil, err
		}
	}
	t.Domains = sortedDomains(live)
	r.t = t
	return []*Tenant{t}, nil
}

// tenantOf is the tenant as far as it is known.
func tenantOf(t *Tenant) Tenant {
	if t == nil {
		return Tenant{}
	}
	return *t
}

// sortedDomains is how the registry returns hosts of which the first is primary.
func sortedDomains(hosts []string) (domains []Domain) {
	for i, host := range hosts {
		domains = append(domains, Domain{Host: host, Primary: i == 0})
	}
	slices.SortFunc(domains, func(a, b Domain) int { return strings.Compare(a.Host, b.Host) })
	return domains
}

// insertTenant enters a new tenant. It returns nil when something is in the way: the registry has the ID already, or what
// the tenant is to have is another's, which reclaim and conflict tell. pending are domains that must not be another
// tenant's; of those that are entered, setDomains finds that out.
func (tx *registryTx) insertTenant(ctx context.Context, id ID, p plan, pending []string) (*Tenant, error) {
	t := p.tenant(id)
	rows, err := tx.QueryContext(ctx, `INSERT INTO tenement_tenants (id, slug, name, status, reason, store, meta, created_at, updated_at)
		SELECT $1, $2, $4, $5, $6, $3, $7, `+tx.reg.now()+`, `+tx.reg.now()+` WHERE NOT EXISTS (`+selectTaken+`)
		ON CONFLICT DO NOTHING RETURNING created_at, updated_at`,
		string(t.ID), t.Slug, t.Store.String(), t.Name, string(t.Status), t.Reason, string(t.Meta))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	if !rows.Next() {
		return nil, rows.Err()
	}
	var created, updated string
	if err := rows.Scan(&created, &updated); err != nil {
		return nil, err
	}
	if t.Created, t.Updated, err = parseTimes(created, updated); err == nil {
		err = rows.Close()
	}
	if err == nil && len(pending) > 0 {
		err = tx.domainConflict(ctx, id, pending)
	}
	tx.touch(t.ID, p.event, t.Slug)
	return t, err
}

// reclaim takes up the unfinished tenant of that slug, without its domains and its operation, or says what stands in
// the way. again says that it was there before.
func (tx *registryTx) reclaim(ctx context.Context, id ID, p plan, again bool) (*Tenant, error) {
	t, err := one(ctx, tx, selectBySlug, p.slug)
	if errors.Is(err, ErrNotFound) {
		if err := tx.conflict(ctx, id, p.slug, p.store, p.domains); err != nil {
			return nil, err
		}
		if again {
			return nil, &unfinished{}
		}
		return nil, errRetry // what was in the way is gone
	}
	switch {
	case err != nil:
		return nil, err
	case t.Status != Provisioning && t.Status != Failed:
		return nil, &ConflictError{Field: "slug", Value: p.slug, By: t.Slug}
	case t.ID != id:
		return nil, &unfinished{t.ID}
	case p.store != t.Store && (p.named || !t.ofSpare()): // a spare is what it got the last time
		// The other store is this tenant's own and never was served; whoever finishes the creation removes it.
		return nil, &ConflictError{Field: "slug", Value: p.slug, By: t.Slug}
	}
	if err := tx.conflict(ctx, t.ID, p.slug, t.Store, p.domains); err != nil {
		return nil, err
	}
	for _, query := range []string{
		`DELETE FROM tenement_domains WHERE tenant_id = $1`,
		`DELETE FROM tenement_pending_domains WHERE tenant_id = $1`,
		`DELETE FROM tenement_operations WHERE tenant = $1`,
	} {
		if _, err := tx.ExecContext(ctx, query, string(t.ID)); err != nil {
			return nil, err
		}
	}
	err = tx.update(ctx, t, EventClaimed, p.slug, `name = $3, status = $4, reason = '', meta = $5`, p.name, string(Provisioning), string(p.meta))
	t.Name, t.Status, t.Reason, t.Meta = p.name, Provisioning, "", p.meta
	return t, err
}

var createSteps = []step{{name: "make", do: makeStore, commit: activate, atOnce: activateAtOnce}}

// makeStore makes the store of a claimed tenant and fills it.
func makeStore(ctx context.Context, r *run) error {
	ctx = backend.WithPlace(ctx, r.op.args.Place)
	pristine := false
	if r.t.ofSpare() {
		var err error
		if pristine, err = r.stampSpare(ctx); err != nil {
			return err
		}
	}
	if r.resumed && !pristine {
		if err := r.clear(ctx); err != nil {
			return err
		}
	}
	if err := r.fill(ctx, pristine); err != nil {
		var foreign *abandon
		if errors.As(err, &foreign) || errors.Is(err, backend.ErrLockLost) {
			return err
		}
		return errors.Join(err, r.unmake(ctx))
	}
	return nil
}

// clear puts a store that is there already out of the way: an OnCreate that got half-way would stumble over its own rows.
// It is not dropped. That it was never served is only what the registry says, and the registry may be older than the
// store: one that was put back from a backup knows of no customer who came after that.
func (r *run) clear(ctx context.Context) error {
	a := r.a
	if err := r.lock.Check(ctx); err != nil {
		return err
	}
	a.step("create: resumed")
	if err := r.dropUnstamped(ctx); err != nil {
		return err
	}
	aside, err := a.putAside(ctx, r.t.route())
	switch {
	case errors.Is(err, backend.ErrStoreMissing):
		return nil
	case err != nil:
		return err
	}
	a.log.WarnContext(ctx, "tenement: a creation is begun anew; what was in its store is kept",
		"tenant", r.t.Slug, "store", r.t.Store.String(), "aside", aside.String())
	a.step("create: set aside")
	return nil
}

// unmake removes the store that this very run made and could not fill. The lock was held all the time, so nobody else
// made it and nobody was served from it.
func (r *run) unmake(ctx context.Context) error {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	defer func() { r.left = ctx.Err() != nil }()
	if err := r.lock.Check(ctx); err != nil {
		return err
	}
	if err := r.a.be.Drop(ctx, r.t.route()); err != nil && !errors.Is(err, backend.ErrStoreMissing) {
		return fmt.Errorf("remove what was made: %w", err)
	}
	r.a.step("unmake: dropped")
	return r.a.migrator.Forget(ctx, r.t.Store)
}

// fill makes the store, unless it is a spare that is as it was made for today, and has the application fill it.
func (r *run) fill(ctx context.Context, pristine bool) error {
	if err := r.provision(ctx, pristine && !r.resumed); err != nil {
		return err
	}
	a, t := r.a, r.t
	a.step("create: provisioned")
	if a.cfg.Hooks.OnCreate != nil {
		inside := backend.WithRouter(ctx, &operated{t})
		if err := a.guard(inside, "OnCreate", func() error { return a.cfg.Hooks.OnCreate(inside, *t, Seed(r.op.args.Seed)) }); err != nil {
			return fmt.Errorf("OnCreate: %w", err)
		}
	}
	a.step("create: filled")
	if r.resumed {
		if err := a.tidy(ctx, t.Store); err != nil {
			return err
		}
	}
	return a.approvePending(ctx, r)
}

func (r *run) provision(ctx context.Context, given bool) error {
	a, t := r.a, r.t
	if given {
		r.made = a.migrator.Made(t.route())
		return nil
	}
	// OnCreate may do what a failure of the server does not undo, of a store that must be there then.
	later := a.cfg.Hooks.OnCreate == nil && len(r.op.args.Domains) == 0
	made, err := a.migrator.ProvisionUnentered(ctx, t.route(), migrate.ProvisionOptions{Async: later})
	switch {
	case errors.Is(err, backend.ErrStoreExists):
		// Another owner's: the claim was wrong, nothing of it may stay.
		return &abandon{&ConflictError{Field: "store", Value: t.Store.String(), nobodys: true}, erase}
	case err != nil:
		return err
	}
	r.made = made
	return nil
}

// activate ends a creation. The seed goes with the operation. The ledger has its row from now on, too.
func activate(ctx context.Context, tx *registryTx, r *run) ([]*Tenant, error) {
	if r.made != nil {
		if err := r.made.Enter(ctx, tx); err != nil {
			return nil, err
		}
	}
	if err := tx.update(ctx, r.t, EventCreated, "", `status = $3, reason = ''`, string(Active)); err != nil {
		return nil, err
	}
	if r.t.Status, r.t.Reason = Active, ""; len(r.approved) == 0 {
		return []*Tenant{r.t}, nil
	}
	for i, host := range r.approved {
		switch err := tx.insertDomain(ctx, r.t, host, i == 0 && r.t.PrimaryDomain() == ""); {
		case errors.Is(err, ErrConflict):
			continue // somebody proved before that it is theirs; it stays pending
		case err != nil:
			return nil, err
		}
	}
	t, err := one(ctx, tx, selectByID, string(r.t.ID))
	r.t = t
	return []*Tenant{t}, err
}

// erase removes a tenant from the registry.
func erase(ctx context.Context, tx *registryTx, r *run) ([]*Tenant, error) {
	for _, query := range []string{
		`DELETE FROM tenement_domains WHERE tenant_id = $1`,
		`DELETE FROM tenement_pending_domains WHERE tenant_id = $1`,
		`DELETE FROM tenement_tenants WHERE id = $1`,
	} {
		if _, err := tx.ExecContext(ctx, query, string(r.t.ID)); err != nil {
			return nil, err
		}
	}
	tx.touch(r.t.ID, EventPurged, r.t.Slug)
	return []*Tenant{r.t}, nil
}

// tidy removes what an interrupted operation left beside stores that are the caller's to change. No operation depends on it:
// what cannot be listed, as in another place that is down, is left to the doctor.
func (a *App) tidy(ctx context.Context, stores ...backend.Store) error {
	sweeper, ok := a.be.(backend.Sweeper)
	if !ok {
		return nil
	}
	leftovers, err := sweeper.Leftovers(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		a.log.WarnContext(ctx, "tenement: not all that interrupted operations left can be listed; the doctor finds it later", "error", err)
	}
	for _, l := range leftovers {
		if !l.Store.IsZero() && slices.Contains(stores, l.Store) {
			if err := sweeper.Sweep(ctx, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// cutReason is an error as the registry can keep it.
func cutReason(err error) string {
	reason := strings.ReplaceAll(strings.ToValidUTF8(err.Error(), ""), "\x00", "")
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "…"
	}
	return reason
}

// encodeSeed returns a seed as JSON; nil when there is none.
func encodeSeed(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	text, err := json.Marshal(v)
	switch {
	case err != nil:
		return nil, &FieldError{Field: "seed", Value: fmt.Sprintf("%T", v), Rule: "it must be encodable as JSON: " + err.Error()}
	case len(text) > maxMetaLen:
		return nil, &FieldError{Field: "seed", Value: fmt.Sprintf("%T", v), Rule: fmt.Sprintf("it must have at most %d bytes as JSON", maxMetaLen)}
	}
	return text, nil
}
