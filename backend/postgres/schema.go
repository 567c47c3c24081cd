package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// A schema is a store when its comment begins with the stamp. The comment goes with the schema through dumps, restores
// and renames.

// Create makes the schema, its stamp and, with tenant roles, its role in one transaction; see [backend.Backend].
func (be *Backend) Create(ctx context.Context, rt backend.Route) error {
	if rt.IsZero() {
		return &backend.Error{Op: "create", Err: backend.ErrInvalidName}
	}
	err := be.upkeep(ctx, "create", rt, fencedSQL(ctx, rt.Store)+joined(be.createSQL(rt)))
	if err == nil {
		be.forgetStore(rt.Store)
	}
	return err
}

// fencedSQL returns the statements that make a fenced operation wait for its turn with the store; none without a fence,
// since whoever makes a schema first makes all others fail.
func fencedSQL(ctx context.Context, s backend.Store) string {
	fence := fenceSQL(ctx)
	if fence == "" {
		return ""
	}
	return claimSQL(s) + fence
}

// createSQL returns the statements that make rt's schema.
func (be *Backend) createSQL(rt backend.Route) []string {
	stamp := strings.TrimSuffix(stampSQL(rt.Store, rt.Owner), ";")
	return slices.Concat(be.citus.createSQL(), []string{"create schema " + quote(rt.Store.String()), stamp}, be.roles.createSQL(rt.Store))
}

// joined writes statements as one text.
func joined(statements []string) string {
	if len(statements) == 0 {
		return ""
	}
	return strings.Join(statements, ";") + ";"
}

// Adopt makes a store of a schema that is already there and is none yet, such as one made by another library, by
// stamping it with rt.Owner; with tenant roles, what is in it is given to the role. It returns ErrStoreMissing when there is no such schema, and ErrStoreExists when it is a
// store already.
func (be *Backend) Adopt(ctx context.Context, rt backend.Route) error {
	if rt.IsZero() {
		return &backend.Error{Op: "adopt", Err: backend.ErrStoreMissing}
	}
	return be.turn(ctx, "adopt", rt, "do $do$ begin if "+sqlIsStore(rt.Store)+" then raise duplicate_schema; end if; end $do$;"+
		stampSQL(rt.Store, rt.Owner)+joined(be.roles.createSQL(rt.Store))+be.roles.handOverSQL(rt.Store))
}

// Restamp implements [backend.Adopter].
func (be *Backend) Restamp(ctx context.Context, rt backend.Route, owner string) error {
	return be.turn(ctx, "restamp", rt, guardSQL(rt)+stampSQL(rt.Store, owner))
}

var _ backend.Stamper = (*Backend)(nil)

// OwnerSQL implements [backend.Stamper].
func (be *Backend) OwnerSQL(store string) string {
	// Not obj_description, which is parsed and planned anew in each statement that calls it (0.15 ms).
	return "(select substr(d.description," + strconv.Itoa(len(stampText)+1) + ") from pg_catalog.pg_description d where " +
		"d.objoid=pg_catalog.to_regnamespace(pg_catalog.quote_ident(" + store + "))::pg_catalog.oid and " +
		"d.classoid='pg_catalog.pg_namespace'::pg_catalog.regclass and d.objsubid=0 and d.description like '" + stampText + "%')"
}

// StampSQL implements [backend.Stamper]. A comment is nothing that has other connections plan anew.
func (be *Backend) StampSQL(store, owner string) string {
	return "tenement_stamp(" + store + ",'" + stampText + "'||" + owner + ")"
}

// turn runs statements in a transaction that has the store to itself, and fails when the lock that fences ctx was lost.
func (be *Backend) turn(ctx context.Context, op string, rt backend.Route, sql string) error {
	err := be.upkeep(ctx, op, rt, claimSQL(rt.Store)+fenceSQL(ctx)+sql)
	if err == nil {
		be.forgetStore(rt.Store)
	}
	return err
}

// Drop removes the schema and all that is in it; see [backend.Backend]. It waits for the statements and transactions that
// are using the store, without holding up others for long. A schema that is not a store is not touched: ErrStoreMissing.
func (be *Backend) Drop(ctx context.Context, rt backend.Route) error {
	if rt.IsZero() {
		return &backend.Error{Op: "drop", Err: backend.ErrStoreMissing}
	}
	sql := guardSQL(rt) + "drop schema " + quote(rt.Store.String()) + " cascade;" + be.roles.dropSQL(rt.Store)
	err := be.turn(ctx, "drop", rt, sql)
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.Code == "53200" {
		// More tables than one transaction may lock (max_locks_per_transaction): take them in lots first.
		if err = be.thin(ctx, rt); err == nil {
			err = be.turn(ctx, "drop", rt, sql)
		}
	}
	return err
}

