package backend

import (
	"context"
	"errors"
)

// ErrUnreachable says that the place where the store is cannot be reached. Stores in other places are not concerned.
var ErrUnreachable = errors.New("place cannot be reached")

// Placer is the ability to keep stores in several places, such as the databases of several servers. A store is in one of
// them, from when it is made until it is moved, and whoever names it need not know in which.
type Placer interface {
	// Places lists the places, in the order in which they were configured. The first is home, where the shared store is
	// that [Backend.Shared] leads to. Every other place has a shared store of its own, which its stores see.
	Places() []string
	// In returns the backend as it is in one place: its Shared is that place's, its Stores lists that place's, and what it
	// makes is made there. It is nil when there is no such place. It is the backend's to close.
	In(place string) Backend
	// PlaceOf returns where a store is, as far as this process knows it: home for one that nobody knows. It asks home
	// once, and again when a store turned out to be elsewhere.
	PlaceOf(ctx context.Context, s Store) (place string, err error)
	// Settle decides where a store that is not there is to be made, and holds to it: Create makes it there. It is the place
	// that ctx names ([WithPlace]), else the one with the fewest stores of those that can be reached. It returns where the
	// store is when there is one, and an error that wraps [ErrInvalidName] for a place that there is not.
	Settle(ctx context.Context, s Store) (place string, err error)
}

type placeKey struct{}

// WithPlace returns a context in which stores are made in that place; see [Placer]. Empty means: where the backend
// chooses.
func WithPlace(ctx context.Context, place string) context.Context {
	return context.WithValue(ctx, placeKey{}, place)
}

// PlaceFrom returns the place that ctx names, or "".
func PlaceFrom(ctx context.Context) string {
	place, _ := ctx.Value(placeKey{}).(string)
	return place
}
