package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// spares fills the pool of spares up, one round at a time.
type spares struct {
	fingerprint string // of those that this binary gives away
	running     atomic.Bool

	others atomic.Int64 // of those that there are, as they were last looked at, which a later binary made

	// Of the round that is going on.
	last    int       // how many there were to give away when it was last looked
	next    time.Time // no round before that, after one that failed
	backoff time.Duration
}

// wake begins a round unless one is going on. It is up to the round whether there is anything to do.
func (s *spares) wake(a *App) {
	if a.cfg.Spares == 0 || s.running.Swap(true) {
		return
	}
	a.background(func() {
		defer s.running.Store(false)
		if time.Now().Before(s.next) {
			return
		}
		err := a.refill(a.ctx)
		if err == nil || a.ctx.Err() != nil {
			s.backoff = 0
			return
		}
		s.backoff = min(max(2*s.backoff, a.cfg.PollInterval), maxBackoff)
		s.next = time.Now().Add(s.backoff)
		a.log.Warn("tenement: stores cannot be made ahead", "error", err)
	})
}

// refill fills the pool when it is half empty, unless somebody is at it: few large steps, of which each costs those who are
// served something, rather than many small ones. While they are being given away it waits, as long as there are some left.
func (a *App) refill(ctx context.Context) error {
	var ready, unfinished int
	err := a.reg.db.QueryRowContext(ctx, `SELECT COALESCE(sum(CASE WHEN state = $1 AND fingerprint = $2 THEN 1 ELSE 0 END), 0),
		COALESCE(sum(CASE WHEN state <> $1 THEN 1 ELSE 0 END), 0) FROM tenement_spares`, spareReady, a.spares.fingerprint).Scan(&ready, &unfinished)
	before := a.spares.last
	a.spares.last = ready
	if err != nil || ready > a.cfg.Spares/2 && unfinished == 0 || ready < before && ready > a.cfg.Spares/8 {
		return err
	}
	_, err = a.tryLock(ctx, "make stores ahead", "spares", "", a.fillSpares)
	if err == nil && a.spares.others.Load() > int64(a.cfg.Spares/2) {
		err = errNewerSpares // there is no hurry to look again
	}
	return err
}

var errNewerSpares = errors.New("those that there are were made by a later version of the program")

// Spare is a store that was made ahead; see [Config.Spares].
type Spare struct {
	ID    ID            `json:"id"`    // of the tenant to come, and the store's name
	State string        `json:"state"` // making, ready or dropping
	Ready bool          `json:"ready"` // it can be given away by this binary
	store backend.Store // the same as ID
	print string
}

// Spares lists the stores that were made ahead, in order of ID, and what is left of such.
func (a *App) Spares(ctx context.Context) ([]Spare, error) {
	list, err := a.listSpares(Leave(ctx))
	if err != nil {
		return nil, fmt.Errorf("tenement: list the spares: %w", err)
	}
	return list, nil
}

// SparesWanted is [Config.Spares].
func (a *App) SparesWanted() int { return a.cfg.Spares }

