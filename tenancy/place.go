package tenancy

import (
	"context"
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
	return placer.PlaceOf(Leave(ctx), t.Store)
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
