package postgres

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/internal/broken"
)

// The prefix is a SELECT of exactly one row that travels ahead of each unit of work and, in the same transaction, binds
// it to its store: it sets search_path until the end of the transaction, takes a share of the store, and fails, which
// makes the server skip what follows, unless the schema exists and is the owner's.
//
// The share is an advisory lock that Drop and Rename want for themselves. Without it a statement that was let in, and
// then had to wait for a table that was being dropped or renamed, would look for its name again when the wait is over,
// and find the shared table of that name.
//
// The rule for all that is looked up after a wait: it comes after a relation lock. A server process learns of what
// others changed in the catalogs (AcceptInvalidationMessages) when it begins a transaction and when it locks a relation
// (LockRelationOid, in lmgr.c), and not when it gets an advisory lock. What it looked up before, which schema a name
// means above all, it would find in its caches as it was before the wait, and believe in until the statement behind the
// prefix locks its first table: by then the schema has another name, and the table's is found in public. See sqlLook.
//
// Everything in it is qualified with pg_catalog: it runs under whatever search_path the connection's last user left,
// where an operator or function of the same name could be lying in wait.
//
// pg_temp comes last in the path, so that a temporary table left behind on a pooled connection never hides a tenant's.
type prefixKind uint8

const (
	// prefixShared sets the path of the shared store: $1 path.
	prefixShared prefixKind = iota
	// prefixOID checks that the schema is there (3F000) and still the one that was found to be the route's (22012):
	// $1 path, $2 schema, $3 lock key, $4 OID.
	prefixOID
	// prefixStamp checks that the schema carries the owner's stamp (22012), and returns its OID: $4 stamp.
	prefixStamp
	// prefixAnyStamp is prefixStamp for a route without an owner: what has no stamp is no store.
	prefixAnyStamp
	// prefixTidy is prefixOID that finishes the cleaning of the connection; see tidying.
	prefixTidy
	prefixKinds
)

const (
	setPath = "select pg_catalog.set_config('search_path',$1,true)"
	// The columns are evaluated in their order, and the schema looked up when the lock is held. (As a parameter of type
	// regnamespace it would be when the values are bound.)
	sqlSchema = "($2::pg_catalog.text)::pg_catalog.regnamespace"
	sqlShare  = ",pg_catalog.pg_advisory_xact_lock_shared(" + storeSpace + ",$3)" + sqlLook
	// sqlLook is a column that locks a relation, and lets it go again: it opens pg_namespace to see whether that could be
	// updated. It is the cheapest call with that effect (0.9 µs). It works because nothing ahead of it in the transaction
	// has a lock on pg_namespace: the lock must not be one that is held already.
	sqlLook     = ",pg_catalog.pg_relation_is_updatable(2615::pg_catalog.oid::pg_catalog.regclass,false)"
	sqlOID      = "(" + sqlSchema + ")::pg_catalog.oid"
	sqlComment  = "coalesce(pg_catalog.obj_description(" + sqlOID + ",'pg_namespace'),'')"
	sqlSame     = sqlOID + " operator(pg_catalog.=) $4::pg_catalog.oid"
	sqlStamp    = sqlComment + " operator(pg_catalog.=) $4::pg_catalog.text"
	sqlHasRole  = "current_user operator(pg_catalog.=) $5::pg_catalog.name"
	sqlAnyStamp = "pg_catalog.starts_with(" + sqlComment + ",$4::pg_catalog.text)"

	// sqlTidy fails (2201E) where there is something left that only a transaction of its own can take away: temporary
	// tables, LISTENs (which UNLISTEN ends when its transaction does), or this transaction is not one as the connection's
	// defaults have it, by now.
	sqlTidy = ",pg_catalog.ln((pg_catalog.pg_my_temp_schema() operator(pg_catalog.=) 0::pg_catalog.oid and not exists (select pg_catalog.pg_listening_channels())" +
		" and pg_catalog.current_setting('transaction_isolation') operator(pg_catalog.=) pg_catalog.current_setting('default_transaction_isolation')" +
		" and pg_catalog.current_setting('transaction_read_only') operator(pg_catalog.=) pg_catalog.current_setting('default_transaction_read_only')" +
		" and pg_catalog.current_setting('transaction_deferrable') operator(pg_catalog.=) pg_catalog.current_setting('default_transaction_deferrable')" +
		")::pg_catalog.int4::pg_catalog.float8)"
	sqlUnlock = ",pg_catalog.pg_advisory_unlock_all()"

	// storeSpace is the first half of the advisory locks that stand for stores.
	storeSpace = "1953394286"
	// stampColumn is where the kinds that read the stamp return the OID.
	stampColumn = 3
)

