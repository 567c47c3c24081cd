package backend

import (
	"context"
	"database/sql"
)

// Replicator is the ability to read from copies that follow the stores. A backend that has no copies, or was given none,
// reads from the stores themselves, so that an application is the same with and without.
type Replicator interface {
	// Replica returns the routed handle for reading that may be a little behind, the same one each time. It is
	// [Backend.DB] but for this: what would change a store fails with ErrReadOnly; a store that the copy has not heard
	// of yet, or that it has heard is gone, is ErrStoreMissing; and the context may say how far the copy has to be (see
	// [WithPosition]). That a store went, or became another, while a statement read it may be known only after rows
	// were given out: then [database/sql.Rows.Err] returns an error. The backend closes it.
	Replica() *sql.DB
	// Position returns how far the stores are now. What was committed before the call is in a copy that is that far.
	Position(ctx context.Context) (Position, error)
}

// Position is how far the stores of a backend are. It is text without spaces, such as can be kept in a cookie; the zero
// value is the beginning. Only its backend can compare it.
type Position string

type positionKey struct{}

// WithPosition returns a context whose reads on [Replicator.Replica] wait until the copy that serves them is as far as p:
// who has written sees what he wrote. The wait ends with the context, so give it a deadline; all the more so where p comes
// from outside.
func WithPosition(ctx context.Context, p Position) context.Context {
	return context.WithValue(ctx, positionKey{}, p)
}

// PositionFrom returns the position that ctx asks for.
func PositionFrom(ctx context.Context) Position {
	p, _ := ctx.Value(positionKey{}).(Position)
	return p
}
