package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// Tenants' work is done by a role without a log-in of its own that the log-in is a member of: one for all tenants, or
// one for each. It owns what is in their schemas, but not the schemas, and may read and refer to the shared tables. So
// the server itself keeps tenants' requests and migrations from changing what is shared, and from dropping or renaming
// stores. Roles belong to the whole cluster, so the database's name is part of theirs.

// roleMode says whose role does tenants' work.
type roleMode uint8

const (
	rolesOff  roleMode = iota // none: the log-in does it
	rolesOne                  // one for all tenants
	rolesEach                 // the tenant's own
)

// roles is what a backend knows of them. All but names and kept are set while it is opened.
type roles struct {
	mode     roleMode
	one      string // the role of all tenants
	database string
	version  int  // the server's, as server_version_num
	pooled   bool // connections are not ours to keep a role on: they are lent, or a pooler's
	advice   []string

	kept  atomic.Pointer[string] // the role that connections take when they are made; nil: none
	names sync.Map               // backend.Store → string
}

// maxRoleName is how long an identifier may be.
const maxRoleName = 63

// roleName returns prefix and name, or a hash where that would be too long.
func roleName(prefix, name string) string {
	if full := prefix + name; len(full) <= maxRoleName {
		return full
	}
	sum := sha256.Sum256([]byte(prefix + name))
	return prefix + "#" + hex.EncodeToString(sum[:20])
}

// name returns the role that works for a store.
func (r *roles) name(s backend.Store) string {
	if r.mode == rolesOne {
		return r.one
	}
	if name, ok := r.names.Load(s); ok {
		return name.(string)
	}
	// A store's name has no dot or '#', so that no two pairs make the same name.
	name := "tn_" + r.database + "." + s.String()
	if len(name) > maxRoleName {
		name = roleName("tn", "#"+name)
	}
	r.names.Store(s, name)
	return name
}

// reader returns the role that has the rights on what is shared: the one role, or, with a role for each tenant, one that
// those are all members of. (It keeps the tables' access lists short, which the server reads from end to end.)
func (r *roles) reader() string {
	if r.mode == rolesOne {
		return r.one
	}
	return roleName("tn:", r.database)
}

// beforeConnect has a new connection take the role with its start-up message. That costs no round trip, and RESET brings
// the role back; a pooler that does not know the parameter refuses it rather than pass it on to others.
func (r *roles) beforeConnect(_ context.Context, cc *pgx.ConnConfig) error {
	if role := r.kept.Load(); role != nil {
		cc.RuntimeParams["role"] = *role
	}
	return nil
}

// assume returns how a unit of work gets its rights, and from which role.
func (r *roles) assume(rt backend.Route, access driver.Access, lost bool) (roleKind, string) {
	switch {
	case r.mode == rolesOff:
		return roleNone, ""
	case access == driver.AccessShared:
		return roleSet, "none"
	case r.mode == rolesEach || r.pooled || lost:
		return roleSet, r.name(rt.Store)
	}
	return roleVerified, r.one
}

// resetSQL returns the statement that gives a transaction of ours the log-in's rights.
func (r *roles) resetSQL() string {
	if r.mode == rolesOff {
		return ""
	}
	return "set local role none;"
}

// assumeSQL returns the statement that gives the rest of a transaction of ours the tenant's rights.
func (r *roles) assumeSQL(s backend.Store) string {
	if r.mode == rolesOff {
		return ""
	}
	return "set local role " + quote(r.name(s)) + ";"
}

// makeSQL makes a role unless it is there (plpgsql).
func makeSQL(name string) string {
	return "if not exists (select from pg_catalog.pg_roles where rolname=" + literal(name) + ") then create role " + quote(name) + " nologin; end if;"
}

