// Package litestream keeps a copy of every store of a SQLite backend elsewhere, with its history, and puts one tenant back to what
// it was at a moment. It is above Litestream's library, and a module of its own: who does not import it does not get that.
//
// A program hands [New] to its commands, and has backup run, backup status and restore:
//
//	backups, err := litestream.New("s3://backups/notes", litestream.Config{}) // before any database is opened
//	…
//	os.Exit(manage.Execute(ctx, open, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, manage.WithBackups(backups)))
//
//	notes backup run                                      one such process beside those that serve, on the same machine
//	notes backup status                                   up to when each store is in the backup
//	notes restore thor --at 2026-11-26T08:30:00Z          thor as it was, what it has now is set aside
//	notes restore thor --at 2026-11-26T08:30:00Z --as thor-then    beside it, as another tenant
//
// # What is in a backup
//
// URL/ID/ is the history of the tenant of that ID, and URL/shared/ that of the shared store with the registry, in Litestream's
// format: its command can restore from it too. The name is the ID, not that of the file, which a rename changes and a later tenant may
// inherit: those are two histories. That of a tenant that was purged stays, and restore --as takes the ID of one; who must
// forget a customer removes URL/ID/ as well.
//
// Stores are looked at once an Interval, by the times of their files: those that have changed are opened, copied and sent;
// those to which nobody has written for a while are closed, and cost two looks at a file, no request and no descriptor. The shared
// store is written to every ten seconds by each process that serves, and is sent as often. New tenants, and those renamed
// and purged, are learned of from the registry.
//
// # To what moment
//
// What is restored to a moment has nothing that was committed after it, to the millisecond; and everything from an Interval, and
// what copying takes, before it. What lies more than five minutes back is merged: then it may be half a minute before the
// moment. A store that could not be copied (backup status tells) has gaps of that length. Everything is kept for Config.Keep. What was
// acknowledged and not copied yet when a disk is lost, is lost.
//
// What is restored is checked by SQLite (integrity_check), and for whose it is by the store's stamp. It takes the
// tenant's place by [tenancy.App.Replace]: the old store is set aside until store purge removes it. It may be behind the newest
// migrations. Files of tenants ([tenancy.Config.FilesDir]) are not in the backup.
//
// # Beside SQLite
//
// While a store is open here, Litestream moves what is in its -wal into the file itself, and a read transaction of its own keeps everybody else
// from beginning the -wal anew before it is copied. While it is not, the processes that serve do that, as they do without
// a backup, and the last one to close a store removes the -wal. Litestream then goes by the last page that it has seen,
// and misses what was written behind that page, moved into the file, and overwritten at the beginning only. So this package lets it go
// on only where the -wal is the one it left, by its salts; else it begins with a snapshot. That costs a copy of the store,
// after a rename and a restore for instance, and never a row.
//
// Litestream has two tables of its own in each store, _litestream_seq and _litestream_lock, which package transfer leaves out and a
// restored store does not have. What is on its way is in DIR/litestream/ID.
//
// # Locks
//
// Closing any descriptor of a file drops the locks that its process has on it (POSIX), and Litestream opens and closes the
// files of stores beside SQLite. So [New] has modernc.org/sqlite take locks that belong to the open file instead, on
// Linux, for the whole process; those exclude processes with the usual ones, and Run returns [ErrLocks] where they could not be
// had: elsewhere than on Linux, or when a database was open before. (The locks on the -shm are of the usual kind; nothing but SQLite opens that.)
// With them it would also be safe to call Run in a process that serves. One of its own is recommended nevertheless: it is the
// one to be restarted, and to be waited for, when a target is slow.
package litestream
