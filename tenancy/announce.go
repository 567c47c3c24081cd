package tenancy

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// announcement is what an App that serves says of itself in the registry: how long it may take to hear of a change.
// Whoever purges a tenant waits for it. It is renewed while the App runs. One whose lease is over may have died, or not have
// reached the registry: it is waited for once more, for as long as it goes by what it knew, and then removed.
type announcement struct {
	id   string
	made atomic.Bool

	turn    *semaphore.Weighted       // one at a time; that wait ends with its context, which a mutex's does not
	written bool                      // it may be in the registry
	begun   atomic.Pointer[time.Time] // when it was last renewed; nil: never
}

// minLease is how long an App that does not renew its announcement counts as serving.
const minLease = 30 * time.Second

func (a *App) lease() time.Duration { return max(minLease, 4*a.StalenessBound()) }

// announce says that this App serves, before it does for the first time, and then hears of what was changed before: nobody
// waited for it. It may be called again.
func (a *App) announce(ctx context.Context) error {
	if a.announced.made.Load() {
		return nil
	}
	if err := a.announced.turn.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("tenement: announce: %w: %w", ErrUnavailable, context.Cause(ctx))
	}
	defer a.announced.turn.Release(1)
	if a.announced.made.Load() {
		return nil
	}
	if a.closed.Load() {
		return ErrClosed
	}
	if err := a.renew(ctx); err != nil {
		return fmt.Errorf("tenement: announce: %w: %w", ErrUnavailable, err)
	}
	a.announced.made.Store(true)
	return nil
}

// renewDue renews the announcement when a third of the lease is over.
func (a *App) renewDue(ctx context.Context) error {
	if err := a.announced.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer a.announced.turn.Release(1)
	if !a.announced.made.Load() || since(*a.announced.begun.Load(), time.Now()) < a.lease()/3 {
		return nil
	}
	return a.renew(ctx)
}

// lapsed reports whether the App has not announced itself for so long that others may take it for dead: they do not wait for it.
func (a *App) lapsed(now time.Time) bool {
	begun := a.announced.begun.Load()
	return begun == nil || since(*begun, now) >= a.lease()
}

// renew writes the announcement. While there was none, or only one of an App taken for dead, nobody waited until this one had
// heard of a change: it hears now, when they wait again.
func (a *App) renew(ctx context.Context) error {
	a.announced.written = true
	now := a.reg.now()
	begun := time.Now()
	deaf := a.asking() + a.deafness() // a question from before others could reach the registry may only now be given up
	_, err := a.reg.db.ExecContext(ctx, `INSERT INTO tenement_apps (id, bound_ms, lease_ms, deaf_ms, seen_at) VALUES ($1, $2, $3, $4, `+now+`)
		ON CONFLICT (id) DO UPDATE SET seen_at = `+now,
		a.announced.id, a.StalenessBound().Milliseconds(), a.lease().Milliseconds(), deaf.Milliseconds())
	if err != nil {
		return err
	}
	if a.lapsed(begun) {
		if err := a.hear(ctx); err != nil {
			return err
		}
	}
	a.announced.begun.Store(&begun)
	return nil
}

// since is how long ago a time was, by the clock that says more: the monotonic one stands still while the machine sleeps, and
// the other one can be set back. Where it was, nobody knows how long ago that is.
func since(then, now time.Time) time.Duration {
	wall := now.Round(0).Sub(then.Round(0))
	if wall < 0 {
		return math.MaxInt64
	}
	return max(wall, now.Sub(then))
}

// withdraw takes the announcement back. Nobody is let in from then on: this process hears of no change any more.
func (a *App) withdraw() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := a.announced.turn.Acquire(ctx, 1)
	if err == nil {
		defer a.announced.turn.Release(1)
		a.announced.made.Store(false)
		if !a.announced.written {
			return
		}
		_, err = a.reg.db.ExecContext(ctx, `DELETE FROM tenement_apps WHERE id = $1`, a.announced.id)
	}
	if err != nil {
		a.log.Warn("tenement: who purges a tenant will wait for this App, which is closed", "error", err)
	}
}

// others is what the other Apps say of themselves.
type others struct {
	at     time.Time     // now, by the database's clock
	bound  time.Duration // the greatest of those that serve
	deaf   time.Duration // the greatest of those whose lease is over: for how long they may go by what they knew
	lapsed []lapsed
}

// lapsed is an announcement whose lease is over.
type lapsed struct{ id, seen string }

// announcedOthers reads the announcements of the other Apps.
func (a *App) announcedOthers(ctx context.Context) (o others, err error) {
	rows, err := a.reg.db.QueryContext(ctx, `SELECT `+a.reg.now()+`, COALESCE(a.id, ''), COALESCE(a.bound_ms, 0), COALESCE(a.lease_ms, 0),
		COALESCE(a.deaf_ms, 0), COALESCE(a.seen_at, '') FROM (SELECT 1 AS one) o LEFT JOIN tenement_apps a ON a.id <> $1`, a.announced.id)
	if err != nil {
		return o, err
	}
	defer rows.Close()
	for rows.Next() {
		var at, id, seen string
		var boundMS, leaseMS, deafMS int64
		if err := rows.Scan(&at, &id, &boundMS, &leaseMS, &deafMS, &seen); err != nil {
			return o, err
		}
		if o.at, err = time.Parse(timeFormat, at); err != nil {
			return o, err
		}
		if id == "" {
			continue
		}
		seenAt, err := time.Parse(timeFormat, seen)
		if err != nil {
			return o, fmt.Errorf("announcement of %s: %w", id, err)
		}
		if o.at.Sub(seenAt) > time.Duration(leaseMS)*time.Millisecond {
			o.lapsed = append(o.lapsed, lapsed{id, seen})
			o.deaf = max(o.deaf, time.Duration(max(boundMS, deafMS))*time.Millisecond)
			continue
		}
		o.bound = max(o.bound, time.Duration(boundMS)*time.Millisecond)
	}
	return o, rows.Err()
}

// bury removes the announcements of those that died, unless they have come back to life meanwhile.
func (a *App) bury(ctx context.Context, dead []lapsed) error {
	for _, d := range dead {
		if _, err := a.reg.db.ExecContext(ctx, `DELETE FROM tenement_apps WHERE id = $1 AND seen_at = $2`, d.id, d.seen); err != nil {
			return err
		}
	}
	return nil
}