// joinSQL makes the log-in a member of a role that may become it, and has its rights, unless it is (plpgsql).
func (r *roles) joinSQL(name string) string {
	cond, terms := "not pg_catalog.pg_has_role(current_user,"+literal(name)+",'member')", ""
	if r.version >= 160000 {
		// From Postgres 16 on, whoever creates a role administers it, and is not thereby allowed to become it.
		cond = "not pg_catalog.pg_has_role(current_user," + literal(name) + ",'set') or not pg_catalog.pg_has_role(current_user," + literal(name) + ",'usage')"
		terms = " with inherit true, set true"
	}
	return "if " + cond + " then execute pg_catalog.format('grant %I to %I" + terms + "'," + literal(name) + ",current_user); end if;"
}

// createSQL gives the role its rights on a new store's schema, and makes the store's own role first if there is to be one.
// What is in the schema is handOverSQL's business.
func (r *roles) createSQL(s backend.Store) (statements []string) {
	if r.mode == rolesOff {
		return nil
	}
	name := r.name(s)
	if r.mode == rolesEach {
		statements = append(statements, "do $do$ begin "+makeSQL(name)+
			" if not pg_catalog.pg_has_role("+literal(name)+","+literal(r.reader())+",'member') then grant "+quote(r.reader())+" to "+quote(name)+"; end if;"+
			r.joinSQL(name)+" end $do$")
	}
	return append(statements, "grant usage,create on schema "+quote(s.String())+" to "+quote(name))
}

// handOverSQL makes the role the owner of all that is in a store's schema, but for what belongs to an extension, and for
// what has its owner from the table that it is part of.
func (r *roles) handOverSQL(s backend.Store) string {
	if r.mode == rolesOff {
		return ""
	}
	name := r.name(s)
	kinds := "select 'pg_catalog.pg_class'::pg_catalog.regclass as kind,c.oid from pg_catalog.pg_class c where c.relnamespace=n and c.relowner<>r and c.relkind in ('r','p','v','m','f','S')" +
		" and not exists (select from pg_catalog.pg_depend d where d.classid='pg_catalog.pg_class'::pg_catalog.regclass and d.objid=c.oid and c.relkind='S' and d.deptype in ('a','i'))" +
		" union all select 'pg_catalog.pg_type'::pg_catalog.regclass,t.oid from pg_catalog.pg_type t where t.typnamespace=n and t.typowner<>r" +
		" and (t.typtype in ('d','e','r') or t.typtype='c' and (select c.relkind='c' from pg_catalog.pg_class c where c.oid=t.typrelid))"
	for _, k := range []struct{ catalog, prefix string }{
		{"pg_proc", "pro"},
		{"pg_statistic_ext", "stx"},
		{"pg_collation", "coll"},
		{"pg_conversion", "con"},
		{"pg_operator", "opr"},
		{"pg_opclass", "opc"},
		{"pg_opfamily", "opf"},
		{"pg_ts_dict", "dict"},
		{"pg_ts_config", "cfg"},
	} {
		kinds += fmt.Sprintf(" union all select 'pg_catalog.%s'::pg_catalog.regclass,x.oid from pg_catalog.%[1]s x where x.%snamespace=n and x.%[2]sowner<>r", k.catalog, k.prefix)
	}
	return "do $do$ declare n oid:=" + literal(quote(s.String())) + "::pg_catalog.regnamespace::oid; r oid:=" + literal(quote(name)) + "::pg_catalog.regrole::oid; o record; begin " +
		"for o in select i.type,i.identity from (" + kinds + ") x, pg_catalog.pg_identify_object(x.kind,x.oid,0) i " +
		"where not exists (select from pg_catalog.pg_depend e where e.classid=x.kind and e.objid=x.oid and e.deptype='e') loop " +
		"execute pg_catalog.format('alter %s %s owner to %I',case o.type when 'statistics object' then 'statistics' when 'composite type' then 'type' else o.type end,o.identity," + literal(name) + "); " +
		"end loop; end $do$;"
}

