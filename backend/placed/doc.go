// Package placed keeps the stores of one application in several places: databases of several servers, or of one, where
// a single one would have too many tables. It is a [backend.Backend] made of others.
//
//	be, err := backend.Open(ctx, "placed:?home=postgres%3A%2F%2Fa%2Fapp&eu=postgres%3A%2F%2Fb%2Fapp")
//
// or, without the escaping,
//
//	be, err := placed.Open(ctx, placed.Config{Places: []placed.Place{
//		{Name: "home", URL: "postgres://a/app"}, {Name: "eu", URL: "postgres://b/app"},
//	}})
//
// The first place is home. The registry, the locks and the directory of who is where are in its shared store, and so it has
// to be up for tenants to be made, renamed and moved. Every place has all that a backend of its own has: tenant stores, a
// shared store that its tenants see, a ledger of migrations. All speak the same dialect.
//
// # Where a store is
//
// The table tenement_places of home's shared store has a row for each store that was made through this package, and is read
// once per store and process. A store without a row is home's, so that an application which has one database already makes
// it home and goes on. Where a store is changes only when it is renamed, within its place, and when it is moved
// (transfer.Relocate): a process that believes it where it was is told so by the place, which has no such store any more,
// asks again, and goes on there. One that gets no answer from the place but an error asks again too, once a second at most, in
// case the store was moved before the place went down. A store is found by its owner there as everywhere, so that a belief
// which is wrong is an error at worst, never another tenant's row.
//
// # A place that is down
//
// Its own tenants get an error that wraps [backend.ErrUnreachable], or their driver's. Those of other places
// notice nothing: each place has a pool of its own, nobody holds a connection of one while waiting for one of another, and
// tenants whose place is known and answers need not ask home. A place that is down when the backend is opened is opened
// when it can be; only home must answer. What goes through all places (Stores, migrations of all) does those that answer
// and returns an error for the others. New stores are made elsewhere.
//
// # Shared tables
//
// Shared names those of home. Each place has its own, which package migrate makes and migrates as it does home's. Their
// rows are copied from home to the others, by Postgres' logical replication, once [Backend.ShareRows] has been called: behind by
// a moment, and nobody but the subscription may write to the copies. Tenants cannot (but with tenant_role=off). Tenants' joins and
// foreign keys find the tables of their own place. docs/scale.md has the rest.
//
// # Locks
//
// A lock is home's. What is done to a store elsewhere is done under the place's own lock of the same key too, taken at the
// first such operation and before home's is looked at again: whoever got home's lock after it was lost waits for that one with
// his own first such operation, until the one under way is over. That one in turn waits for no store's name any more once it has
// lost home's. Reading waits for nobody.
//
// # Native handles
//
// There is none across places. [Backend.At] returns the backend of the place where a store is, such as a *postgres.Backend,
// whose PGXFor is bound to that store: what is kept of it fails with backend.ErrStoreMissing once the tenant
// has been moved.
//
// Not offered are templates, backups of files, read replicas ([backend.Replicator]: App.Replica reads the stores
// themselves) and copies within the server; the packages above have slower ways for each.
package placed
