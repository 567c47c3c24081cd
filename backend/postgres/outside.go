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

// lockedOutside selects the relations outside of the store, whose schema has the OID n, that this transaction has locked
// as a writer does. It reads what the view pg_locks does, all that is locked in the server: the most that the look costs.
const lockedOutside = "select l.relation as rel,c.relname as name,c.relnamespace::pg_catalog.regnamespace as schema,l.mode from pg_catalog.pg_lock_status() l " +
	"join pg_catalog.pg_class c on c.oid=l.relation where l.pid=pg_catalog.pg_backend_pid() and l.locktype='relation' and l.relation>=16384 " +
	"and l.mode not in ('AccessShareLock','RowShareLock') and c.relnamespace not in (n,99) and c.relpersistence<>'t'" // 99: pg_toast

// inPublic selects the dependencies that stand for the objects in the schema public.
const inPublic = "from pg_catalog.pg_depend p where p.refclassid=2615 and p.refobjid='public'::pg_catalog.regnamespace"

// partsInPublic counts what belongs to the tables in public: indexes, triggers, constraints, rules.
const partsInPublic = "(select pg_catalog.count(*)::pg_catalog.text from pg_catalog.pg_depend p join pg_catalog.pg_depend q on q.refclassid=1259 and q.refobjid=p.objid " +
	"where p.refclassid=2615 and p.refobjid='public'::pg_catalog.regnamespace and p.classid=1259 and q.deptype in ('a','i'))"

// beforeSQL returns the statement that remembers what lookSQL compares with.
func beforeSQL(s backend.Store, head bool) string {
	written := "''"
	if head {
		written = "(select coalesce(pg_catalog.string_agg(o.rel::pg_catalog.text,','),'') from (select " + literal(quote(s.String())) +
			"::pg_catalog.regnamespace::oid as n) s, lateral (" + lockedOutside + ") o)"
	}
	return "select pg_catalog.set_config('tenement.before',(select pg_catalog.count(*)::pg_catalog.text " + inPublic + "),true),pg_catalog.set_config('tenement.parts'," + partsInPublic + ",true),pg_catalog.set_config('tenement.written'," + written + ",true);"
}

// mine is a condition on the xmin of a row: the row was written by this transaction, or by one of its subtransactions. It
// can be seen, and whoever wrote it is still in progress. (The first condition is the cheap one.)
func mine(xmin string) string {
	return "(pg_catalog.age(" + xmin + ")<=pg_catalog.age(top::pg_catalog.xid) and pg_catalog.pg_xact_status((((top::pg_catalog.text::int8>>32)<<32)+" +
		xmin + "::pg_catalog.text::int8)::pg_catalog.text::pg_catalog.xid8)='in progress')"
}

// lookSQL returns the statements that fail (codeOutside) when the transaction did something outside of the store.
func lookSQL(s backend.Store) string {
	const refuse = "raise exception using errcode='" + codeOutside + "',message="
	// Deferred triggers have their turn first: they do what they do in this transaction.
	return "set constraints all immediate;set local search_path=pg_catalog,pg_temp;do $look$ declare top xid8:=pg_catalog.pg_current_xact_id_if_assigned(); " +
		"n oid:=" + literal(quote(s.String())) + "::pg_catalog.regnamespace; o record; begin " +
		"if top is null then return; end if; " +
		"for o in " + lockedOutside + " and l.relation::pg_catalog.text<>all(pg_catalog.string_to_array(pg_catalog.current_setting('tenement.written',true),',')) order by c.relkind desc loop " + // tables ahead of their sequences
		// A foreign key that refers to a table locks it as making a trigger does, and its end as dropping one; ANALYZE
		// locks as changing a comment does. What counts is whether the definition has changed.
		"continue when o.mode in ('ShareRowExclusiveLock','ShareUpdateExclusiveLock','AccessExclusiveLock')" +
		" and not exists (select from pg_catalog.pg_class x where o.mode<>'ShareRowExclusiveLock' and x.oid=o.rel and " + mine("x.xmin") + ")" +
		" and not exists (select from pg_catalog.pg_attribute x where x.attrelid=o.rel and " + mine("x.xmin") + ")" +
		" and not exists (select from pg_catalog.pg_trigger x where x.tgrelid=o.rel and not x.tgisinternal and " + mine("x.xmin") + ")" +
		" and not exists (select from pg_catalog.pg_rewrite x where x.ev_class=o.rel and " + mine("x.xmin") + ")" +
		" and not exists (select from pg_catalog.pg_policy x where x.polrelid=o.rel and " + mine("x.xmin") + ")" +
		" and not exists (select from pg_catalog.pg_description x where x.objoid=o.rel and x.classoid=1259 and " + mine("x.xmin") + "); " +
		refuse + "pg_catalog.format('%s.%I is not in the store',o.schema,o.name),schema=o.schema::pg_catalog.text,table=o.name; end loop; " +
		"select pg_catalog.count(*) as now,pg_catalog.count(*) filter (where " + mine("p.xmin") + ") as made," +
		"pg_catalog.count(*) filter (where p.classid=1255 and exists (select from pg_catalog.pg_proc x where x.oid=p.objid and " + mine("x.xmin") + ")) as changed," +
		"(select pg_catalog.count(*) from pg_catalog.pg_extension x where " + mine("x.xmin") + ") as extended into o " + inPublic + "; " +
		"if o.made>0 or o.changed>0 then " + refuse + "'what was made or changed in the schema public is not in the store'; end if; " +
		"if o.extended>0 then " + refuse + "'an extension is the whole database''s and not in the store'; end if; " +
		"if o.now<pg_catalog.current_setting('tenement.before',true)::int8 or " + partsInPublic + "<>pg_catalog.current_setting('tenement.parts',true) then " + refuse + "'what was dropped from the schema public, or from a table in it, is not in the store'; end if; " +
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
	watching bool // a transaction of its own or the caller's is open
}

// plain reports whether a statement is run as it is: it belongs to a transaction already, or is itself a BEGIN or COMMIT.
func (w *watchedSession) plain(query string) bool {
	return w.watching || w.inTx || !w.c.idle() || classify(query)&control != 0
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
	if err != nil || opts.ReadOnly {
		return tx, err
	}
	if err = w.open(ctx); err == nil {
		err = w.c.texts(ctx, beforeSQL(w.c.unit.rt.Store, false), nil)
	}
	if err != nil {
		_ = tx.Rollback()
		return nil, w.fault("begin", err)
	}
	w.watching = true
	return &watchedTx{Tx: tx, w: w, ctx: ctx}, nil
}

type watchedTx struct {
	sqldriver.Tx
	w   *watchedSession
	ctx context.Context // of BeginTx: database/sql's Commit has none of its own
}

func (t *watchedTx) Commit() error {
	w := t.w
	w.watching = false
	if w.over() {
		return t.Tx.Commit()
	}
	if err := w.c.texts(t.ctx, lookSQL(w.c.unit.rt.Store), nil); err != nil {
		_ = t.Tx.Rollback()
		if outside(err) {
			return readOnlyFault("commit", w.c.unit.rt.Store, err)
		}
		return w.fault("commit", err)
	}
	return t.Tx.Commit()
}

func (t *watchedTx) Rollback() error {
	t.w.watching = false
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