// unreadable is a condition on a shared table c: it may not be read or referred to, and the log-in may say that it can be.
func unreadable(reader string) string {
	return "c.relnamespace='public'::pg_catalog.regnamespace and c.relkind in ('r','p','v','m','f') and pg_catalog.pg_has_role(c.relowner,'usage')" +
		" and not (pg_catalog.has_table_privilege(" + reader + ",c.oid,'select') and pg_catalog.has_table_privilege(" + reader + ",c.oid,'references'))"
}

// shareSQL makes the role that reads what is shared, and lets it read and refer to the tables that the log-in may say so
// of, and to those that it will make. Sequences are not shared.
func (r *roles) shareSQL() string {
	reader := r.reader()
	join := ""
	if r.mode == rolesOne {
		join = r.joinSQL(reader)
	}
	return "do $do$ declare t record; begin " + makeSQL(reader) + join +
		" for t in select c.relname from pg_catalog.pg_class c where " + unreadable(literal(reader)) +
		" loop execute pg_catalog.format('grant select,references on public.%I to %I',t.relname," + literal(reader) + "); end loop; " +
		"if not pg_catalog.has_schema_privilege(" + literal(reader) + ",'public','usage') then grant usage on schema public to " + quote(reader) + "; end if; " +
		"alter default privileges in schema public grant select,references on tables to " + quote(reader) + "; " +
		"end $do$;"
}

// dropSQL drops a store's own role, unless it owns something that is not in the store: what that is, nobody here knows.
func (r *roles) dropSQL(s backend.Store) string {
	if r.mode != rolesEach {
		return ""
	}
	return dropRoleSQL(r.name(s))
}

func dropRoleSQL(role string) string {
	name := literal(role)
	return "do $do$ begin if exists (select from pg_catalog.pg_roles r where r.rolname=" + name + " and " + ownsNothing + ") then " +
		"execute pg_catalog.format('drop owned by %I'," + name + "); execute pg_catalog.format('drop role %I'," + name + "); end if; end $do$;"
}

// ownsNothing is a condition on a role r.
const ownsNothing = "not exists (select from pg_catalog.pg_shdepend d where d.refclassid='pg_catalog.pg_authid'::pg_catalog.regclass and d.refobjid=r.oid and d.deptype='o')"

func (r *roles) renameSQL(from, to backend.Store) string {
	if r.mode != rolesEach {
		return ""
	}
	return "alter role " + quote(r.name(from)) + " rename to " + quote(r.name(to)) + ";"
}

// prepareRoles decides whose role does tenants' work, and makes it where that is wanted and possible.
func (be *Backend) prepareRoles(ctx context.Context) error {
	if be.cfg.TenantRole == roleOff {
		return nil
	}
	r := &be.roles
	var login string
	var may, readOnly bool
	err := be.withConn(ctx, "open", backend.Route{}, func(c *pgx.Conn) error {
		var pid uint32
		err := c.QueryRow(ctx, "select current_database()::text,session_user::text,pg_catalog.pg_backend_pid()::int4,"+
			"pg_catalog.current_setting('server_version_num')::int4,pg_catalog.pg_is_in_recovery() or pg_catalog.current_setting('transaction_read_only')='on',"+
			"rolsuper or rolcreaterole from pg_catalog.pg_roles where rolname=session_user",
			be.queryMode()).Scan(&r.database, &login, &pid, &r.version, &readOnly, &may)
		// A pooler makes up its own process numbers.
		r.pooled = be.lent || pid != c.PgConn().PID()
		return err
	})
	if err != nil {
		return err
	}
	switch be.cfg.TenantRole {
	case roleEach:
		r.mode = rolesEach
		if !may && !readOnly {
			return &backend.Error{Op: "open", Err: fmt.Errorf("tenant_role=each: the log-in may not create roles; as a superuser: ALTER ROLE %s CREATEROLE", quote(login))}
		}
	case roleAuto:
		r.mode, r.one = rolesOne, roleName("tenants:", r.database)
	default:
		r.mode, r.one = rolesOne, be.cfg.TenantRole
	}
	err = be.readyRoles(ctx, login, readOnly)
	switch {
	case err == nil:
		return be.keepRole(ctx)
	case be.cfg.TenantRole == roleAuto && ctx.Err() == nil && !connectionLost(err):
		r.mode = rolesOff
		r.advice = append(r.advice, fmt.Sprintf("tenants' work is done with the rights of the log-in, so nothing but care keeps it from changing what is shared: %v", err))
		be.cfg.Logger.WarnContext(ctx, "tenement: tenant roles are off", "reason", err)
		return nil
	}
	return &backend.Error{Op: "open", Err: fmt.Errorf("tenant_role=%s: %w", be.cfg.TenantRole, err)}
}

