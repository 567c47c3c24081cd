package backend

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Dialect is the SQL that a backend's stores speak.
type Dialect string

// The dialects. Their text is what the names of per-dialect migration files carry (00002_x.postgres.sql).
const (
	SQLite   Dialect = "sqlite"
	Postgres Dialect = "postgres"
)

// Backend keeps the stores. It is safe for concurrent use.
//
// Every handle it gives out draws on one pool of real connections. What it returns for a store, its own methods or a
// statement on a handle, is an [*Error] when the store or the backend is at fault, and the database driver's own error
// when the statement is.
//
// Optional abilities are interfaces of their own, found by assertion: [ScriptRunner], [Templater], [Locker], [Sweeper],
// [Backuper], [Copier], [Bounded], [Adopter], [Stamper], [ClientCommander], [Nowherer], [Replicator].
type Backend interface {
	// Dialect names the SQL that the stores speak.
	Dialect() Dialect

	// DB returns the routed handle, the same one each time: each call goes to the store that its context names (see
	// [WithRoute]) and fails with ErrNoTenant when it names none. The backend closes it. When a caller did, the log says
	// who, and the next call of DB returns another.
	DB() *sql.DB

	// Shared returns the read-write handle on the shared store, the same one each time; it does not look at the
	// context's route. The backend closes it, as it does DB's.
	Shared() *sql.DB

	// DBFor returns a new handle that is bound to rt, whatever library loses the context on the way. A context that
	// names another store is refused with ErrTenantMismatch. The rights are those of the routed handle. The caller
	// closes it; idle, it holds no connection.
	DBFor(rt Route) *sql.DB

	// Maintenance returns a new handle that is bound to rt for its upkeep (migrations), whatever the context's route.
	// It may do all that the store's owner may, in that store, and still change nothing that is shared. Do not serve
	// requests with it. The caller closes it.
	Maintenance(rt Route) *sql.DB

	// Create makes an empty store, stamped with rt.Owner when that is set. It returns ErrStoreExists, and changes
	// nothing, when there is a store of that name, whoever owns it. Killed half-way it leaves either no store or a
	// whole one.
	Create(ctx context.Context, rt Route) error

	// Drop removes the store and all that is in it. It returns ErrStoreMissing when there is no such store, or when
	// rt.Owner is set and the store is another owner's. Calls under way on it fail; no later call of this process
	// reads or writes what was dropped.
	Drop(ctx context.Context, rt Route) error

	// Rename gives the store another name; its data and its owner stay. It returns ErrStoreMissing as Drop does, and
	// ErrStoreExists when to is taken. A call that still uses the old name fails with ErrStoreMissing.
	Rename(ctx context.Context, rt Route, to Store) error

	// Stat describes one store. It returns ErrStoreMissing when there is none.
	Stat(ctx context.Context, s Store) (StoreInfo, error)

	// Stores lists the tenant stores, in order of name. It stops at the first error. Whatever else lives beside them
	// (schemas or files that no store's name could have) is left out.
	Stores(ctx context.Context) iter.Seq2[StoreInfo, error]

	// Close closes the handles and the connections that the backend opened itself; what the caller lent stays open.
	// Calls after it return ErrClosed. It waits for no one: a call under way fails or ends as its driver has it.
	Close() error
}

// StoreInfo describes a store.
type StoreInfo struct {
	Store Store
	Owner string // the identity stamped into it; empty when it has none
	Bytes int64  // size on disk where that is cheap to know, else -1
}

// Script is text to be run as one transaction in one store.
type Script struct {
	Route Route
	// Create makes the store first, in the same transaction where the backend can. The script fails with
	// ErrStoreExists, and changes nothing, when it is there already.
	Create bool
	// Also, with Create and without a Head, are further stores that are made with SQL in the same transaction: all of them, or
	// none. Only Postgres takes any, where each transaction that makes a schema has every connection plan its statements anew;
	// it fails with an error that wraps [errors.ErrUnsupported] where the text's effects have to be looked at store by store.
	Also []Route
	// Head is text of the library's own that runs ahead of SQL in the same transaction, with the rights of the backend's
	// log-in: it may write to the shared store where one transaction can span both (Postgres). It may be empty.
	Head string
	// HeadArgs are the values of $1, $2, … in Head, when that is one statement: a backend prepares it once for the many
	// scripts that have the same. Only Postgres takes any.
	HeadArgs []string
	// Guard is text of the library's own that differs from store to store; it runs as if SQL began with it. So SQL can be
	// the same text for many stores, and is looked at once.
	Guard string
	// SQL is one or more statements, without BEGIN and COMMIT of its own. It runs with the rights of
	// [Backend.Maintenance]: what it would change outside of the store makes the script fail with ErrReadOnlyShared,
	// and nothing is changed.
	SQL string
}

