package postgres

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// Where roles are off, the log-in does the tenant set's work (scripts, Maintenance handles), and may change anything. What
// a transaction did is then looked at before it commits, and not what its text says: which relations it has locked for
// writing or for changing their definition (a lock stays until the end), and what it made in, or took from, the schema
// public. What is in its store it may change, the rest only read, and refer to.
//
// Not noticed are: what cannot run in a transaction, or in one that was begun by its text; tables dropped from other schemas than public; a schema made empty,
// or renamed; what the script's head has written to already. With roles on, the server refuses all of that.

// codeOutside is what the look fails with; the error's fields name the object.
const codeOutside = "TN001"

// lockedOutside selects the relations outside of the store that this transaction has locked as a writer does.
const lockedOutside = "select l.relation as rel,c.relname as name,s.nspname as schema,l.mode from pg_catalog.pg_locks l " +
	"join pg_catalog.pg_class c on c.oid=l.relation join pg_catalog.pg_namespace s on s.oid=c.relnamespace " +
	"where l.pid=pg_catalog.pg_backend_pid() and l.locktype='relation' and l.database=(select d.oid from pg_catalog.pg_database d where d.datname=pg_catalog.current_database()) " +
	"and l.mode not in ('AccessShareLock','RowShareLock') and s.nspname not in ('pg_catalog','pg_toast','information_schema') and s.nspname not like 'pg\\_temp\\_%' and s.nspname not like 'pg\\_toast\\_temp\\_%'"

// inPublic selects the dependencies that stand for the objects in the schema public.
const inPublic = "from pg_catalog.pg_depend p where p.refclassid=2615 and p.refobjid='public'::pg_catalog.regnamespace"

// beforeSQL returns the statement that remembers what lookSQL compares with.
func beforeSQL(head bool) string {
	written := "''"
	if head {
		written = "(select coalesce(pg_catalog.string_agg(o.rel::pg_catalog.text,','),'') from (" + lockedOutside + ") o)"
	}
	return "select pg_catalog.set_config('tenement.before',(select pg_catalog.count(*)::pg_catalog.text " + inPublic + "),true),pg_catalog.set_config('tenement.written'," + written + ",true);"
}

// lookSQL returns the statements that fail (codeOutside) when the transaction did something outside of the store.
func lookSQL(s backend.Store) string {
	// mine says that a row was written by this transaction or one of its subtransactions: it can be seen, and whoever
	// wrote it is still in progress.
	mine := func(xmin string) string {
		return "(pg_catalog.age(" + xmin + ")<=pg_catalog.age(top::pg_catalog.xid) and pg_catalog.pg_xact_status((((top::pg_catalog.text::int8>>32)<<32)+" +
			xmin + "::pg_catalog.text::int8)::pg_catalog.text::pg_catalog.xid8)='in progress')"
	}
	refuse := func(what string) string {
		return "raise exception using errcode='" + codeOutside + "',message=pg_catalog.format('%s is not in the store',pg_catalog.concat_ws('.'," + what + "))"
	}
	store := literal(s.String())
	return "set local search_path=pg_catalog,pg_temp;do $look$ declare top xid8:=pg_catalog.pg_current_xact_id_if_assigned(); o record; begin " +
		"if top is null then return; end if; " +
		"for o in " + lockedOutside + " and s.nspname<>" + store + " and l.relation::pg_catalog.text<>all(pg_catalog.string_to_array(pg_catalog.current_setting('tenement.written',true),',')) loop " +
		// A foreign key that refers to a table locks it as making a trigger does, ANALYZE as changing a comment.
		"continue when o.mode='ShareRowExclusiveLock' and not exists (select from pg_catalog.pg_trigger t where t.tgrelid=o.rel and not t.tgisinternal and " + mine("t.xmin") + "); " +
		"continue when o.mode='ShareUpdateExclusiveLock' and not exists (select from pg_catalog.pg_class x where x.oid=o.rel and " + mine("x.xmin") + ")" +
		" and not exists (select from pg_catalog.pg_attribute x where x.attrelid=o.rel and " + mine("x.xmin") + ")" +
		" and not exists (select from pg_catalog.pg_description x where x.objoid=o.rel and x.classoid=1259 and " + mine("x.xmin") + "); " +
		"raise exception using errcode='" + codeOutside + "',schema=o.schema,table=o.name,message=pg_catalog.format('%I.%I is not in the store',o.schema,o.name); end loop; " +
		"for o in select i.type,i.identity from (select p.classid,p.objid " + inPublic + " and (" + mine("p.xmin") +
		" or exists (select from pg_catalog.pg_proc x where p.classid=1255 and x.oid=p.objid and " + mine("x.xmin") + ")" +
		" or exists (select from pg_catalog.pg_type x where p.classid=1247 and x.oid=p.objid and " + mine("x.xmin") + "))) m, pg_catalog.pg_identify_object(m.classid,m.objid,0) i" +
		" union all select 'extension',x.extname from pg_catalog.pg_extension x where " + mine("x.xmin") + " loop " + refuse("o.type||' '||o.identity") + "; end loop; " +
		"if (select pg_catalog.count(*) " + inPublic + ")<pg_catalog.current_setting('tenement.before',true)::int8 then " + refuse("'something dropped from public'") + "; end if; " +
		"end $look$;"
}

