package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/backend"
)

// Tenant roles: one per store, without a log-in of its own, granted to the log-in. Roles belong to the whole cluster, so
// the database's name is part of theirs.

// roles names them.
type roles struct {
	database string
	names    sync.Map // backend.Store → string
}

// maxRoleName is how long an identifier may be.
const maxRoleName = 63

// name returns the role of a store: "tn_DATABASE.STORE", or a hash of both where that would be too long.
func (r *roles) name(s backend.Store) string {
	if name, ok := r.names.Load(s); ok {
		return name.(string)
	}
	// A store's name has no dot, so that no two pairs make the same name; the hashed form has no dot at all.
	name := "tn_" + r.database + "." + s.String()
	if len(name) > maxRoleName {
		sum := sha256.Sum256([]byte(name))
		name = "tn#" + hex.EncodeToString(sum[:20])
	}
	r.names.Store(s, name)
	return name
}

// readers returns the role that all of a database's tenant roles are members of, and that may read the shared tables.
// It keeps those tables' access lists short, which the server reads from end to end.
func (r *roles) readers() string {
	name := "tn:" + r.database
	if len(name) > maxRoleName {
		sum := sha256.Sum256([]byte(name))
		name = "tn:#" + hex.EncodeToString(sum[:20])
	}
	return name
}

// makeSQL makes a role unless it is there.
func makeSQL(name string) string {
	return "if not exists (select from pg_catalog.pg_roles where rolname=" + literal(name) + ") then create role " + quote(name) + " nologin; end if;"
}

// createSQL makes a store's role and gives it its rights, on what is there and on what the log-in will make.
func (r *roles) createSQL(s backend.Store) string {
	name := r.name(s)
	role, schema := quote(name), quote(s.String())
	return "do $do$ begin " + makeSQL(name) +
		" if not pg_catalog.pg_has_role(" + literal(name) + "," + literal(r.readers()) + ",'member') then grant " + quote(r.readers()) + " to " + role + "; end if;" +
		" if not pg_catalog.pg_has_role(current_user," + literal(name) + ",'member') then execute pg_catalog.format('grant %I to %I'," + literal(name) + ",current_user);" +
		// From Postgres 16 on, whoever creates a role is not thereby allowed to become it.
		" elsif current_setting('server_version_num')::int>=160000 then execute pg_catalog.format('grant %I to %I with inherit true, set true'," + literal(name) + ",current_user); end if; " +
		"end $do$;" +
		"grant usage on schema " + schema + " to " + role + ";" +
		"grant select,insert,update,delete,truncate,references,trigger on all tables in schema " + schema + " to " + role + ";" +
		"grant usage,select,update on all sequences in schema " + schema + " to " + role + ";" +
		"grant execute on all routines in schema " + schema + " to " + role + ";" +
		"alter default privileges in schema " + schema + " grant select,insert,update,delete,truncate,references,trigger on tables to " + role + ";" +
		"alter default privileges in schema " + schema + " grant usage,select,update on sequences to " + role + ";"
}

// shareSQL makes the readers' role and lets it read the shared tables that the log-in may say so of, and those that it
// will make.
func (r *roles) shareSQL() string {
	readers := quote(r.readers())
	return "do $do$ declare t record; begin " + makeSQL(r.readers()) +
		" for t in select c.relname from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid=c.relnamespace" +
		" where n.nspname='public' and c.relkind in ('r','p','v','m','f') and pg_catalog.pg_has_role(c.relowner,'usage')" +
		" and not pg_catalog.has_table_privilege(" + literal(r.readers()) + ",c.oid,'select')" +
		" loop execute pg_catalog.format('grant select on public.%I to %I',t.relname," + literal(r.readers()) + "); end loop; " +
		"if not pg_catalog.has_schema_privilege(" + literal(r.readers()) + ",'public','usage') then grant usage on schema public to " + readers + "; end if; " +
		"alter default privileges in schema public grant select on tables to " + readers + "; " +
		"end $do$;"
}

