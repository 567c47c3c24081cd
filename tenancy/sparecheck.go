package tenancy

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/tenement-go/tenement/backend"
)

// setSparesApart takes the stores that were made ahead out of those that have to be some tenant's.
func (c *checkup) setSparesApart(ctx context.Context) error {
	c.made = map[ID]bool{}
	for name, info := range c.stores {
		if isSpare(info.Owner) {
			c.made[ID(name)] = true
			c.claimed[name] = true
		}
	}
	list, err := c.a.listSpares(ctx)
	for _, s := range list {
		c.made[s.ID] = true
		c.claimed[string(s.ID)] = true
	}
	return err
}

// spares finds what is wrong with stores that were made ahead, unless somebody is at work on them.
func (c *checkup) spares(ctx context.Context) error {
	if len(c.made) == 0 {
		return nil
	}
	_, err := c.a.tryLock(ctx, "examine", "spares", "", func(ctx context.Context, _ backend.Lock) error {
		for _, id := range slices.Sorted(maps.Keys(c.made)) {
			wrong, _, err := c.a.sparesFault(ctx, id)
			if err != nil {
				return err
			}
			if wrong != "" {
				c.findings = append(c.findings, Finding{Code: FindingSpare, Subject: string(id), Detail: wrong, Repair: "removes it"})
			}
		}
		return nil
	})
	return err
}

// sparesFault says what is wrong with a spare, if anything. The caller has the lock of the spares.
func (a *App) sparesFault(ctx context.Context, id ID) (wrong string, entered *Spare, err error) {
	rt, err := spareRoute(id)
	if err != nil {
		return "", nil, err
	}
	// The store first: one that is given away meanwhile, for which nobody needs that lock, has no row by then.
	info, err := a.be.Stat(ctx, rt.Store)
	missing := errors.Is(err, backend.ErrStoreMissing)
	if err != nil && !missing {
		return "", nil, err
	}
	a.step("examine: spare seen")
	list, err := a.listSpares(ctx)
	if err != nil {
		return "", nil, err
	}
	if i := slices.IndexFunc(list, func(s Spare) bool { return s.ID == id }); i >= 0 {
		entered = &list[i]
	}
	switch {
	case entered == nil && info.Owner == rt.Owner:
		// Unless a creation has claimed it and not stamped it yet.
		if claimed, err := a.isClaimed(ctx, rt.Store); err != nil || claimed {
			return "", nil, err
		}
		wrong = "a store that was made ahead is not in the registry"
	case entered == nil:
	case entered.State != spareReady:
		wrong = "a store that is made ahead was left at the state " + entered.State
	case missing:
		wrong = "a store that was made ahead is not there"
	case info.Owner != rt.Owner:
		wrong = "the store is that of " + info.Owner + ", and the registry says that it was made ahead for nobody: the registry is older than it"
	case a.cfg.Spares == 0:
		wrong = "a store was made ahead, and this program keeps none (Config.Spares is 0)"
	}
	return wrong, entered, nil
}

// repairSpare removes a spare that something is wrong with. A store that has another stamp by now stays.
func (a *App) repairSpare(ctx context.Context, id ID) error {
	return a.withLock(ctx, "repair", "spares", "", func(ctx context.Context, _ backend.Lock) error {
		wrong, entered, err := a.sparesFault(ctx, id)
		if err != nil || wrong == "" {
			return err
		}
		if entered != nil {
			return a.dropSpare(ctx, *entered)
		}
		return a.dropSpareStore(ctx, id)
	})
}
