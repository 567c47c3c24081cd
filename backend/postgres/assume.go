package postgres

import (
	"context"
	"regexp"
	"strings"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// Scripts run as the tenants' role, which keeps them from what is shared, and not from becoming the log-in again, nor from
// stores that they name. What a script did is looked at (outside.go) where it could have done either. That costs as much as
// a small migration, most of it for the server's table of locks, so it is not done where it cannot be: where neither the
// text, nor a function of the store's or of public's that it may call, has a word that every way to another role needs.
// (No sign of a change of role is left on the session: it may be taken back.)
//
// A function WITH SECURITY DEFINER cannot change the role, and may do what it is for. Not looked for are ways through
// views, rules, defaults and policies, which a text that is looked at must have made before, and extensions.

// assuming are words of the ways to change the role: SET SESSION AUTHORIZATION, set_config, and what runs a text that is put
// together. SET ROLE is looked for besides. (pg_settings, which can be updated, does not have the role.)
var assuming = map[string]bool{
	"authorization": true, "set_config": true, "execute": true, "ts_stat": true, "ts_rewrite": true,
	"query_to_xml": true, "query_to_xmlschema": true, "query_to_xml_and_xmlschema": true, "cursor_to_xml": true,
}

// assumingSQL is a condition on a function p: it may change the role.
const assumingSQL = "not p.prosecdef and (p.prosrc='' or p.prosrc~*'\\m(role|authorization|set_config|execute|ts_stat|ts_rewrite|query_to_xml|cursor_to_xml|lo_)'" +
	" or p.proconfig::pg_catalog.text~*'role=' or not exists (select from pg_catalog.pg_language l where l.oid=p.prolang and l.lanname in ('sql','plpgsql','c','internal')))" +
	" and not exists (select from pg_catalog.pg_depend e where e.classid=1255 and e.objid=p.oid and e.deptype='e')"

// notOurs is a condition on a function of public: it is not the one that the registry has there, which runs a text that is put
// together, and which only the log-in may call.
const notOurs = "d.objid is distinct from pg_catalog.to_regprocedure('public.tenement_stamp(text,text)')::pg_catalog.oid"

// findAssumingSQL asks in which of the schemas $1 there is a function that may change the role, and 0 for public. Materialized:
// the server thinks a regular expression as cheap as a comparison, and would match all functions.
const findAssumingSQL = "with d as materialized (select objid,refobjid from pg_catalog.pg_depend where refclassid=2615 and refobjid=any($1::pg_catalog.oid[]||" + publicOID + ") and classid=1255) " +
	"select distinct coalesce(nullif(d.refobjid," + publicOID + "),0) from d join pg_catalog.pg_proc p on p.oid=d.objid where " + notOurs + " and " + assumingSQL

// publicFunctionsSQL asks whether there are functions in public that belong to no extension.
const publicFunctionsSQL = "select exists (select from pg_catalog.pg_depend d where d.refclassid=2615 and d.refobjid=" + publicOID + " and d.classid=1255" +
	" and " + notOurs + " and not exists (select from pg_catalog.pg_depend e where e.classid=1255 and e.objid=d.objid and e.deptype='e'))"

// findAssuming asks in which of the stores of a message there is a function that may change the role: the OIDs of their
// schemas, and 0 for public. It is asked for each message, and so sees what another program, or an earlier script of the
// run, has made; what a script of the message makes itself, watched knows.
func (r *scriptRun) findAssuming(ctx context.Context, c *conn, scripts []backend.Script) error {
	r.assuming = map[uint32]bool{}
	if r.be.roles.mode == rolesOff {
		return nil
	}
	schemas := []uint32{}
	some, made := false, true // made: all in stores that are not there yet
	for i := range scripts {
		s := &scripts[i]
		if r.reachOf(s) == reachesCode {
			oid, _ := r.be.identity(s.Route)
			schemas = append(schemas, oid)
			some, made = true, made && s.Create
		}
	}
	if !some {
		return nil
	}
	if made {
		// Only public is to be looked at, where mostly nothing is but what belongs to extensions; to plan the question
		// below takes the server longer than to make a table.
		var functions bool
		if err := r.ask(ctx, c, publicFunctionsSQL, nil, []any{&functions}, func() error { return nil }); err != nil || !functions {
			return err
		}
	}
	var oid uint32
	return r.ask(ctx, c, findAssumingSQL, []any{schemas}, []any{&oid}, func() error {
		r.assuming[oid] = true
		return nil
	})
}

// watched reports whether it is looked at what a script did. It is asked in the order in which they run.
func (r *scriptRun) watched(s *backend.Script) bool {
	oid, _ := r.be.identity(s.Route)
	switch r.reachOf(s) {
	case reachesOut:
		r.assuming[oid] = true // it may leave a function that the next one calls
		return true
	case reachesCode:
		return r.be.roles.mode == rolesOff || r.assuming[0] || r.assuming[oid]
	}
	return r.be.roles.mode == rolesOff
}

// reach is what a script's text can do beyond what the tenants' role is for.
type reach uint8

const (
	reachesOwn  reach = iota // nothing: it only defines tables and indexes, and calls nothing
	reachesCode              // what the functions can that it calls
	reachesOut               // it may change the role, or change what is another store's
)

// reachOf errs on the side of more. own is the store that the text is for, which it may name.
func reachOf(text string, own backend.Store) reach {
	far := reachesOwn
	opening, prev := "", ""
	s := sqltext.New(sqltext.Postgres, text)
	for t := s.Next(); t.Kind != sqltext.End; t = s.Next() {
		name, ok := s.Ident(t)
		switch {
		case t.Kind == sqltext.Separator:
			opening, prev = "", ""
			continue
		case t.Kind == sqltext.Name && !ok:
			return reachesOut // U&"…"
		case t.Kind == sqltext.String && bodyAssumes.MatchString(s.Text(t)):
			return reachesOut
		case !ok:
			prev = s.Text(t)
			continue
		case opening == "":
			opening = name
		}
		ahead := s
		next := ahead.Next()
		after, _ := ahead.Ident(next)
		switch {
		case strings.HasPrefix(name, "lo_"), // large objects are the whole database's
			assuming[name] && !(name == "execute" && (after == "function" || after == "procedure")),
			name == "role" && changes[prev],
			name == "language" && after != "sql" && after != "plpgsql",
			name == "schema" && prev == "set",
			ahead.Text(next) == "." && changesNamed(opening, prev) && !ownSchemas[name] && name != own.String():
			return reachesOut
		case !defining[opening], running[name]:
			far = reachesCode
		}
		prev = name
	}
	return far
}

// bodyAssumes is for what is in quotes, which may be the body of a function or of DO.
var bodyAssumes = regexp.MustCompile(`(?i)\b(authorization|set_config|execute|ts_stat|ts_rewrite|query_to_xml|cursor_to_xml|(set|reset|local|session)\s(.*\s)?role)\b`)

var (
	changes    = map[string]bool{"set": true, "reset": true, "local": true, "session": true}
	ownSchemas = map[string]bool{"public": true, "pg_catalog": true, "pg_temp": true, "information_schema": true}
	defining   = map[string]bool{"alter": true, "create": true, "drop": true, "comment": true}
	// running are words of definitions that run code.
	running = map[string]bool{"select": true, "default": true, "check": true, "using": true, "as": true, "generated": true, "values": true}
)

// changesNamed reports whether a name after the word prev, in a statement that begins with the word opening, is that of
// something which the statement changes.
func changesNamed(opening, prev string) bool {
	switch prev {
	case "select", "where", "and", "or", "by", "=", "(", ",", "join", "set", "returning", "then", "else", "when", "case", "not", "like":
		return opening == "drop" || opening == "truncate"
	case "from":
		return opening == "delete"
	case "on":
		return opening == "create" || opening == "grant" || opening == "revoke" || opening == "comment" || opening == "drop"
	}
	return opening != "select"
}