// What the prefix fails with.
const (
	codeNoSchema = "3F000" // there is no such schema
	codeNoStore  = "22012" // it is no store, another owner's, or another schema than before
	codeNotRole  = "22003" // the connection has not the role
	codeNotOurs  = "2201F" // the role may not use the schema
	codeUntidy   = "2201E" // the connection is to be cleaned in a transaction of its own
	codeFence    = "22011" // the lock by which the unit is fenced is not held any more
)

// roleKind says what the prefix does about the role that does tenants' work.
type roleKind uint8

const (
	roleNone     roleKind = iota // nothing: there is none
	roleSet                      // sets it: the last parameter
	roleVerified                 // checks that the connection has it: the last parameter
	roleKinds
)

// prefixSQL holds the text of each kind.
var prefixSQL = func() (sql [roleKinds][prefixKinds]string) {
	for role := range roleKinds {
		for kind := range prefixKinds {
			sql[role][kind] = prefixOf(role, kind)
		}
	}
	return sql
}()

// prefixOf writes the text of one kind. A failing conversion or division is the plainest way to make a SELECT fail or not.
func prefixOf(role roleKind, kind prefixKind) string {
	sql := setPath
	if kind == prefixShared {
		if role == roleSet {
			sql += ",pg_catalog.set_config('role',$2,true)"
		}
		return sql
	}
	if kind == prefixTidy {
		sql += sqlUnlock // ahead of the share, which is another kind of lock, and stays
		if role == roleNone {
			sql += sqlResetRole // else the prefix sets or checks it
		}
	}
	check := func(cond string) string { return ",1 operator(pg_catalog./) (" + cond + ")::pg_catalog.int4" }
	sql += sqlShare
	switch kind {
	case prefixOID, prefixTidy:
		if broken.Check {
			sql += ",$2::pg_catalog.text is null,$4::pg_catalog.text is null"
			if role == roleVerified {
				sql += check(sqlHasRole)
			}
		} else if role == roleVerified {
			sql += check(sqlSame + " and " + sqlHasRole) // which of them failed, the stamp's prefix says
		} else {
			sql += check(sqlSame)
		}
	case prefixStamp:
		sql += "," + sqlOID + check(sqlStamp)
	case prefixAnyStamp:
		sql += "," + sqlOID + check(sqlAnyStamp)
	}
	known := kind == prefixOID || kind == prefixTidy
	if !known && role == roleVerified {
		sql += ",2147483647 operator(pg_catalog.+) (not (" + sqlHasRole + "))::pg_catalog.int4"
	}
	asName := map[roleKind]string{roleSet: "$5::pg_catalog.text::pg_catalog.name", roleVerified: "$5::pg_catalog.name"}[role]
	if !known && role != roleNone {
		// A schema that the role may not use is left out of the path without a word, and names would be found in public.
		sql += ",pg_catalog.sqrt((pg_catalog.has_schema_privilege(" + asName + "," + sqlOID + ",'usage'))::pg_catalog.int4::pg_catalog.float8 operator(pg_catalog.-) 1)"
	}
	if role == roleSet {
		sql += ",pg_catalog.set_config('role',$5,true)"
	}
	if kind == prefixTidy {
		sql += sqlTidy
	}
	return sql
}

// sqlReadOnly is a column that makes the transaction read-only. Once a query has run, as the prefix has, it cannot be made
// read-write again (check_transaction_read_only, variable.c). Few routes are read-only, so the prefix that has it is not
// prepared. Its last argument is true in words that prefixText does not replace.
const sqlReadOnly = ",pg_catalog.set_config('transaction_read_only','on',not false)"

// codeReadOnly is what the server says to a statement that would write in such a transaction.
const codeReadOnly = "25006"

func (u *unit) readOnly() bool { return u.rt.ReadOnly && u.access == driver.AccessTenant }

// preparable reports whether the unit's prefix is kept prepared. On a replica every tenant's is read-only.
func (u *unit) preparable() bool { return u.fence == nil && (!u.readOnly() || u.be.replica) }

