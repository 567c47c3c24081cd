package tenancy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

// Places lists the places that tenants can be in, the first of them home; nil where the backend has not several.
func (a *App) Places() []string {
	if placer, ok := a.be.(backend.Placer); ok {
		return placer.Places()
	}
	return nil
}

// PlaceOf returns the place where a tenant's store is; "" where the backend has not several.
func (a *App) PlaceOf(ctx context.Context, t Tenant) (string, error) {
	placer, ok := a.be.(backend.Placer)
	if !ok {
		return "", nil
	}
	ctx = Leave(ctx)
	// What this process believes may be from before a move, which the store's place says when it is asked.
	if _, err := a.be.Stat(ctx, t.Store); err != nil && !errors.Is(err, backend.ErrStoreMissing) && !errors.Is(err, backend.ErrUnreachable) {
		return "", err
	}
	return placer.PlaceOf(ctx, t.Store)
}

// checkPlace returns a *FieldError for a place that there is not.
func (a *App) checkPlace(place string) (string, error) {
	if places := a.Places(); place != "" && !slices.Contains(places, place) {
		rule := "the stores of this backend are all in one place"
		if len(places) > 0 {
			rule = fmt.Sprintf("the places are %s", strings.Join(places, ", "))
		}
		return "", &FieldError{Field: "place", Value: place, Rule: rule}
	}
	return place, nil
}