func (a *App) listSpares(ctx context.Context) (list []Spare, err error) {
	rows, err := a.reg.db.QueryContext(ctx, `SELECT id, state, fingerprint FROM tenement_spares ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s Spare
		if err := rows.Scan(&s.ID, &s.State, &s.print); err != nil {
			return nil, err
		}
		if s.store, err = spareStore(s.ID); err != nil {
			return nil, err
		}
		s.Ready = s.State == spareReady && s.print == a.spares.fingerprint
		list = append(list, s)
	}
	return list, rows.Err()
}

// FillSpares makes stores ahead until there are [Config.Spares] of them, removes those that are too many or behind the
// migrations of this binary, and finishes what a process that died left half done. An App does so by itself when half of them
// were given away. It waits for whoever is at it.
func (a *App) FillSpares(ctx context.Context) error {
	if err := a.withLock(Leave(ctx), "make stores ahead", "spares", "", a.fillSpares); err != nil {
		return fmt.Errorf("tenement: make stores ahead: %w", err)
	}
	return nil
}

// fillSpares is called with the lock of the spares.
func (a *App) fillSpares(ctx context.Context, _ backend.Lock) error {
	list, err := a.listSpares(ctx)
	if err != nil {
		return err
	}
	var keep, drop []Spare
	for _, s := range list {
		stays, err := a.keeps(ctx, s)
		switch {
		case err != nil:
			return err
		case stays && len(keep) < a.cfg.Spares:
			keep = append(keep, s)
		default:
			drop = append(drop, s)
		}
	}
	others := 0
	for _, s := range keep {
		if !s.Ready {
			others++
		}
	}
	a.spares.others.Store(int64(others))
	var errs []error
	for _, s := range drop {
		errs = append(errs, a.dropSpare(ctx, s))
	}
	return errors.Join(append(errs, a.makeSpares(ctx, a.cfg.Spares-len(keep)))...)
}

// keeps reports whether a spare is one to give away. One that a later binary made is, by that.
func (a *App) keeps(ctx context.Context, s Spare) (bool, error) {
	if s.State != spareReady || a.cfg.Spares == 0 {
		return false, nil
	}
	if !s.Ready {
		if newer, err := a.migrator.Newer(ctx, s.print); err != nil || !newer {
			return false, err
		}
	}
	info, err := a.be.Stat(ctx, s.store)
	if errors.Is(err, backend.ErrStoreMissing) {
		return false, nil
	}
	return info.Owner == spareOwner(s.ID), err
}

// dropSpare removes a spare, unless it was given away meanwhile.
func (a *App) dropSpare(ctx context.Context, s Spare) error {
	res, err := a.reg.db.ExecContext(ctx, `UPDATE tenement_spares SET state = $2 WHERE id = $1`, string(s.ID), spareDropping)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	a.step("spares: dropping")
	if err := a.dropSpareStore(ctx, s.ID); err != nil {
		return err
	}
	a.step("spares: dropped")
	if s.State != spareReady { // who was at it may have died
		if err := a.tidy(ctx, s.store); err != nil {
			return err
		}
	}
	if err := a.migrator.Forget(ctx, s.store); err != nil {
		return err
	}
	_, err = a.reg.db.ExecContext(ctx, `DELETE FROM tenement_spares WHERE id = $1 AND state = $2`, string(s.ID), spareDropping)
	return err
}

// makeSpares makes n stores. Their rows are there before them, so that whoever comes after this process finds them.
func (a *App) makeSpares(ctx context.Context, n int) error {
	const atOnce = 64
	for n > 0 {
		lot := min(n, atOnce)
		if err := a.makeLot(ctx, lot); err != nil {
			return err
		}
		n -= lot
	}
	return nil
}

func (a *App) makeLot(ctx context.Context, n int) error {
	var ids []any
	var routes []backend.Route
	for range n {
		id, err := newID()
		if err != nil {
			return err
		}
		rt, err := spareRoute(id)
		if err != nil {
			return err
		}
		ids, routes = append(ids, string(id)), append(routes, rt)
	}
	values := make([]string, n)
	for i := range values {
		values[i] = fmt.Sprintf(`($%d, $1, '')`, i+2)
	}
	_, err := a.reg.db.ExecContext(ctx, `INSERT INTO tenement_spares (id, state, fingerprint) VALUES `+strings.Join(values, ","),
		append([]any{spareMaking}, ids...)...)
	if err != nil {
		return err
	}
	a.step("spares: entered")
	faults := a.migrator.ProvisionAhead(ctx, routes)
	a.step("spares: made")
	made := slices.DeleteFunc(slices.Clone(ids), func(id any) bool { return faults[slices.Index(ids, id)] != nil })
	if len(made) > 0 {
		_, err := a.reg.db.ExecContext(ctx, `UPDATE tenement_spares SET state = $1, fingerprint = $2 WHERE state = $3 AND id IN (`+
			placeholders(4, len(made))+`)`, append([]any{spareReady, a.spares.fingerprint, spareMaking}, made...)...)
		if err != nil {
			return err
		}
	}
	a.step("spares: ready")
	return errors.Join(faults...) // what was not made is removed by the next round
}