// sql is the text of the unit's prefix.
func (u *unit) sql() string { return u.sqlOf(u.kind) }

func (u *unit) sqlOf(kind prefixKind) string {
	sql := prefixSQL[u.role][kind]
	if u.readOnly() {
		sql += sqlReadOnly
	}
	if u.fence != nil {
		sql += u.fence.prefixSQL()
	}
	return sql
}

// prefixNames are the names under which a connection keeps the prefix prepared. The name says what the text is, so
// that two clients of one server session (a pooler without support for prepared statements) cannot get each other's.
var prefixNames = [roleKinds][prefixKinds]string{
	roleNone:     {"tenement_p2_shared", "tenement_p2_oid", "tenement_p2_stamp", "tenement_p2_any", "tenement_p3_tidy"},
	roleSet:      {"tenement_p2_shared_set", "tenement_p2_oid_set", "tenement_p2_stamp_set", "tenement_p2_any_set", "tenement_p2_tidy_set"},
	roleVerified: {"tenement_p2_shared_has", "tenement_p2_oid_has", "tenement_p2_stamp_has", "tenement_p2_any_has", "tenement_p2_tidy_has"},
}

// prepared is the state of one of the prefixes on a connection.
type prepared uint8

const (
	unprepared prepared = iota
	isPrepared
	// doubtful: its Parse was sent and something failed. Close it before preparing it again.
	doubtful
)

// stampText begins the comment by which a schema is known to be a store; the owner follows.
const stampText = "tenement:"

func stampOf(owner string) string { return stampText + owner }

// unit is what the prefix binds a session to.
type unit struct {
	be     *Backend
	rt     backend.Route
	access driver.Access
	kind   prefixKind
	role   roleKind
	path   []byte // search_path
	schema []byte // quoted; part of path
	key    []byte // of the lock
	check  []byte // OID or stamp
	assume []byte // role
	fence  *lock  // nil: none
}

// bindUnit prepares c for units of work of rt.
func (c *conn) bindUnit(rt backend.Route, access driver.Access) {
	u := &c.unit
	if u.rt == rt && u.access == access && u.kind == prefixOID && u.be == c.be {
		return // as before; should the schema be another by now, the check will tell
	}
	u.be, u.access = c.be, access
	if access == driver.AccessShared {
		u.rt, u.kind = backend.Route{}, prefixShared
		u.path = append(u.path[:0], "public, pg_temp"...)
	} else {
		if u.rt.Store != rt.Store || len(u.schema) == 0 {
			u.path = append(u.path[:0], '"')
			u.path = append(u.path, rt.Store.String()...)
			u.path = append(u.path, '"')
			n := len(u.path)
			u.path = append(u.path, ", public, pg_temp"...)
			u.schema = u.path[:n:n]
			u.key = strconv.AppendInt(u.key[:0], int64(storeKey(rt.Store)), 10)
		}
		u.rt = rt
		c.identify()
	}
	c.bindRole()
	if access == driver.AccessShared {
		u.schema = u.schema[:0]
	}
}

// bindRole chooses how the unit gets its role.
func (c *conn) bindRole() {
	u := &c.unit
	var role string
	u.role, role = c.be.roles.assume(u.rt, u.access, c.roleLost)
	u.assume = append(u.assume[:0], role...)
}

// loseRole is what follows from lostRole: the prefix of this connection sets the role from now on.
func (c *conn) loseRole() {
	c.roleLost = true
	c.bindRole()
}

// identify chooses how the schema is checked.
func (c *conn) identify() {
	u := &c.unit
	if oid, known := c.be.identity(u.rt); known {
		u.kind = prefixOID
		u.check = strconv.AppendUint(u.check[:0], uint64(oid), 10)
		return
	}
	u.kind = prefixStamp
	if u.rt.Owner == "" || broken.Stamp {
		u.kind = prefixAnyStamp
	}
	u.check = append(u.check[:0], stampText...)
	if u.kind == prefixStamp {
		u.check = append(u.check, u.rt.Owner...)
	}
}

// params returns the values of the prefix's parameters, all in text format.
func (c *conn) params() [][]byte {
	u := &c.unit
	p := append(c.prefixParams[:0], u.path)
	if u.kind != prefixShared {
		p = append(p, u.schema, u.key, u.check)
	}
	if u.role != roleNone {
		p = append(p, u.assume)
	}
	c.prefixParams = p
	return p
}

