package postgres

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// What a unit of work leaves on its session (settings, the role, temporary tables, cursors, locks, LISTEN, what lastval returns)
// must not be seen by the next. Two rules see to it:
//
//   - A statement that says in its text that it leaves something taints the connection, whoever is next.
//   - A connection that goes over to another store is cleaned, whatever ran on it.
//
// It is cleaned when it is next used, in the message of its next statement, ahead of that: in the statement's own
// transaction where that can be (tidying), else in one that is over before (cleaning).
//
// Why not only when something was left: the server does not tell. Settings alone can be changed by functions in all
// languages, views, defaults, checks, rules, policies, operators, updates of pg_settings and functions that run a text
// (query_to_xml, ts_stat), by code that is gone again when anyone asks. And to compare all settings with what they were
// takes ten times as long as to reset them.

// cleanSQL takes it all away, but for what is kept on purpose: prepared statements and the plans in functions.
const cleanSQL = "close all;unlisten *;discard temp;discard sequences;reset all;select pg_catalog.pg_advisory_unlock_all()"

// sqlResetRole is a column that does what RESET ROLE does, for less than a statement costs; RESET ALL leaves the role as it
// is. It is for when there are no tenants' roles: else each prefix sees to it, and one connection has it by SET ROLE (keepRole).
const sqlResetRole = ",pg_catalog.set_config('role',null,false)"

// cleanup is what cleans a connection: as a message of its own, and as it travels in the message that it goes ahead of, in a
// transaction of its own. A message of its own would cost more than all the statements, since the server writes to the socket
// at the end of each. The level is said, or the default that somebody left could have the SELECT wait for others
// (SERIALIZABLE READ ONLY DEFERRABLE).
type cleanup struct {
	text   string
	inTurn []string
}

var (
	cleaning     = cleanupBy(cleanSQL)
	cleaningRole = cleanupBy(cleanSQL + ",pg_catalog.set_config('session_authorization',null,false)" + sqlResetRole)
)

func cleanupBy(text string) *cleanup {
	return &cleanup{text, append(append([]string{"begin isolation level read committed"}, strings.Split(text, ";")...), "commit")}
}

func (c *conn) cleaning() *cleanup {
	if c.be.roles.mode == rolesOff {
		return cleaningRole
	}
	return cleaning
}

// tidying is what cleans in the transaction of the statement that follows, with the columns that prefixTidy has: BEGIN and
// COMMIT, and what can be asked for less than it takes to do, cost as much as the rest. When the transaction fails, what
// was reset is not, and the connection is as it was: to be cleaned.
var tidying = []string{"close all", "reset all", "discard sequences"}

// tidies reports whether the connection is cleaned in the transaction of the statement that comes next, outside of
// transactions of the application's: those may be rolled back long after they have run something.
func (c *conn) tidies() bool {
	return c.dirty && !c.untidy && c.idle() && c.cleanable() && c.tx.begin == "" && c.named() && !c.be.replica &&
		c.unit.kind == prefixOID && c.unit.preparable()
}

// sessionUser is session_authorization, which the server tells of, unlike the role. (Only superusers can change it.)
func (c *conn) sessionUser() string { return c.pc.ParameterStatus("session_authorization") }

// estranged reports whether the session has another user than it was made with. With that, RESET would take the role away.
func (c *conn) estranged() bool { return c.cleanable() && c.sessionUser() != c.login }

// queueTidy queues the cleaning that the prefix is part of.
func (c *conn) queueTidy() {
	for _, text := range tidying {
		c.queueOwn(text)
	}
	c.wire.queue(stepClean)
	c.tidying = true
}

// cleaned notes that one of the commands of a cleaning was executed. It reports whether it was the last.
func (c *conn) cleaned(tag []byte) bool {
	switch {
	case c.tidying && string(tag) == "DISCARD SEQUENCES":
		c.ownDone(tidying...)
	case !c.tidying && !c.wire.text && string(tag) == "COMMIT":
		c.ownDone(c.cleaning().inTurn...)
	default:
		return false
	}
	return true
}

// cleansChanges reports whether a connection is cleaned when it goes over to another store.
func (be *Backend) cleansChanges() bool {
	if be.lent || be.cfg.Reset == resetOff {
		return false
	}
	return be.cfg.Reset == resetAlways || !be.pooled.Load()
}

// cleanable reports whether the connection may be cleaned: a pool that was lent may have set up its connections in a way
// that a RESET would undo.
func (c *conn) cleanable() bool { return !c.be.lent }

// cleanNow cleans a connection that needs it, ahead of what does not take a cleaning along.
func (c *conn) cleanNow(ctx context.Context) error {
	if !c.dirty || !c.idle() {
		return nil
	}
	return c.texts(ctx, "", nil)
}

// queueClean queues the cleaning of a connection that needs it. For a text it is one too, a message of its own: what
// follows may have to be alone in its message.
func (c *conn) queueClean() {
	if !c.dirty || !c.idle() {
		return
	}
	c.dirty = false
	if !c.cleanable() {
		return
	}
	if c.wire.text {
		c.fe.SendQuery(&pgproto3.Query{String: c.cleaning().text})
	} else {
		for _, text := range c.cleaning().inTurn {
			c.queueOwn(text)
		}
	}
	c.wire.queue(stepClean)
}
