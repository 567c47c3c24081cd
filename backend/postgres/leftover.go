package postgres

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// What a unit of work leaves on its session (settings, temporary tables, cursors, locks, LISTEN) must not be seen by the
// next. A statement that says in its text that it leaves something taints the connection, and the connection is cleaned
// when it is next used, in the round trip of its next statement. What functions and triggers leave out of sight the server
// does not tell, and to compare all settings takes ten times as long as a statement. So the database is asked, once in a
// while, whether it has code that could leave anything; if it has, a connection is cleaned each time that it goes over to
// another store.

// cleanSQL takes it all away, but for what is kept on purpose: prepared statements and the plans in functions.
const cleanSQL = "close all;unlisten *;discard temp;discard sequences;reset all;select pg_catalog.pg_advisory_unlock_all()"

// leavesSQL asks whether the database has code that could leave something on its session.
const leavesSQL = `select exists(select from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid operator(pg_catalog.=) p.prolang
where p.oid operator(pg_catalog.>=) 16384::pg_catalog.oid and l.lanname operator(pg_catalog.<>) all('{internal,c}'::pg_catalog.name[])
and (l.lanname operator(pg_catalog.<>) all('{sql,plpgsql}'::pg_catalog.name[])
or p.prosrc operator(pg_catalog.~*) '\m(set_config|temp|temporary|pg_temp|listen|hold|execute|pg_(try_)?advisory_lock(_shared)?)\M'
or p.prosrc operator(pg_catalog.~*) '(^|;|\mbegin|\mthen|\melse|\mloop)\s*(set|reset|discard)\s'
or coalesce(pg_catalog.pg_get_function_sqlbody(p.oid) operator(pg_catalog.~*) '\m(set_config|pg_(try_)?advisory_lock(_shared)?)\M',false)))`

// code is what is known about the code in the database.
type code struct {
	asked  atomic.Int64 // when, in Unix nanoseconds; 0: ask again
	leaves atomic.Bool
}

// codeAge is how long the answer is good for.
const codeAge = time.Minute

// leaves reports whether a connection that goes over to another store may carry something on.
func (c *conn) leaves(ctx context.Context) bool {
	be := c.be
	switch be.cfg.Reset {
	case resetOff:
		return false
	case resetAlways:
		return true
	}
	c.askCode(ctx)
	return be.code.leaves.Load()
}

// askCode asks what is known about the code in the database, unless it is known.
func (c *conn) askCode(ctx context.Context) {
	be := c.be
	now := time.Now().UnixNano()
	if asked := be.code.asked.Load(); now-asked > int64(codeAge) && be.code.asked.CompareAndSwap(asked, now) {
		err := c.texts(ctx, leavesSQL, func(_ int, values [][]byte) { be.code.leaves.Store(string(values[0]) == "t") })
		if err != nil {
			be.code.asked.CompareAndSwap(now, asked)
		}
	}
}

// cleanable reports whether the connection may be cleaned: a pool that was lent may have set up its connections in a way
// that a RESET would undo.
func (c *conn) cleanable() bool { return !c.be.lent }

// queueClean queues the cleaning of a connection that needs it, as a message of its own ahead of the one that follows.
func (c *conn) queueClean() {
	if !c.dirty || !c.idle() {
		return
	}
	c.dirty = false
	if c.cleanable() {
		c.fe.SendQuery(&pgproto3.Query{String: cleanSQL})
		c.wire.queue(stepClean)
	}
}
