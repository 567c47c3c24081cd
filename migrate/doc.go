// Package migrate keeps the shared store and every tenant's store at the migrations that a binary carries.
//
// Migrations are goose files (and goose's Go migrations), in named sources. A source belongs to the shared set, to the
// tenant set or to both. Every store has goose's own version table per source, so the plain goose command, pointed at a
// store, agrees with this package, in both directions.
//
// A ledger in the shared store says which store has which migrations: finding out who is behind is one query, however
// many stores there are. Migrations that are SQL and transactional are sent as whole text, on Postgres many stores to a
// message; Go migrations, NO TRANSACTION, and every store in which the text failed, go through a goose provider, which
// has the last word.
package migrate
