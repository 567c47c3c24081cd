// Package postgres keeps each tenant's store in a schema of one Postgres database.
//
// Importing it registers the URL schemes "postgres" and "postgresql" with [backend.Open]:
//
//	import _ "github.com/tenement-go/tenement/backend/postgres"
//
//	be, err := backend.Open(ctx, "postgres://app@db.example.com/app?pool_max_conns=16")
//
// # Connection strings
//
// URLs and keyword DSNs are taken as [pgxpool.ParseConfig] takes them, with all its options (pool_max_conns,
// default_query_exec_mode, …), and these of our own:
//
//   - tenant_role: auto (the default), off, each, or the name of a role. See [Config.TenantRole].
//   - affinity_wait: a duration, such as 3ms. See [Config.AffinityWait].
//   - first_sights: a number of pairs of store and text. See [Config.FirstSights].
//   - tenant_statements: a number of prepared statements. See [Config.TenantStatements].
//   - reset: auto (the default), always or off. See [Config.Reset].
//   - replica: the URL of a server that follows, escaped; once for each. See [Config.Replicas].
//
// # How a statement finds its store
//
// Each unit of work, a statement outside a transaction or a transaction, tells the server itself which schema it works
// in: a prefix that travels ahead of it in the same message batch checks that the schema exists (and is the owner's) and
// sets search_path for this transaction only. That costs no extra round trip, relies on nothing that a pooled connection
// was used for before, and leaves nothing to be reset. It is what makes transaction-mode PgBouncer work.
//
// BEGIN waits for the first statement of its transaction and rides with it, so a transaction costs one round trip less than
// with pgx, and one without statements costs nothing. What the client can know, BeginTx says (no tenant, another tenant, a
// closed backend); what only the server knows (the store is gone) comes with the first statement.
//
// A transaction that the text of a statement ends (COMMIT, ROLLBACK) is over: later statements are refused
// ([pgx.ErrTxClosed], [database/sql.ErrTxDone]), and Commit is an error ([pgx.ErrTxCommitRollback]) unless it was a COMMIT
// that succeeded.
//
// # The way of a query
//
// In this order, each in the file of that name unless said:
//
//  1. Backend.take (pool.go) takes a connection, the one that is warm for the store (warm.go), and bindUnit (prefix.go)
//     says what binds it to the store.
//  2. session.QueryContext (exec.go), or a method of [PGX], makes a job of the statement: session.run.
//  3. session.do (run.go) runs the job, again where that mends what failed: attempt.
//  4. conn.admit (admit.go): may this text run here, and what does it leave behind? By the traits of classify (text.go).
//  5. choose: by which name is it sent, is it parsed along, are the types known that it has in this store?
//  6. conn.describe: asks for what is not known, in a round trip of its own.
//  7. conn.send (message.go): BEGIN, the prefix, the statement, in one message; on a replica a check behind it (check.go).
//  8. conn.answer (message.go): reads the answers to what is ours, and up to the first row.
//  9. mend (remedy.go): what is done when that failed.
//  10. sqlRows (rows.go), or rows of pgx (pgxrows.go), read the rest from the wire.
//  11. conn.release (pool.go) gives the connection back.
//
// Batches take the same way with more queries in a job, scripts (script.go) and texts of the simple protocol (simple.go)
// from 7 on. choose and mend are functions of their arguments alone.
//
// # Ten thousand tenants
//
// A process of the server reads what the catalog says of a table when it first touches it (about 150 µs), keeps it (4 KB
// for each table and index), and never lets go of it. If any connection served any store, each would read and keep all of
// them. So each store has a home among the connections, where it is warm, and is worth a short wait:
//
//	store a ─┐                      ┌─ connection 1: a, c, …
//	store b ─┼─ home, or nearly so ─┼─ connection 2: b, d, …   and on all of them those that are used
//	store c ─┘                      └─ connection 3: …         all the time, or all, while they are few
//
//	the stores in use are few:                        take the connection that was used last
//	the store is used all the time:                   the same
//	the home is idle:                                 take it
//	the home has only just become busy:               wait for it, up to [Config.AffinityWait]
//	it has been busy for longer, or a transaction
//	or a [database/sql.Conn] of several statements
//	holds it:                                         the second home, then the third
//	after that:                                       whatever is idle, or is given back first
//
// Few are an eighth of [Config.FirstSights]: so many pairs of store and text, in the last eight to sixteen thousand
// statements, every connection may know. Used all the time is what has about one use in two hundred.
//
// What is given back goes to those who wait for it, but at least each eighth time to who is overdue the longest. A
// connection that has run [Config.FirstSights] pairs of store and text for the first time is closed when its successor is
// there, one connection more than the pool's limit for that moment; it inherits the stores. A statement whose context ends
// is cancelled at the server, which is waited for for up to a second, and does not cost its connection. Scripts for many
// stores, and what is done in a context of [backend.Apart], have connections of their own, within the pool's limit, which
// are closed afterwards. Of a lent pool no more than half is kept, and none for longer than a second. When the server has
// no place for another connection, that is a full pool as long as there is one. [Backend.Stats] tells how it goes.
//
// Behind a pooler none of this holds: it chooses. Its own connections to the server grow likewise (1.8 GB were seen after
// 9,900 stores through eight of them) until its server_lifetime ends them.
//
// # Whose rights tenants' work has
//
// By default one role without a log-in, "tenants:DATABASE", does all that is done for tenants: requests, [Backend.Maintenance]
// handles, the SQL of scripts. It owns what is in the tenants' schemas, but not the schemas, and may read the tables in
// public and refer to them, also those that are made later by the same log-in. So the server keeps tenants' requests and
// migrations from changing what is shared ([backend.ErrReadOnlyShared]), and lets them do in their own store what they
// like. For an application that means:
//
//   - current_user is the role, session_user the log-in.
//   - Sequences in public are not for tenants. What tenants are to write there they write through a SECURITY DEFINER function.
//   - Temporary tables need the TEMP privilege on the database, which PUBLIC has unless it was revoked.
//   - Stores made before, by hand or by pg_restore, are refused until [Backend.EnsureRoles] has given them to the role.
//   - The log-in makes the role, so it needs CREATEROLE once; or a superuser makes it (CREATE ROLE … NOLOGIN; GRANT … TO
//     the log-in). Its attribute is to be INHERIT. Where it cannot be had, roles are off, with a warning.
//
// A direct connection takes the role once, when it is made, and the prefix only verifies it; behind a pooler, and on a
// pool that was lent, the prefix sets it.
//
// The role stops mistakes and injected identifiers. It does not stop a request's SQL that sets out to assume the log-in's
// rights (SET ROLE, RESET ROLE, set_config('role', …)): the log-in may become the role, and back. What a unit of work does
// to its role ends with it. It does not keep tenants from each other's schemas either, if they are named: for that there is
// tenant_role=each. [Config.TenantRole] has the choices.
//
// The tenant set's migrations are kept to their store by what they did: before a transaction of a [Backend.Maintenance]
// handle commits, and one of a script that could have got around the role, or that names another schema, the server is
// asked what it has changed outside of the store: tables, what was made in public, comments, rights, functions and types of
// other stores, schemas, roles, settings of roles and databases, large objects, and whatever else is the whole database's.
// That it fails for ([backend.ErrReadOnlyShared]), with the object's name; also if a SECURITY DEFINER function did it. Where
// roles are off, this goes for every script. What is not noticed is said in outside.go; it takes a deliberate hand.
//
// # What a session keeps, and what is cleaned
//
// A [database/sql.Conn] is one session on the server for as long as it is held. One that was lost says so from then on; only
// where it has run nothing another connection takes its place. Advisory locks of the session's are refused on pooled
// handles, where they would be gone when the call returns.
//
// On direct connections, by default:
//
//   - Before another store, or another kind of handle, uses a connection, all is gone that the server can take away: settings,
//     the role, temporary tables, LISTENs, cursors, advisory locks, what lastval and currval return. It does not matter how it
//     came about: by text, or out of sight, in functions, views, defaults, checks, policies. Scripts for several stores are
//     kept from each other in the same way.
//   - Before anyone else of the same store uses it, that is gone which a statement's text says that it leaves: SET,
//     set_config(…, false), pg_settings, temporary tables, LISTEN, cursors WITH HOLD, advisory locks, DO whatever it does,
//     and functions that run a text (query_to_xml, ts_stat, ts_rewrite).
//   - After PREPARE, DEALLOCATE, LOAD, SET ROLE and SET SESSION in a text the connection is closed, and after a change of the
//     session's user out of sight.
//
// That costs no round trip; at each change of store it takes some microseconds, in the transaction of the next statement
// where that can do it (leftover.go). Not promised:
//
//   - Within one store it is as with any pool: what is left out of sight, or by nextval, the next request may find.
//   - What the server keeps for its process and has no word to take away: the seed of random (setseed), libraries that
//     were loaded, what functions in other languages keep in their interpreters (PL/Perl's %_SHARED, PL/Python's GD),
//     dblink's connections, and statements that a function prepared by EXECUTE.
//   - On a lent pool, and with reset=off, only what is said in a statement's text is cleaned up after; a lent connection is
//     closed for it. What lastval returns stays.
//   - Behind a pooler the connections to the server are its own: give it a reset query (PgBouncer: server_reset_query and
//     server_reset_query_always). With session pooling, reset=always does the same as on direct connections.
//
// # Poolers and several hosts
//
// PgBouncer in transaction mode works in every query mode when it knows prepared statements (1.21 or newer, with
// max_prepared_statements above 0); before that with default_query_exec_mode=exec, and the modes that prepare nothing under a
// name. It keeps what is prepared for longer than a migration or a process lasts. Statements outside of transactions, and
// the first of each transaction, do not notice: where what it kept is stale they go on without. A later statement of a
// transaction fails, which says so; the transaction can be run again. Each store's statements are prepared for it alone, so
// max_prepared_statements is worth raising where there are many.
//
// PgBouncer 1.18 to 1.20 can end ("server in bad state: 11", "bad client state") when clients cancel much, whoever they
// are: its own fault, mended in 1.21. Behind any pooler a statement whose context ends costs its connection, as with pgx.
//
// Poolers that choose the server, or the shard, by reading the SQL have to leave that off: the prefix is a SELECT with
// several columns and parameters, which they take for a read, and of which they learn no search_path. So have poolers that
// keep statements without names for several clients.
//
// A URL with several hosts and target_session_attrs=read-write (postgres://a:5432,b:5432/app?target_session_attrs=read-write)
// follows a fail-over: connections that were idle are asked before they are used again, those in the middle of something
// fail, and what is begun once a server takes writes succeeds.
//
// # Citus
//
// On the coordinator of a Citus cluster each store is a distributed schema, on one of the nodes. Texts of several statements travel as
// a message for each statement in one batch, since the coordinator hands a definition on as the text that it came in. A
// script that makes its store makes it in a transaction of its own, and drops it when the rest fails. The role that does
// tenants' work may log in there, without a password, for the nodes' sessions are its own: pg_hba.conf says from where.
// [Backend.Nodes], [Backend.MoveStore] and [Backend.ShareEverywhere] are for operators. docs/citus.md has the rest.
//
// # Read replicas
//
// [Backend.Replica] reads from the servers that [Config.Replicas] names, such as streaming standbys: for whoever chooses
// it, call by call, and can do with what was committed a moment ago. It takes no writes ([backend.ErrReadOnly]), no
// statement that cannot run in a transaction, and never turns to the primary. A store is always read from the same of
// several replicas, while that one answers. Whoever has written takes [Backend.Position] after the commit, and reads with
// a context of [backend.WithPosition].
//
// The primary's locks are unknown to a standby, and what is replayed there, the end or the new name of a store too, waits for
// nobody. So there each message checks its store ahead of its statements and behind them, in the same round trip, and what
// was read is only good when the second check passes; else the error is [backend.ErrStoreMissing]. A result of up to about
// 256 KB is shown after that. Of a larger one, and of those of a batch, the caller may have seen rows by then: he knows that
// they were his tenant's when [database/sql.Rows.Err] (pgx: Rows.Err, Batch.Close) returns nil, and not before. Within a
// transaction the same holds for each statement.
//
// Statements that hold up the replay for too long are cancelled by the standby (SQLSTATE 40001: max_standby_streaming_delay,
// hot_standby_feedback); outside of transactions they are run once more.
//
// # What a name means
//
// Unqualified names mean the store's own, then the shared store's; also in the bodies of functions. When a store is given
// its own of something shared, statements mean that from then on, in all processes, if it was made through this package
// (scripts, [Backend.Maintenance] handles, requests); when they cannot be told of it, the call says so, or the log. Made by
// another program it is noticed for the names that are in a statement's own text; for what functions do, run GRANT USAGE ON
// SCHEMA … TO CURRENT_USER afterwards, as the schema's owner: the server then plans everything anew. What a PL/pgSQL function declares (name%TYPE, a type by its name) is bound
// once for each session, whatever the store (the server's way): let functions that all stores share not declare what
// differs between them.
//
// A statement's parameters and columns have the types that they have in its own store. A text that is new to a connection
// costs one round trip more, as with pgx; so does one that no connection of the backend has run in this store, once for
// each store, unless its arguments are all strings or nil, which are the same text for any type.
//
// # The driver's own connection
//
// In [database/sql.Conn.Raw], interface{ Raw() any } gives pgx's connection (a *pgx.Conn) once something has been run on
// the session. Its whole session is bound to the store, and it is closed when the [database/sql.Conn] is. Off limits are
// search_path, the role, and closing it. [PGX.AcquireFunc] is the same for pgx's users.
package postgres