// ScriptOptions are the terms of [ScriptRunner.RunScripts].
type ScriptOptions struct {
	// LockTimeout bounds the wait for each lock; 0 means the backend's default. Past it the script fails (Postgres:
	// SQLSTATE 55P03) and nothing of it is kept.
	LockTimeout time.Duration
	// Async lets a script count as committed before it is on disk. Call Flush before telling anyone that it is.
	Async bool
}

// ScriptRunner is the ability to run scripts in many stores in few messages.
type ScriptRunner interface {
	// RunScripts runs each script in a transaction of its own, in order, on one connection, and returns one error per
	// script, nil for those that were committed. A failing script does not stop the ones after it. When the
	// connection is lost the outcome of the scripts under way, which may be many, is unknown: their errors wrap
	// [ErrOutcomeUnknown]; those after them were not run. The database's own error is in the chain. Safe for concurrent use.
	RunScripts(ctx context.Context, scripts []Script, opt ScriptOptions) []error
	// Flush makes everything durable that was committed with Async before it was called.
	Flush(ctx context.Context) error
}

// ErrOutcomeUnknown means that the connection was lost after the text was sent and before the database answered, so the
// transaction may or may not have been committed.
var ErrOutcomeUnknown = fmt.Errorf("connection lost: it is not known whether the transaction was committed")

// Templater is the ability to make a store as a copy of one prepared before.
type Templater interface {
	// CreateFrom is [Backend.Create] with the tables and rows of a template. The template is built once per key and
	// kept (also across processes and restarts); build gets a handle on an empty store, bound to it, closed by
	// CreateFrom. Concurrent calls with one key build once. An error of build is returned and no store is left.
	CreateFrom(ctx context.Context, rt Route, key string, build func(ctx context.Context, db *sql.DB) error) error
}

// Bounded is the ability to say how much can be done at once.
type Bounded interface {
	// Concurrency returns how many connections the backend's pool may have open at once. Whoever works in the
	// background takes no more than a part of them.
	Concurrency() int
}

// Locker is the ability to exclude other processes.
type Locker interface {
	// Lock waits until no other caller, in this or another process over the same stores, holds key, or until ctx is
	// done. The lock ends with Unlock, with the process, or when it is lost; see [Lock]. It needs no session of its own
	// on the server to outlive a transaction, so it works through a transaction-mode pooler.
	Lock(ctx context.Context, key string) (Lock, error)
	// TryLock is Lock for those who do not wait. It returns ErrBusy when another caller holds key, or is before this one, and
	// for nothing else: that ctx was done before it was known is another error.
	TryLock(ctx context.Context, key string) (Lock, error)
}

// Lock is a key that is held. On Postgres it can be lost without a word, when the connection that holds it is: whoever
// does something that cannot be undone proves first that it still holds it.
type Lock interface {
	// Fence returns a context in which [Backend.Create], [Backend.Drop], [Backend.Rename], [ScriptRunner.RunScripts] and
	// the methods of [Adopter] fail with ErrLockLost, and change nothing, once the lock is not held any more; and so does
	// what is begun on a handle, in whichever store. The check is made where nobody who got the lock afterwards can have
	// come in between: with the store held. What had begun before is done in the store that it began in.
	Fence(ctx context.Context) context.Context
	// Check returns ErrLockLost when the lock is not held any more.
	Check(ctx context.Context) error
	// Unlock gives the lock up. It may be called more than once.
	Unlock()
}

// Backuper is the ability to copy one store, consistently, while it is being used.
type Backuper interface {
	// Backup writes a copy of rt's store to a new file at path, which must not be there yet. Writers are not held up.
	// It returns ErrStoreMissing as Drop does. What it leaves when it fails, it removes.
	Backup(ctx context.Context, rt Route, path string) error
}

// Copier is the ability to make a store as a copy of another, without its rows passing through the client.
type Copier interface {
	// CopyStore makes the store of to, stamped with its owner, as a copy of what is in from's at one moment. Writers are not
	// held up. It returns ErrStoreMissing as Drop does and ErrStoreExists as Create does. Killed half-way it leaves either
	// no store or a whole one.
	CopyStore(ctx context.Context, from, to Route) error
}

