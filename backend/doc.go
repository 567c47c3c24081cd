// Package backend is the contract between an application with many tenants and the place that keeps their data.
//
// A [Backend] keeps one [Store] per tenant (a SQLite file, a Postgres schema) and one shared store that all tenants
// see. [Backend.DB] is a single [database/sql.DB] for all of them: the [Route] in each call's context decides, call by
// call, which store answers, and a call without one fails with [ErrNoTenant] and reaches none.
//
// An application imports the backends it wants for their side effect, and opens one by URL:
//
//	import _ "github.com/tenement-go/tenement/backend/sqlite"
//
//	be, err := backend.Open(ctx, "sqlite:data")
//	ctx = backend.WithStore(ctx, thor)
//	err = be.DB().QueryRowContext(ctx, "SELECT …").Scan(&v) // answered by thor's store
//
// SQL is that of the database, as it was written; a parameter is $1 in both. Most applications never call this package beyond
// Open: package tenancy puts the route into the context.
package backend
