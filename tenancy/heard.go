package tenancy

import (
	"context"
	"fmt"
	"time"
)

// hearing says for how long somebody is let in by what this App knows. Who changes a tenant waits no longer than the bound on
// staleness for it to be heard of, so an App that was kept from asking for longer, its process being stopped, asks first.
type hearing struct {
	at   time.Time
	good time.Duration
	deaf bool // the registry did not answer: tenants are served as they were
}

// noteHeard is called when the changes were acted on that there were at a time.
func (a *App) noteHeard(at time.Time) {
	a.heard.Store(&hearing{at: at, good: a.StalenessBound()})
}

// noteDeaf is called when the registry did not answer: nobody waits for it until it was to be asked again.
func (a *App) noteDeaf() {
	a.heard.Store(&hearing{at: time.Now(), good: a.deafness(), deaf: true})
}

// deafness is for how long an App goes by what it knew once the registry did not answer it.
func (a *App) deafness() time.Duration { return a.StalenessBound() + a.cfg.LookupTimeout }

// asking is how long it takes at most until a question for changes is given up.
func (a *App) asking() time.Duration { return max(a.cfg.PollInterval, a.cfg.LookupTimeout) }

// old reports whether more is to be heard before anything is answered by what is known. It is asked for each request, so it
// goes by the monotonic clock alone, which takes half the time; who is let in is asked about both, see [App.current].
func (h *hearing) old() bool { return time.Since(h.at) > h.good }

// current reports whether somebody may be let in by what is known.
func (a *App) current() bool {
	h, now := a.heard.Load(), time.Now()
	return since(h.at, now) <= h.good && (h.deaf || !a.lapsed(now))
}

// catchUp has the App current, unless the registry does not answer. It is done once for all who wait for it, so it does not end
// with the one who came first.
func (a *App) catchUp(ctx context.Context) error {
	if a.current() {
		return nil
	}
	done := a.flights.DoChan("changes", func() (any, error) {
		ctx, cancel := context.WithTimeout(a.ctx, a.cfg.LookupTimeout)
		defer cancel()
		if err := a.hearMissed(ctx); err != nil {
			a.noteDeaf()
			if a.ctx.Err() == nil {
				a.log.Warn("tenement: the registry cannot be asked for changes; tenants in the cache are served as they were", "error", err)
			}
		}
		return nil, nil
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
}

// hearMissed announces the App again when others may have taken it for dead, and hears of what it missed.
func (a *App) hearMissed(ctx context.Context) error {
	if err := a.renewDue(ctx); err != nil {
		return err
	}
	if err := a.polling.Acquire(ctx, 1); err != nil {
		return err
	}
	defer a.polling.Release(1)
	if a.current() {
		return nil
	}
	return a.listen(ctx)
}
