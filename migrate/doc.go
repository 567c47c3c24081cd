// Package migrate keeps the shared store and every tenant's store at the migrations that a binary carries.
//
// A migration is a file as goose has it, such as migrations/00001_notes.sql:
//
//	-- +goose Up
//	CREATE TABLE notes (text TEXT NOT NULL);
//	-- +goose Down
//	DROP TABLE notes;
//
// Where the two databases spell something differently, 00001_notes.sqlite.sql and 00001_notes.postgres.sql are one migration:
// an ID that numbers itself is INTEGER PRIMARY KEY AUTOINCREMENT in the one, BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY
// in the other. The binary has them in it:
//
//	//go:embed migrations
//	var files embed.FS
//
//	migrations, err := fs.Sub(files, "migrations") // the files are at the root
//	app, err := tenancy.Open(ctx, be, tenancy.Config{Tenant: []migrate.Source{{Name: "notes", FS: migrations}}})
//	result, err := app.Migrator().Up(ctx, migrate.UpOptions{})
//
// Package tenancy makes the Migrator, as here; [New] is for programs that do without it.
//
// # Sets, sources and the ledger
//
// Migrations are goose files (and goose's Go migrations), in named sources. A source belongs to the shared set, to the
// tenant set or to both. Every store has goose's own version table per source, so the plain goose command, pointed at a
// store, agrees with this package, in both directions.
//
// A ledger in the shared store says which store has which migrations: finding out who is behind is one query, however
// many stores there are. Migrations that are SQL and transactional are sent as whole text, on Postgres many stores to a
// message; Go migrations, NO TRANSACTION, and every store in which the text failed, go through a goose provider, which
// has the last word.
//
// # The way of a run
//
// A plan says what stores with the same migrations need; it is worked out without asking anything. A queue hands stores to
// workers: canaries first, those whose tables are locked again later, none any more when too many have failed. A worker
// sends the scripts of a batch, in which a lane (one for each dialect) has ledger and store agree, and takes the stores
// that are left through goose, one at a time: claim the store, ask what it has, work, write down what it has now.
//
// # What is held while waiting
//
// Whoever works on a store (a run, a Provision, a Ready that migrates) has one of a few slots, half as many as the pool has
// connections, and uses one connection at a time; the right on a store is a lock outside of the pool. So nothing here
// holds a connection while it waits for another, and a pool of one is enough. Every wait ends with its context: at most five
// seconds after, when something that was done is still being written down, or with the migration that goose is at.
//
// # Rights
//
// The tenant set's text runs with the rights of [backend.Backend.Maintenance]: it changes its own store and nothing else,
// or fails with [backend.ErrReadOnlyShared] in a [*StoreError] that names file and line. Only the ledger's row, ahead of
// it in the same transaction, is written with the log-in's.
//
// The rights themselves are enforced by the backend and the database (with Postgres, by the role that the tenant set runs
// as, where roles are on). That a file keeps them is checked from its text, when [New] loads it: a [*SourceError] refuses
// transaction control in a file that goose runs in a transaction, a transaction that a NO TRANSACTION file leaves open, and,
// in the tenant set, SET and RESET of ROLE and SESSION AUTHORIZATION, DISCARD ALL, and set_config of either or of a name
// that the text does not tell. Nobody looks into the bodies of functions, procedures and DO blocks, into SQL that is put
// together while it runs, into what ENVSUB brings in after loading, or into Go: a migration that gets around its rights
// there on purpose (SET ROLE in a DO block) has what the log-in is allowed. Files are reviewed like code, and are not a
// way to run what a tenant sends.
package migrate