// outside reports whether err says that a transaction of the tenant set did something outside of its store.
func outside(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == codeOutside
}

// watchedSession is the session of a Maintenance handle where roles are off: its transactions are looked at before they
// commit, and a statement outside of one gets one.
type watchedSession struct {
	*session
	inTx bool
}

// plain reports whether a statement is run as it is: it belongs to a transaction already, or is itself a BEGIN or COMMIT.
func (w *watchedSession) plain(query string) bool {
	return w.inTx || !w.session.c.idle() || classify(query)&control != 0
}

// watch returns the session that looks, where that is needed.
func (s *session) watch(access driver.Access) driver.Session {
	if access == driver.AccessMaintenance && s.c.be.roles.mode == rolesOff {
		return &watchedSession{session: s}
	}
	return s
}

func (w *watchedSession) ExecContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	if w.plain(query) {
		return w.session.ExecContext(ctx, query, args)
	}
	tx, err := w.BeginTx(ctx, sqldriver.TxOptions{})
	if err != nil {
		return nil, err
	}
	result, err := w.session.ExecContext(ctx, query, args)
	if err != nil {
		_ = tx.Rollback()
		if noTransaction(err) {
			return w.session.ExecContext(ctx, query, args)
		}
		return nil, err
	}
	return result, tx.Commit()
}

func (w *watchedSession) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	if w.plain(query) {
		return w.session.QueryContext(ctx, query, args)
	}
	tx, err := w.BeginTx(ctx, sqldriver.TxOptions{})
	if err != nil {
		return nil, err
	}
	rows, err := w.session.QueryContext(ctx, query, args)
	if err != nil {
		_ = tx.Rollback()
		if noTransaction(err) {
			return w.session.QueryContext(ctx, query, args)
		}
		return nil, err
	}
	return &watchedRows{Rows: rows, tx: tx}, nil
}

// noTransaction reports whether a statement refuses to run in a transaction, or would have ended it.
func noTransaction(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && (pe.Code == "25001" || pe.Code == "2D000") || errors.Is(err, errOwnTx)
}

func (w *watchedSession) BeginTx(ctx context.Context, opts sqldriver.TxOptions) (sqldriver.Tx, error) {
	tx, err := w.session.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	if _, err := w.session.ExecContext(ctx, beforeSQL(false), nil); err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	w.inTx = true
	return &watchedTx{Tx: tx, w: w, ctx: ctx}, nil
}

type watchedTx struct {
	sqldriver.Tx
	w   *watchedSession
	ctx context.Context // of BeginTx: database/sql's Commit has none of its own
}

func (t *watchedTx) Commit() error {
	t.w.inTx = false
	store := t.w.session.c.unit.rt.Store
	if _, err := t.w.session.ExecContext(t.ctx, lookSQL(store), nil); err != nil {
		_ = t.Tx.Rollback()
		if outside(err) {
			return readOnlyFault("commit", store, err)
		}
		return err
	}
	return t.Tx.Commit()
}

func (t *watchedTx) Rollback() error {
	t.w.inTx = false
	return t.Tx.Rollback()
}

// watchedRows end the transaction that a query was given.
type watchedRows struct {
	sqldriver.Rows
	tx sqldriver.Tx
}

func (r *watchedRows) Close() error {
	if r.tx == nil {
		return nil
	}
	tx := r.tx
	r.tx = nil
	return errors.Join(r.Rows.Close(), tx.Commit())
}