// connectionLost reports whether the server did not answer, so that nothing is known.
func connectionLost(err error) bool {
	var pe *pgconn.PgError
	var refusal *roleRefusal
	return !errors.As(err, &pe) && !errors.As(err, &refusal)
}

// roleRefusal says why a role cannot be used.
type roleRefusal struct{ reason string }

func (e *roleRefusal) Error() string { return e.reason }

// readyRoles makes sure that the role is there and can read what is shared, changing as little as possible: nothing where
// all is as it should be, which is also what it finds on a standby.
func (be *Backend) readyRoles(ctx context.Context, login string, readOnly bool) error {
	r := &be.roles
	st, err := be.roleState(ctx)
	switch {
	case err != nil:
		return err
	case st.unfit:
		return &roleRefusal{fmt.Sprintf("role %s has rights of its own or the log-in's: it is a superuser, or a member of %s", quote(r.reader()), quote(login))}
	case !st.there && be.cfg.TenantRole == r.one:
		return &roleRefusal{fmt.Sprintf("there is no role %s; CREATE ROLE %[1]s NOLOGIN; GRANT %[1]s TO %s", quote(r.one), quote(login))}
	case readOnly && !st.usable:
		return &roleRefusal{fmt.Sprintf("role %s is not there, or the log-in is no member of it, and the server is read-only", quote(r.reader()))}
	case !st.ready && !readOnly:
		// Processes that start at the same time do not do it at the same time.
		err = be.upkeep(ctx, "open", backend.Route{}, "begin;select pg_catalog.pg_advisory_xact_lock("+
			formatKey(lockKey("tenement: roles of "+r.database))+")"+sqlLook+";"+r.shareSQL()+"commit")
		if err != nil {
			return fmt.Errorf("role %s cannot be made or used (the log-in needs CREATEROLE, or as a superuser: CREATE ROLE %[1]s NOLOGIN; GRANT %[1]s TO %s): %w",
				quote(r.reader()), quote(login), err)
		}
		if st, err = be.roleState(ctx); err == nil && !st.usable {
			err = &roleRefusal{fmt.Sprintf("the log-in may not become role %s or has not its rights; GRANT %[1]s TO %s, whose attribute is to be INHERIT", quote(r.reader()), quote(login))}
		}
	}
	if err == nil && st.makesShared {
		r.advice = append(r.advice, fmt.Sprintf("tenants may make tables in the schema public, as everybody may in a database from before Postgres 15: REVOKE CREATE ON SCHEMA public FROM PUBLIC, %s", quote(r.reader())))
	}
	return err
}

// roleState is what the server says of the role that reads what is shared.
type roleState struct {
	there, unfit bool
	usable       bool // the log-in may become it and has its rights (with a role for each tenant: nobody has to)
	ready        bool // usable, and it has its rights
	makesShared  bool
}