func (r *roles) dropSQL(s backend.Store) string {
	name := literal(r.name(s))
	return "do $do$ begin if exists (select from pg_catalog.pg_roles where rolname=" + name + ") then " +
		"execute pg_catalog.format('drop owned by %I'," + name + "); execute pg_catalog.format('drop role %I'," + name + "); end if; end $do$;"
}

func (r *roles) renameSQL(from, to backend.Store) string {
	return "alter role " + quote(r.name(from)) + " rename to " + quote(r.name(to)) + ";"
}

// resetSQL returns the statement that gives a transaction of ours the log-in's rights.
func (r *roles) resetSQL(be *Backend) string {
	if be.cfg.roles {
		return "set local role none;"
	}
	return ""
}

// prepareRoles learns what the roles' names need, checks that the log-in may make roles, and opens the shared tables to
// be read by them.
func (be *Backend) prepareRoles(ctx context.Context) error {
	err := be.withConn(ctx, "open", backend.Route{}, func(c *pgx.Conn) error {
		var may bool
		err := c.QueryRow(ctx, "select current_database()::text, rolsuper or rolcreaterole from pg_catalog.pg_roles where rolname=session_user",
			be.queryMode()).Scan(&be.roles.database, &may)
		if err != nil {
			return err
		}
		if !may {
			return fmt.Errorf("tenant_roles=on: the log-in may not create roles; as a superuser: ALTER ROLE %s CREATEROLE",
				quote(c.Config().User))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return be.shareWithReaders(ctx)
}

// shareWithReaders keeps processes that start at the same time from doing it at the same time.
func (be *Backend) shareWithReaders(ctx context.Context) error {
	return be.upkeep(ctx, "open", backend.Route{}, "begin;select pg_catalog.pg_advisory_xact_lock("+
		formatKey(lockKey("tenement: readers of "+be.roles.database))+");"+be.roles.shareSQL()+"commit")
}

// EnsureRoles makes the roles, with their rights, that are missing: run it once after turning tenant roles on over a
// database that has stores already. Shared tables made by another log-in have to be granted by hand, to the role
// "tn:DATABASE". It is safe to run again, and does nothing when roles are off. It goes on after a
// store that fails; the errors are joined.
func (be *Backend) EnsureRoles(ctx context.Context) error {
	if !be.cfg.roles {
		return nil
	}
	faults := []error{be.shareWithReaders(ctx)}
	for info, err := range be.Stores(ctx) {
		if err != nil {
			return errors.Join(append(faults, err)...)
		}
		rt := backend.Route{Store: info.Store, Owner: info.Owner}
		if err := be.upkeep(ctx, "ensure role", rt, "begin;"+guardSQL(rt)+be.roles.createSQL(info.Store)+"commit"); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// Leftovers lists the roles of this database's stores whose store is gone: what is left when schemas were dropped by
// other means than [Backend.Drop]. See [backend.Sweeper].
func (be *Backend) Leftovers(ctx context.Context) ([]backend.Leftover, error) {
	if !be.cfg.roles {
		return nil, nil
	}
	var left []backend.Leftover
	err := be.withConn(ctx, "list leftovers", backend.Route{}, func(c *pgx.Conn) error {
		prefix := "tn_" + be.roles.database + "."
		// Schemas first: a role seen afterwards without its schema was not just being made, since both are made in one
		// transaction.
		rows, _ := c.Query(ctx, "select r.rolname::text from pg_catalog.pg_roles r where pg_catalog.starts_with(r.rolname::text,$1) "+
			"and not exists (select from pg_catalog.pg_namespace n where n.nspname::text=pg_catalog.substr(r.rolname::text,$2))",
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
	prefix := "tn_" + be.roles.database + "."
	store, found := strings.CutPrefix(l.Name, prefix)
	s, err := backend.ParseStore(store)
	if !be.cfg.roles || l.Kind != "role" || !found || err != nil {
		return &backend.Error{Op: "sweep", Err: fmt.Errorf("%q is not a leftover of this backend", l.Name)}
	}
	return be.upkeep(ctx, "sweep", backend.Route{Store: s}, "begin;"+be.roles.dropSQL(s)+"commit")
}
