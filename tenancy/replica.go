package tenancy

import (
	"context"
	"database/sql"

	"github.com/tenement-go/tenement/backend"
)

// Replica returns the handle for reads of the tenant that the context is in that may be a little behind: it only reads, and
// where the backend has replicas it reads from those. See [backend.Replicator]: a tenant that the replica has not heard of
// yet is backend.ErrStoreMissing, and so is one that it has not heard has been renamed. With a backend that has not that
// ability it is [App.DB].
func (a *App) Replica() *sql.DB {
	if r, ok := a.be.(backend.Replicator); ok {
		return r.Replica()
	}
	return a.be.DB()
}

// Position returns how far the stores are. Taken after a commit, and given to [backend.WithPosition], now or in the next
// request of the same client, it has reads on [App.Replica] wait for what was committed. It is empty where nothing is ever
// behind.
func (a *App) Position(ctx context.Context) (backend.Position, error) {
	if r, ok := a.be.(backend.Replicator); ok {
		return r.Position(ctx)
	}
	return "", nil
}
