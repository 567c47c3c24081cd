package tenancy

import (
	"context"
	"errors"
	"time"
)

// Change is an entry in a tenant's history.
type Change struct {
	Revision int64     `json:"revision"` // grows from change to change, over all tenants
	Kind     EventKind `json:"kind"`
	At       time.Time `json:"at"`               // UTC, by the database's clock
	Actor    string    `json:"actor,omitempty"`  // as WithActor named them
	Detail   string    `json:"detail,omitempty"` // "thor → donar", a host, a reason
}

// History lists a tenant's changes, the latest first; at most limit of them, or all that are kept when limit is 0: the
// last 200 of each tenant at least. It lists those of a tenant that was purged too, and none for an ID that never was.
func (a *App) History(ctx context.Context, id ID, limit int) ([]Change, error) {
	return nil, errors.ErrUnsupported
}
