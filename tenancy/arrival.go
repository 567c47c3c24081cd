package tenancy

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

const arrivalStamp = "moving:"

// ArrivalOwner is the stamp of a store that is brought here to be the tenant's, until it is handed over to him with
// [backend.Adopter.Restamp], and never after: what carries it nobody was ever served from. The registry cannot tell, which may
// be older than its stores.
func ArrivalOwner(id ID) string { return arrivalStamp + string(id) }

func isArrival(owner string) bool { return strings.HasPrefix(owner, arrivalStamp) }

// setArrivalsApart takes the stores that are brought here, and the files of their tenants, out of those that have to be some
// tenant's.
func (c *checkup) setArrivalsApart() {
	for name, info := range c.stores {
		if isArrival(info.Owner) {
			c.claimed[name] = true
			c.tenants[ID(strings.TrimPrefix(info.Owner, arrivalStamp))] = true
		}
	}
}

// isArriving reports whether a store is brought here that is to be the tenant's.
func (a *App) isArriving(ctx context.Context, id ID) (bool, error) {
	for info, err := range a.be.Stores(ctx) {
		if err != nil || info.Owner == ArrivalOwner(id) {
			return err == nil, err
		}
	}
	return false, nil
}

// arrivals finds the stores that were brought here and not handed over.
func (c *checkup) arrivals(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(c.stores)) {
		if !isArrival(c.stores[name].Owner) {
			continue
		}
		info, err := c.a.be.Stat(ctx, c.stores[name].Store)
		switch {
		case err != nil && !errors.Is(err, backend.ErrStoreMissing):
			return err
		case err == nil && isArrival(info.Owner):
			c.findings = append(c.findings, Finding{
				Code: FindingArrival, Subject: name, Detail: "a move has brought the store of the tenant with the ID " +
					strings.TrimPrefix(info.Owner, arrivalStamp) + " here, and is not over: resume it or, if it was given up, set the store aside",
			})
		}
	}
	return nil
}