func (be *Backend) roleState(ctx context.Context) (st roleState, err error) {
	r := &be.roles
	become := "member"
	if r.version >= 160000 {
		become = "set"
	}
	usable := "pg_catalog.pg_has_role(session_user,r.oid,'" + become + "') and pg_catalog.pg_has_role(session_user,r.oid,'usage')"
	if r.mode == rolesEach {
		usable = "true"
	}
	err = be.withConn(ctx, "open", backend.Route{}, func(c *pgx.Conn) error {
		err := c.QueryRow(ctx, "select r.rolsuper or pg_catalog.pg_has_role(r.oid,session_user,'member'),"+usable+","+
			"pg_catalog.has_schema_privilege(r.oid,'public','usage') and not exists (select from pg_catalog.pg_class c where "+unreadable("r.oid")+")"+
			" and exists (select from pg_catalog.pg_default_acl d, pg_catalog.aclexplode(d.defaclacl) a where d.defaclrole::pg_catalog.regrole=session_user::pg_catalog.text::pg_catalog.regrole"+
			" and d.defaclnamespace='public'::pg_catalog.regnamespace and d.defaclobjtype='r' and a.grantee=r.oid and a.privilege_type='REFERENCES'),"+
			"pg_catalog.has_schema_privilege(r.oid,'public','create') "+
			"from pg_catalog.pg_roles r where r.rolname=$1", be.queryMode(), r.reader()).Scan(&st.unfit, &st.usable, &st.ready, &st.makesShared)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		st.there, st.ready = true, st.ready && st.usable
		return err
	})
	return st, err
}

// keepRole has the connections keep the role from now on, where they are ours.
func (be *Backend) keepRole(ctx context.Context) error {
	r := &be.roles
	if r.mode != rolesOne || r.pooled {
		return nil
	}
	r.kept.Store(&r.one)
	// The one that is there already. Others, which the pool may have made meanwhile, are found not to have it.
	return be.withConn(ctx, "open", backend.Route{}, func(c *pgx.Conn) error {
		return c.PgConn().Exec(ctx, "set role "+quote(r.one)).Close()
	})
}

// EnsureRoles gives the stores that are there to the role that does tenants' work, and lets it read the shared tables:
// run it once after turning tenant roles on, or after changing them, over a database that has stores already, and after
// making things in a store by hand, with other rights. Shared tables made by another log-in have to be granted by hand.
// It is safe to run again, and does nothing when roles are off. It goes on after a store that fails; the errors are joined.
func (be *Backend) EnsureRoles(ctx context.Context) error {
	r := &be.roles
	if r.mode == rolesOff {
		return nil
	}
	faults := []error{be.upkeep(ctx, "ensure roles", backend.Route{}, "begin;select pg_catalog.pg_advisory_xact_lock("+
		formatKey(lockKey("tenement: roles of "+r.database))+")"+sqlLook+";"+r.shareSQL()+"commit")}
	for info, err := range be.Stores(ctx) {
		if err != nil {
			return errors.Join(append(faults, err)...)
		}
		rt := backend.Route{Store: info.Store, Owner: info.Owner}
		faults = append(faults, be.upkeep(ctx, "ensure roles", rt, "begin;"+shareSQL(rt.Store)+guardSQL(rt)+joined(r.createSQL(rt.Store))+r.handOverSQL(rt.Store)+"commit"))
	}
	return errors.Join(faults...)
}

// Advise implements [backend.Advisor]: what should be different about roles.
func (be *Backend) Advise(ctx context.Context) ([]string, error) {
	advice := append([]string(nil), be.roles.advice...)
	if be.roles.mode != rolesEach {
		return advice, nil
	}
	var n int
	err := be.withConn(ctx, "advise", backend.Route{}, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, "select count(*)::int4 from pg_catalog.pg_roles where pg_catalog.starts_with(rolname::text,$1)",
			be.queryMode(), "tn_"+be.roles.database+".").Scan(&n)
	})
	if n > manyRoles {
		advice = append(advice, fmt.Sprintf("tenant_role=each with %d tenants: after every sign-up each connection works out anew of which roles the log-in is a member; use tenant_role=auto", n))
	}
	return advice, err
}

// manyRoles is from how many roles on a role for each tenant is worth a warning.
const manyRoles = 1000