// Adopter is the ability to take in what is there.
type Adopter interface {
	// Adopt makes a store of the schema or the file that bears rt.Store's name and is none, by stamping rt.Owner into it.
	// What is in it stays. It returns ErrStoreMissing when there is nothing of that name, and ErrStoreExists when it is a
	// store already.
	Adopt(ctx context.Context, rt Route) error
	// Restamp makes the store of rt another owner's, such as a copy of a tenant's store that is to be a tenant of its
	// own. It returns ErrStoreMissing as Drop does. Nobody may be using the store.
	Restamp(ctx context.Context, rt Route, owner string) error
}

// Stamper is the ability to give a store to another owner within a statement on the shared store, where that is in the same
// database. Both methods return SQL for the handle [Backend.Shared], and take expressions of the type text.
type Stamper interface {
	// OwnerSQL returns the expression for the owner of a store; NULL when there is none.
	OwnerSQL(store string) string
	// StampSQL returns the expression that makes a store another owner's, a call of tenement_stamp(store, comment), which the
	// registry's migrations make. Nobody may be using the store, and whose it was is for the statement to know.
	StampSQL(store, owner string) string
}

// Nowherer is the ability to answer what a tool asks before there is a tenant: on Postgres a SELECT, VALUES or SHOW that
// calls the server's own functions only.
type Nowherer interface {
	// DBOrNowhere returns a handle that is DB's but for one thing, the same one each time: a query outside of a
	// transaction whose context names no tenant is answered from nowhere, a place where the database's functions and
	// catalogs are and no table of anyone's. It is for libraries that ask the database for its version, without the
	// caller's context, when they are opened. What is not answered there fails with ErrNoTenant, as do statements that
	// are executed and transactions that are begun without a tenant. It costs a connection of its own for each query. The
	// backend closes the handle.
	DBOrNowhere() *sql.DB
}

// Leftover is something that an interrupted operation left behind and that belongs to no store.
type Leftover struct {
	Name   string // a file's path within the backend's directory, a schema's or a role's name
	Kind   string // "side file", "temporary file", "tombstone", "role", …
	Detail string // what it is and what removing it would do
	Store  Store  // the store that it was part of, or was to be; zero when it is of none in particular
}

// Sweeper is the ability to find and remove leftovers.
type Sweeper interface {
	// Leftovers lists them; with an error, not all. Nothing that an operation under way is using is listed.
	Leftovers(ctx context.Context) ([]Leftover, error)
	// Sweep removes one of them. It returns nil when it is gone already.
	Sweep(ctx context.Context, l Leftover) error
}

// OpenFunc opens a backend from a URL of its scheme. It returns errors that wrap [ErrInvalidURL] for a URL that is wrong.
type OpenFunc func(ctx context.Context, url string) (Backend, error)

var schemes = struct {
	sync.RWMutex
	open map[string]OpenFunc
}{open: map[string]OpenFunc{}}

// Register makes a backend available to [Open] under a URL scheme. Backends call it from init; it panics when the
// scheme is taken.
func Register(scheme string, open OpenFunc) {
	schemes.Lock()
	defer schemes.Unlock()
	if _, taken := schemes.open[scheme]; taken || open == nil {
		panic("backend: Register of scheme " + scheme + " twice or with a nil OpenFunc")
	}
	schemes.open[scheme] = open
}

// Open opens the backend that url's scheme stands for, such as "sqlite:data" or "postgres://user@host/app", and checks
// that it answers. A keyword DSN ("host=… dbname=…") is taken as Postgres. The packages of the backends document their
// URLs and options. It returns an error that wraps [ErrInvalidURL] when no such scheme was registered (the remedy is to
// import the backend's package) or the URL is wrong. The caller closes the backend.
func Open(ctx context.Context, url string) (Backend, error) {
	scheme, _, found := strings.Cut(url, ":")
	if strings.Contains(scheme, "=") || (!found && strings.Contains(url, "=")) {
		scheme, found = "postgres", true
	}
	if url == "" || !found {
		return nil, fmt.Errorf("tenement: open: %w: it is empty or has no scheme; use sqlite:DIR or postgres://…", ErrInvalidURL)
	}
	schemes.RLock()
	open := schemes.open[scheme]
	known := slices.Sorted(maps.Keys(schemes.open))
	schemes.RUnlock()
	if open == nil {
		// The URL itself may hold a password: name its scheme only.
		return nil, fmt.Errorf("tenement: open: %w: no backend for scheme %q (have: %s); import "+
			"github.com/tenement-go/tenement/backend/sqlite or …/backend/postgres for its side effect",
			ErrInvalidURL, scheme, strings.Join(known, ", "))
	}
	return open(ctx, url)
}