// thin drops a store's tables a few at a time.
func (be *Backend) thin(ctx context.Context, rt backend.Route) error {
	const lot = 16
	for {
		var names []string
		err := be.withConn(ctx, "drop", rt, func(c *pgx.Conn) error {
			rows, _ := c.Query(ctx, "select quote_ident(n.nspname)||'.'||quote_ident(c.relname) "+
				"from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid=c.relnamespace "+
				"where n.nspname=$1 and c.oid=any("+sqltext.InSchema("pg_class", "(select n.oid from pg_catalog.pg_namespace n where n.nspname=$1)")+") and c.relkind in ('r','p') and not c.relispartition limit $2",
				pgx.QueryExecModeExec, rt.Store.String(), lot)
			var err error
			names, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
		if err != nil || len(names) == 0 {
			return err
		}
		if err := be.turn(ctx, "drop", rt, guardSQL(rt)+"drop table "+strings.Join(names, ",")+" cascade;"); err != nil {
			return err
		}
	}
}

// Rename renames the schema and, with tenant roles, its role; see [backend.Backend]. It waits as [Backend.Drop] does.
func (be *Backend) Rename(ctx context.Context, rt backend.Route, to backend.Store) error {
	if rt.IsZero() || to.IsZero() {
		return &backend.Error{Op: "rename", Store: rt.Store, Err: backend.ErrInvalidName}
	}
	if rt.Store == to { // it waits for who is just taking the name away, and sees what became of it
		return be.upkeep(ctx, "rename", rt, shareSQL(rt.Store)+fenceSQL(ctx)+guardSQL(rt))
	}
	// Always in the same order, so that two renames in opposite directions do not wait for each other.
	first, second := rt.Store, to
	if storeKey(first) > storeKey(second) {
		first, second = second, first
	}
	sql := claimSQL(first) + claimSQL(second) + fenceSQL(ctx) + guardSQL(rt) +
		"alter schema " + quote(rt.Store.String()) + " rename to " + quote(to.String()) + ";" + be.roles.renameSQL(rt.Store, to)
	err := be.upkeep(ctx, "rename", rt, sql)
	if err == nil {
		be.forgetStore(rt.Store)
		be.forgetStore(to)
	}
	return err
}

// guardSQL returns a statement that fails (3F000 or 22012) unless rt's schema is there, is a store, and is the owner's.
func guardSQL(rt backend.Route) string {
	cond := sqlIsStore(rt.Store)
	if rt.Owner != "" {
		cond = sqlStampOf(rt.Store) + "=" + literal(stampOf(rt.Owner))
	}
	return "select 1/(" + cond + ")::int;"
}

// sqlStampOf is the comment of a schema; it fails (3F000) when there is none of that name.
func sqlStampOf(s backend.Store) string {
	return "coalesce(pg_catalog.obj_description(" + literal(quote(s.String())) + "::pg_catalog.regnamespace::pg_catalog.oid,'pg_namespace'),'')"
}

// sqlIsStore is a condition: the schema bears a stamp.
func sqlIsStore(s backend.Store) string { return sqlStampOf(s) + " like '" + stampText + "%'" }

// stampSQL returns the statement that makes a schema the store of an owner.
func stampSQL(s backend.Store, owner string) string {
	return "comment on schema " + quote(s.String()) + " is " + literal(stampOf(owner)) + ";"
}

// How upkeep waits for locks: for a short while each time, since all who come after it have to wait with it, and then
// again after a longer pause, until the context is done.
const (
	upkeepLockTimeout = 250 * time.Millisecond
	upkeepMaxPause    = 2 * time.Second
)

// upkeep runs statements of our own, which end with a semicolon, in a transaction with the log-in's rights.
func (be *Backend) upkeep(ctx context.Context, op string, rt backend.Route, sql string) error {
	// Whatever settings the connection's last user left, a role above all, must not count.
	sql = "begin;set local search_path=pg_catalog,pg_temp;set local lock_timeout=" +
		strconv.FormatInt(upkeepLockTimeout.Milliseconds(), 10) + ";" + be.roles.resetSQL() + sql + "commit"
	for pause := upkeepLockTimeout; ; pause = min(2*pause, upkeepMaxPause) {
		err := be.upkeepOnce(ctx, op, rt, sql)
		var pe *pgconn.PgError
		// Not available in time, or one of two that waited for each other.
		if !errors.As(err, &pe) || (pe.Code != "55P03" && pe.Code != "40P01") {
			return err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return &backend.Error{Op: op, Store: rt.Store, Err: fmt.Errorf("%w while the store was in use: %w", ctx.Err(), pe)}
		}
	}
}

func (be *Backend) upkeepOnce(ctx context.Context, op string, rt backend.Route, sql string) error {
	return be.lend(ctx, op, rt, func(c *conn) error {
		err := c.texts(ctx, sql, nil)
		if err == nil {
			return nil
		}
		if !c.idle() && !c.pc.IsClosed() {
			_ = c.rollback(ctx)
		}
		var pe *pgconn.PgError
		if errors.As(err, &pe) {
			err = cmp.Or(named(pe), err)
		}
		return &backend.Error{Op: op, Store: rt.Store, Err: err}
	})
}

// named returns the contract's error for what the server refused to a statement of upkeep, or nil.
func named(pe *pgconn.PgError) error {
	switch {
	case pe.Code == codeLockLost:
		return backend.ErrLockLost
	case refusesStore(pe.Code):
		return backend.ErrStoreMissing
	case pe.Code == "42P06", // the schema is there
		pe.Code == "23505" && pe.TableName == "pg_namespace": // … and was not yet when it was looked for
		return backend.ErrStoreExists
	}
	return nil
}

// withConn lends f a connection for messages that no prefix is needed for.
func (be *Backend) withConn(ctx context.Context, op string, rt backend.Route, f func(*pgx.Conn) error) error {
	return be.lend(ctx, op, rt, func(c *conn) error { return f(c.pg) })
}

// lend lends f a connection that is clean, and has just answered: one whose session was lost while it was idle is exchanged.
func (be *Backend) lend(ctx context.Context, op string, rt backend.Route, f func(*conn) error) error {
	c, err := be.take(ctx, backend.Route{}, driver.AccessShared)
	if err == nil {
		s := c.newSession()
		defer s.Release()
		if err = s.start(ctx, "connect"); err == nil {
			err = ended(ctx, f(s.c))
		}
	}
	var wrapped *backend.Error
	switch {
	case errors.As(err, &wrapped) && wrapped.Op == "connect":
		return &backend.Error{Op: op, Store: rt.Store, Err: wrapped.Err}
	case err != nil && wrapped == nil:
		return &backend.Error{Op: op, Store: rt.Store, Err: err}
	}
	return err
}

// Stat describes one store; see [backend.Backend]. Bytes counts its tables with their indexes.
func (be *Backend) Stat(ctx context.Context, s backend.Store) (backend.StoreInfo, error) {
	info := backend.StoreInfo{Store: s}
	err := be.withConn(ctx, "stat", backend.Route{Store: s}, func(c *pgx.Conn) error {
		var stamp string
		err := c.QueryRow(ctx, "select coalesce(pg_catalog.obj_description(n.oid,'pg_namespace'),''),"+
			"(select coalesce(sum(pg_catalog.pg_total_relation_size(c.oid)),0)::int8 from pg_catalog.pg_class c "+
			"where c.oid=any("+sqltext.InSchema("pg_class", "n.oid")+") and c.relkind in ('r','m')) from pg_catalog.pg_namespace n where n.nspname=$1",
			be.queryMode(), s.String()).Scan(&stamp, &info.Bytes)
		var stamped bool
		if info.Owner, stamped = strings.CutPrefix(stamp, stampText); errors.Is(err, pgx.ErrNoRows) || err == nil && !stamped {
			return backend.ErrStoreMissing
		}
		return err
	})
	if err != nil {
		return backend.StoreInfo{}, err
	}
	return info, nil
}

// queryMode is the mode for queries of our own that are not worth preparing.
func (be *Backend) queryMode() pgx.QueryExecMode {
	if be.mode == pgx.QueryExecModeSimpleProtocol {
		return pgx.QueryExecModeSimpleProtocol
	}
	return pgx.QueryExecModeExec
}

// storesPage is how many stores are read at a time: a connection is not held while the caller looks at them.
const storesPage = 1000

// Stores lists the schemas that carry the stamp, in order of name; see [backend.Backend]. Bytes is -1.
func (be *Backend) Stores(ctx context.Context) iter.Seq2[backend.StoreInfo, error] {
	return func(yield func(backend.StoreInfo, error) bool) {
		after := ""
		for {
			var page []backend.StoreInfo
			n := 0
			err := be.withConn(ctx, "list", backend.Route{}, func(c *pgx.Conn) error {
				// By bytes, as Go compares names, and not as the database's collation does.
				rows, _ := c.Query(ctx, `select n.nspname::text,pg_catalog.obj_description(n.oid,'pg_namespace') `+
					`from pg_catalog.pg_namespace n where n.nspname::text collate "C">$1 `+
					`and pg_catalog.obj_description(n.oid,'pg_namespace') like '`+stampText+`%' `+
					fmt.Sprintf(`order by n.nspname::text collate "C" limit %d`, storesPage), be.queryMode(), after)
				var name, stamp string
				_, err := pgx.ForEachRow(rows, []any{&name, &stamp}, func() error {
					n++
					after = name
					if s, err := backend.ParseStore(name); err == nil {
						page = append(page, backend.StoreInfo{Store: s, Owner: strings.TrimPrefix(stamp, stampText), Bytes: -1})
					}
					return nil
				})
				return err
			})
			if err != nil {
				yield(backend.StoreInfo{}, err)
				return
			}
			for _, info := range page {
				if !yield(info, nil) {
					return
				}
			}
			if n < storesPage {
				return
			}
		}
	}
}

// quote quotes an identifier.
func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
