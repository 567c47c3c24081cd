package postgres

import (
	"fmt"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

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

// makeSQL makes a role unless it is there (plpgsql). It cannot log in, but where the nodes' sessions are its own; it has no
// password there either, so that only whom pg_hba.conf lets in without one gets in.
func (r *roles) makeSQL(name string) string {
	if !r.logsIn {
		return "if not exists (select from pg_catalog.pg_roles where rolname=" + literal(name) + ") then create role " + quote(name) + " nologin; end if;"
	}
	return "if not exists (select from pg_catalog.pg_roles where rolname=" + literal(name) + ") then create role " + quote(name) + " login; " +
		"elsif not exists (select from pg_catalog.pg_roles where rolname=" + literal(name) + " and rolcanlogin) then alter role " + quote(name) + " login; end if;"
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
		statements = append(statements, "do $do$ begin "+r.makeSQL(name)+
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
	kinds := "select 'pg_catalog.pg_class'::pg_catalog.regclass as kind,c.oid from pg_catalog.pg_class c where c.oid=any(" + sqltext.InSchema("pg_class", "n") + ") and c.relowner<>r and c.relkind in ('r','p','v','m','f','S')" +
		" and not exists (select from pg_catalog.pg_depend d where d.classid='pg_catalog.pg_class'::pg_catalog.regclass and d.objid=c.oid and c.relkind='S' and d.deptype in ('a','i'))" +
		" union all select 'pg_catalog.pg_type'::pg_catalog.regclass,t.oid from pg_catalog.pg_type t where t.oid=any(" + sqltext.InSchema("pg_type", "n") + ") and t.typowner<>r" +
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
		kinds += fmt.Sprintf(" union all select 'pg_catalog.%s'::pg_catalog.regclass,x.oid from pg_catalog.%[1]s x where x.oid=any(%s) and x.%sowner<>r", k.catalog, sqltext.InSchema(k.catalog, "n"), k.prefix)
	}
	return "do $do$ declare n oid:=" + literal(quote(s.String())) + "::pg_catalog.regnamespace::oid; r oid:=" + literal(quote(name)) + "::pg_catalog.regrole::oid; o record; begin " +
		"for o in select i.type,i.identity from (" + kinds + ") x, pg_catalog.pg_identify_object(x.kind,x.oid,0) i " +
		"where not exists (select from pg_catalog.pg_depend e where e.classid=x.kind and e.objid=x.oid and e.deptype='e') loop " +
		"execute pg_catalog.format('alter %s %s owner to %I',case o.type when 'statistics object' then 'statistics' when 'composite type' then 'type' else o.type end,o.identity," + literal(name) + "); " +
		"end loop; end $do$;"
}

// unreadable is a condition on a shared table c: it may not be read or referred to, and the log-in may say that it can be.
func unreadable(reader string) string {
	return "c.oid=any(" + sqltext.InSchema("pg_class", "'public'::pg_catalog.regnamespace") + ") and c.relkind in ('r','p','v','m','f') and pg_catalog.pg_has_role(c.relowner,'usage')" +
		" and not (pg_catalog.has_table_privilege(" + reader + ",c.oid,'select') and pg_catalog.has_table_privilege(" + reader + ",c.oid,'references'))"
}

// sqlAnnounced is a condition: the nodes of the Citus cluster know the log-in as the coordinator's.
const sqlAnnounced = "exists (select from pg_catalog.pg_dist_object where classid=1260 and objid=session_user::pg_catalog.text::pg_catalog.regrole::pg_catalog.oid)"

// announceSQL has the nodes of a Citus cluster know the log-in, and that it is a member of a role if it is to be (plpgsql). A
// GRANT reaches them only when the member is a distributed object (FilterDistributedRoles, role.c), which a log-in becomes
// when a table of its own does. Without the membership there it could not drop what the role has made.
func (r *roles) announceSQL(role string) string {
	if !r.logsIn {
		return ""
	}
	sql := "if not " + sqlAnnounced + " then create table public.tenement_login(); " +
		"perform pg_catalog.citus_add_local_table_to_metadata('public.tenement_login'); drop table public.tenement_login; "
	if r.mode == rolesOne {
		sql += "execute pg_catalog.format('grant %I to %I'," + literal(role) + ",current_user); "
	}
	return sql + "end if; "
}

// shareSQL makes the role that reads what is shared, and lets it read and refer to the tables that the log-in may say so
// of, and to those that it will make. Sequences are not shared.
func (r *roles) shareSQL() string {
	reader := r.reader()
	join := ""
	if r.mode == rolesOne {
		join = r.joinSQL(reader)
	}
	return "do $do$ declare t record; begin " + r.makeSQL(reader) + r.announceSQL(reader) + join +
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
	return dropRoleSQL(r.name(s), s)
}

// dropRoleSQL is dropSQL for a role by its name. A store that is there keeps it.
func dropRoleSQL(role string, s backend.Store) string {
	name := literal(role)
	return "do $do$ begin if exists (select from pg_catalog.pg_roles r where r.rolname=" + name + " and " + ownsNothing + ")" +
		" and not exists (select from pg_catalog.pg_namespace where nspname=" + literal(s.String()) + ") then " +
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
