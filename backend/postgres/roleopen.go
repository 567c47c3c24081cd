package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// prepareRoles decides whose role does tenants' work, and makes it where that is wanted and possible.
func (be *Backend) prepareRoles(ctx context.Context) error {
	if be.cfg.TenantRole == roleOff {
		return nil
	}
	r := &be.roles
	r.logsIn = be.citus.on
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
	case be.cfg.TenantRole == roleAuto && mayNot(err):
		r.mode = rolesOff
		r.advice = append(r.advice, fmt.Sprintf("tenants' work is done with the rights of the log-in, so nothing but care keeps it from changing what is shared: %v", err))
		be.cfg.Logger.WarnContext(ctx, "tenement: tenant roles are off", "reason", err)
		return nil
	}
	return &backend.Error{Op: "open", Err: fmt.Errorf("tenant_role=%s: %w", be.cfg.TenantRole, err)}
}

// mayNot reports whether it is for good that the role cannot be had: the log-in may not, or it is none to use. Whatever else
// went wrong (a connection that was cut, a server that is full or shuts down, a timeout) says nothing of that, and who went on
// without the role for it would leave the shared tables without their guard, and make stores that others refuse.
func mayNot(err error) bool {
	var refusal *roleRefusal
	return errors.As(err, &refusal) || sqltext.State(err) == "42501" // insufficient_privilege
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
		if err = be.shareRoles(ctx, "open"); err != nil {
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

// shareRoles makes the role that reads what is shared. Processes that start at the same time do not do it at the same time.
func (be *Backend) shareRoles(ctx context.Context, op string) error {
	return be.upkeep(ctx, op, backend.Route{}, "select pg_catalog.pg_advisory_xact_lock("+
		formatKey(lockKey("tenement: roles of "+be.roles.database))+")"+sqlLook+";"+be.roles.shareSQL())
}

// knownSQL is a condition on the role r that ends in "and": the nodes of a Citus cluster let it in, and know the log-in.
func (r *roles) knownSQL() string {
	if !r.logsIn {
		return ""
	}
	return "r.rolcanlogin and " + sqlAnnounced + " and "
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
			r.knownSQL()+"pg_catalog.has_schema_privilege(r.oid,'public','usage') and not exists (select from pg_catalog.pg_class c where "+unreadable("r.oid")+")"+
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
	faults := []error{be.shareRoles(ctx, "ensure roles")}
	for info, err := range be.Stores(ctx) {
		if err != nil {
			return errors.Join(append(faults, err)...)
		}
		rt := backend.Route{Store: info.Store, Owner: info.Owner}
		faults = append(faults, be.upkeep(ctx, "ensure roles", rt, shareSQL(rt.Store)+guardSQL(rt)+joined(r.createSQL(rt.Store))+r.handOverSQL(rt.Store)))
	}
	return errors.Join(faults...)
}

// notHandedOver is a condition on a store's schema n: the role $1, which does tenants' work, may not use it, or does not own
// a table in it.
const notHandedOver = "(not pg_catalog.has_schema_privilege($1,n.oid,'usage') or exists (select from pg_catalog.pg_class c " +
	"where c.relnamespace=n.oid and c.relkind in ('r','p','v','m','f') and c.relowner<>$1::pg_catalog.text::pg_catalog.regrole " +
	"and not exists (select from pg_catalog.pg_depend e where e.classid='pg_catalog.pg_class'::pg_catalog.regclass and e.objid=c.oid and e.deptype='e')))"

// Advise implements [backend.Advisor]: what should be different about roles, and where Citus has the stores.
func (be *Backend) Advise(ctx context.Context) ([]backend.Advice, error) {
	advice, err := be.adviseRoles(ctx)
	if err != nil {
		return advice, err
	}
	nodes, err := be.Nodes(ctx)
	return append(advice, adviseNodes(nodes)...), err
}

func (be *Backend) adviseRoles(ctx context.Context) ([]backend.Advice, error) {
	var advice []backend.Advice
	for _, text := range be.roles.advice {
		advice = append(advice, backend.Advice{Text: text})
	}
	switch be.roles.mode {
	case rolesOne:
		stale, first, err := be.notHandedOver(ctx)
		if stale > 0 {
			advice = append(advice, backend.Advice{
				Text: fmt.Sprintf("%d stores, %s the first of them, are not yet given to the role that does tenants' work, and are not served", stale, first),
				Mend: "gives them to the role",
			})
		}
		return advice, err
	case rolesOff:
		return advice, nil
	}
	var n int
	err := be.withConn(ctx, "advise", backend.Route{}, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, "select count(*)::int4 from pg_catalog.pg_roles where pg_catalog.starts_with(rolname::text,$1)",
			be.queryMode(), "tn_"+be.roles.database+".").Scan(&n)
	})
	if n > manyRoles {
		advice = append(advice, backend.Advice{Text: fmt.Sprintf(
			"tenant_role=each with %d tenants: after every sign-up each connection works out anew of which roles the log-in is a member; use tenant_role=auto", n)})
	}
	return advice, err
}

// notHandedOver counts the stores that were made while there was no such role, or another.
func (be *Backend) notHandedOver(ctx context.Context) (n int, first string, err error) {
	err = be.withConn(ctx, "advise", backend.Route{}, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, "select count(*)::int4,coalesce(min(n.nspname::text collate \"C\"),'') from pg_catalog.pg_namespace n "+
			"where pg_catalog.starts_with(coalesce(pg_catalog.obj_description(n.oid,'pg_namespace'),''),$2) and "+notHandedOver,
			be.queryMode(), be.roles.one, stampText).Scan(&n, &first)
	})
	return n, first, err
}

// Mend implements [backend.Advisor]. It is [Backend.EnsureRoles].
func (be *Backend) Mend(ctx context.Context) error { return be.EnsureRoles(ctx) }

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

// Sweep drops a role that [Backend.Leftovers] listed, unless its store has been made again since. See [backend.Sweeper].
func (be *Backend) Sweep(ctx context.Context, l backend.Leftover) error {
	store, found := strings.CutPrefix(l.Name, "tn_"+be.roles.database+".")
	s, err := backend.ParseStore(store)
	if be.roles.mode == rolesOff || l.Kind != "role" || !found || err != nil {
		return &backend.Error{Op: "sweep", Err: fmt.Errorf("%q is not a leftover of this backend", l.Name)}
	}
	return be.upkeep(ctx, "sweep", backend.Route{Store: s}, claimSQL(s)+dropRoleSQL(l.Name, s))
}
