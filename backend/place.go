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

// RowSharer is the ability to keep the rows of shared tables alike in all places: the database copies to the others what is
// written into home's.
type RowSharer interface {
	// ShareRows sets that up, in the places where it is not yet and for the tables that are not yet part of it. It is safe to
	// call again, and goes on after a call that was killed. It returns an error that wraps [errors.ErrUnsupported] where the
	// database cannot do it, and an error that names the tables for rows that are in the way; nothing is changed then in
	// the place that is concerned.
	ShareRows(ctx context.Context, opt ShareOptions) error
	// UnshareRows undoes it, and leaves the rows as they are. It does what can be done when home or a place cannot be reached,
	// and returns an error for the rest; call it again then.
	UnshareRows(ctx context.Context) error
	// RowShares says how it stands in each place but home; nothing where ShareRows was never called.
	RowShares(ctx context.Context) ([]RowShare, error)
}

// ShareOptions changes what [RowSharer.ShareRows] does.
type ShareOptions struct {
	// Tables are the shared tables whose rows are copied, by their names. Defaults to all, but for those of this library and
	// of goose.
	Tables []string
	// From is how the server of a place reaches home's database, as the database itself takes it (Postgres: a connection
	// string, with what it needs to log in). It is needed for a place to which nothing is copied yet.
	From string
	// Replace removes rows that tables have in other places before home's are copied. Without it they are an error.
	Replace bool
}

// RowShare is how it stands with the copying to one place.
type RowShare struct {
	Place  string   `json:"place"`
	Tables []string `json:"tables"` // that are copied to it
	// Behind is what home keeps because the place has not got it yet, in bytes; -1 when that is not known.
	Behind int64    `json:"behind"`
	Faults []string `json:"faults,omitempty"` // what is wrong, a sentence each
}
