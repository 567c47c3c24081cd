package postgres

import "github.com/tenement-go/tenement/backend"

var _ backend.Bounded = (*Backend)(nil)

// Concurrency returns the size of the pool; see [backend.Bounded].
func (be *Backend) Concurrency() int { return int(be.pool.Config().MaxConns) }