// Leftovers lists the roles of this database's stores whose store is gone: what is left when schemas were dropped by
// other means than [Backend.Drop]. A role that owns something is none. See [backend.Sweeper].
func (be *Backend) Leftovers(ctx context.Context) ([]backend.Leftover, error) {
	if be.roles.mode == rolesOff {
		return nil, nil
	}
	var left []backend.Leftover
	err := be.withConn(ctx, "list leftovers", backend.Route{}, func(c *pgx.Conn) error {
		prefix := "tn_" + be.roles.database + "."
		// Schemas first: a role seen afterwards without its schema was not just being made, since both are made in one
		// transaction.
		rows, _ := c.Query(ctx, "select r.rolname::text from pg_catalog.pg_roles r where pg_catalog.starts_with(r.rolname::text,$1) "+
			"and not exists (select from pg_catalog.pg_namespace n where n.nspname::text=pg_catalog.substr(r.rolname::text,$2)) and "+ownsNothing,
			be.queryMode(), prefix, len([]rune(prefix))+1)
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, n := range names {
			store, _ := backend.ParseStore(strings.TrimPrefix(n, prefix))
			left = append(left, backend.Leftover{
				Name: n, Kind: "role", Store: store,
				Detail: "the role of store " + strings.TrimPrefix(n, prefix) + ", which is gone; sweeping it drops the role and its grants",
			})
		}
		return err
	})
	return left, err
}

// Sweep drops a role that [Backend.Leftovers] listed. See [backend.Sweeper].
func (be *Backend) Sweep(ctx context.Context, l backend.Leftover) error {
	store, found := strings.CutPrefix(l.Name, "tn_"+be.roles.database+".")
	s, err := backend.ParseStore(store)
	if be.roles.mode == rolesOff || l.Kind != "role" || !found || err != nil {
		return &backend.Error{Op: "sweep", Err: fmt.Errorf("%q is not a leftover of this backend", l.Name)}
	}
	return be.upkeep(ctx, "sweep", backend.Route{Store: s}, "begin;"+dropRoleSQL(l.Name)+"commit")
}

// deniedShared reports whether a statement of a tenant was refused because of its role's rights: it would have changed
// something that is not the tenant's, which is the shared store's. The server's text is not looked at, it may be in any
// language; what it says of its own source is the same everywhere (aclcheck_error, in aclchk.c).
func (be *Backend) deniedShared(access driver.Access, pe *pgconn.PgError) bool {
	return be.roles.mode != rolesOff && access != driver.AccessShared && pe.Code == "42501" && pe.Routine == "aclcheck_error"
}

// readOnlyFault dresses what deniedShared says yes to.
func readOnlyFault(op string, s backend.Store, err error) error {
	return &backend.Error{Op: op, Store: s, Err: fmt.Errorf("%w: %w", backend.ErrReadOnlyShared, err)}
}

// errNotOurs: the store was made while roles were off, or others.
var errNotOurs = errors.New("the store is not yet given to the role that does tenants' work; run EnsureRoles once after turning tenant roles on")

// roleFault says what is wrong when the prefix could not assume the role; nil when that is not what it failed with.
func (c *conn) roleFault(pe *pgconn.PgError) error {
	u := &c.unit
	if u.role == roleNone {
		return nil
	}
	var says string
	switch pe.Code {
	case codeNotOurs:
		says = errNotOurs.Error()
	case "22023", "42704": // no such role; it went while the connection had it
		says = "the role that does tenants' work is missing; run EnsureRoles once after turning tenant roles on"
	case "42501":
		says = "the log-in may not become the role that does tenants' work; GRANT it to the log-in"
	default:
		return nil
	}
	return &backend.Error{Op: "use", Store: u.rt.Store, Err: fmt.Errorf("%s: %w", says, pe)}
}

// lostRole reports whether the prefix found that the connection has not the role that it was made with: somebody who
// uses it besides us, or a statement, has reset it. From then on the prefix sets it.
func lostRole(pe *pgconn.PgError) bool { return pe.Code == codeNotRole }