// queuePrefix writes the prefix into the connection's send buffer, where the statement follows it. It is
// executed with a row limit of one, so that the server ends it with PortalSuspended rather than with a CommandComplete of
// its own: its row is simply the first.
func (c *conn) queuePrefix(named bool) {
	u := &c.unit
	kind := c.prefixKind()
	named = named && u.preparable()
	name := ""
	if named {
		if name = prefixNames[u.role][kind]; u.readOnly() {
			name += "_ro"
		}
	}
	if state := &c.prefixes[u.role][kind]; !named || *state != isPrepared {
		c.queueParse(name, u.sqlOf(kind), state)
	}
	c.bind.PreparedStatement = name
	c.bind.Parameters = c.params()
	c.fe.SendBind(&c.bind)
	c.fe.SendExecute(&executeOne)
}

// prefixKind is the unit's, or what takes its place in a message that cleans the connection.
func (c *conn) prefixKind() prefixKind {
	if c.tidying {
		return prefixTidy
	}
	return c.unit.kind
}

var executeOne = pgproto3.Execute{MaxRows: 1}

// prefixDone notes that the server executed a prefix queued before, and learns from its row.
func (c *conn) prefixDone(named bool, row [][]byte) {
	u := &c.unit
	if named && u.preparable() {
		c.prefixes[u.role][c.prefixKind()] = isPrepared
	}
	if (u.kind == prefixStamp || u.kind == prefixAnyStamp) && len(row) > stampColumn {
		c.learn(row[stampColumn])
	}
}

// learn keeps the OID that the stamp check returned.
func (c *conn) learn(text []byte) {
	if oid, err := strconv.ParseUint(string(text), 10, 32); err == nil {
		c.be.remember(c.unit.rt, uint32(oid))
		c.identify()
	}
}

// storeKey returns the second half of the advisory lock that stands for a store. Two stores that share one only wait
// for each other's Drop and Rename.
func storeKey(s backend.Store) int32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s.String()))
	return int32(h.Sum32())
}

// shareSQL returns the statement that takes a share of the store.
func shareSQL(s backend.Store) string {
	return fmt.Sprintf("select pg_catalog.pg_advisory_xact_lock_shared(%s,%d)%s;", storeSpace, storeKey(s), sqlLook)
}

// claimSQL returns the statement that waits until nobody has a share of the store and keeps others from getting one.
// What comes after it is looked up with fresh eyes, like what comes after the share. It waits in the server's queue, or it
// would never have its turn with a store that is always in use; whoever waits there has a snapshot, so all who use it
// (upkeep) bound the wait, and a CREATE INDEX CONCURRENTLY that waits for the snapshot goes on when it ends.
func claimSQL(s backend.Store) string {
	return fmt.Sprintf("select pg_catalog.pg_advisory_xact_lock(%s,%d)%s;", storeSpace, storeKey(s), sqlLook)
}

// prefixText returns the prefix with its values written into it, for the simple protocol, with ';' at its end. local is
// the text of set_config's third argument.
func (c *conn) prefixText(local string) string {
	u := &c.unit
	sql := u.sql()
	params := c.params()
	var b strings.Builder
	b.Grow(len(sql) + 128)
	for i := 0; i < len(sql); i++ {
		switch {
		case sql[i] == '$':
			i++
			writeLiteral(&b, string(params[sql[i]-'1']))
		case strings.HasPrefix(sql[i:], "true)"):
			b.WriteString(local)
			i += len("true") - 1
		default:
			b.WriteByte(sql[i])
		}
	}
	b.WriteString(";\n")
	return b.String()
}

// writeLiteral quotes s in a way that does not depend on standard_conforming_strings.
func writeLiteral(b *strings.Builder, s string) {
	if strings.Contains(s, `\`) {
		b.WriteString("E'")
		s = strings.ReplaceAll(s, `\`, `\\`)
	} else {
		b.WriteByte('\'')
	}
	b.WriteString(strings.ReplaceAll(s, "'", "''"))
	b.WriteByte('\'')
}

func literal(s string) string {
	var b strings.Builder
	writeLiteral(&b, s)
	return b.String()
}
