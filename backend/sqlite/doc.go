// Package sqlite keeps each tenant's store in a SQLite file of its own.
//
// Importing it makes the URL scheme "sqlite" known to [backend.Open]; "sqlite:DIR" is a directory:
//
//	DIR/shared.db            the shared store
//	DIR/tenants/STORE.db     one file per tenant (with SQLite's -wal and -shm beside it while it is open)
//	DIR/templates/HASH.db    what new stores are copies of
//	DIR/locks, DIR/moving    what processes that share the directory tell each other
//
// The URL's query parameters are max_open, max_readers, busy_timeout, synchronous, cache_size and statements; see
// [Config] for what they mean.
//
// # What a tenant may do
//
// Inside a tenant the shared tables can be read, unqualified or as public.x, and not written. What could get around that,
// or reach another store, is refused with [backend.ErrReadOnlyShared]: ATTACH, DETACH, VACUUM INTO and the pragmas that
// are not known to be harmless; so is REINDEX without a name, which reaches the shared tables too. ANALYZE without a name, PRAGMA
// wal_checkpoint, optimize, integrity_check, quick_check and foreign_key_check without a schema mean the tenant's store
// (within a text of several statements the first three must name it: main).
//
// Other pragmas hold for the unit of work that runs them (hold a [database/sql.Conn] to run several statements under
// one). A handle of [Backend.DBFor] remembers PRAGMA foreign_keys. Migrations run without foreign keys being enforced, which
// are checked before the commit; see [Backend.Maintenance]. There are none to shared tables ([SharedParentError]).
//
// A time.Time is stored in UTC as '2006-01-02 15:04:05.000000', which SQLite's functions understand and which sorts; what
// a column that is declared DATE, DATETIME… or TIMESTAMP… holds in that or another usual form comes back as a time.Time in
// UTC.
//
// Every store has one table of this package's own, tenement_store, which carries its owner. It cannot be written. A file
// without it is no store.
//
// # The way of a statement
//
// [database/sql] calls the virtual connection of package driver, which asks [Backend.Session] for a session of the store
// that the context names. From there:
//
//  1. shelf.acquire finds the store among those that are open, or opens it (store.open), and checks its owner.
//  2. session.ExecContext or QueryContext writes times as text (formatTimes).
//  3. session.ready takes a connection (session.bind, store.take), the writer's turn first if the text looks like a write.
//  4. conn.compile takes the prepared statement from the connection's cache, or has SQLite compile it (conn.prepare), while
//     conn.authorize sees what it does: read, write, touch shared tables, begin or end a transaction. If it writes and it is
//     not this session's turn, session.takeTurn waits for it, and it is compiled again.
//  5. session.exec or session.query runs it.
//  6. session.settle draws the conclusions: whether a transaction is open is asked of SQLite (conn.inTransaction) when that
//     may have changed; an error is explained (session.explain).
//  7. session.end lets the next one write and, after a write or the end of a transaction, looks whether the file is still
//     what the name stands for (store.verify): a write to a file that was dropped or replaced is not reported as done.
//
// BeginTx, Commit and Rollback are in the file tx.go, with the states of a transaction; the states of a store are those of
// the type phase.
//
// # Several processes
//
// Several processes may share the directory, on one machine (SQLite's WAL needs shared memory). What one of them does to
// a store, another one notices within a quarter of a second; until then it may go on reading what was dropped, but a
// write that went to a dropped or renamed file is never reported as done. On Windows a store that another process has
// open cannot be dropped or renamed.
//
// Nothing but SQLite may open a file of a store in a process that has it open, not even to read it: closing any
// descriptor of a file drops all locks that the process has on it (that is POSIX), and other processes then take the
// store's -wal away from under it. This package keeps to that; an application that wants a copy calls [Backend.Backup], and
// one that must read the files itself does so in another process, or calls modernc.org/sqlite's OFDLocking first.
package sqlite
