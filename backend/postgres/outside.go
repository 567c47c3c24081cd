package postgres

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// What a transaction of the tenant set did is looked at before it commits, and not what its text says: on Maintenance
// handles, in scripts where roles are off, and in those that could have got around their role (assume.go). What is in its
// store it may change, the rest only read, and refer to. Where roles are on, not those that run the library's own
// statements (driver.OwnStatements): the look takes the server half as long as the load of a small tenant. It is told by
//
//   - which relations it has locked for writing or for changing their definition (a lock stays until the end),
//   - which rows of the catalogs are this transaction's (xmin), in public, and in those that are the whole database's or
//     cluster's, where the server's statistics of the transaction say that there is one,
//   - what has become less in public since it began, and who has rights there.
//
// Not noticed are: what cannot run in a transaction, or in one that was begun by a text; what was dropped from other
// stores, or moved from one into this; rights on other stores' objects; what the script's head has written to already; and
// what only the statistics tell, where the server keeps none (track_counts). With roles on, the server refuses all of that,
// but for what names another store.

// codeOutside is what the look fails with; the error's fields name the object.
const codeOutside = "TN001"

// lockedOutside selects the relations outside of the store, whose schema has the OID n, that this transaction has locked
// as a writer does. It reads what the view pg_locks does, all that is locked in the server: the most that the look costs.
const lockedOutside = "select l.relation as rel,c.relname as name,c.relnamespace::pg_catalog.regnamespace as schema,l.mode from pg_catalog.pg_lock_status() l " +
	"join pg_catalog.pg_class c on c.oid=l.relation where l.pid=pg_catalog.pg_backend_pid() and l.locktype='relation' and l.relation>=16384 " +
	"and l.mode not in ('AccessShareLock','RowShareLock') and c.relnamespace not in (n,99,11) and c.relpersistence<>'t'" // 99: pg_toast, 11: pg_catalog, in which extensions may have tables (Citus writes to its own)

// inPublic selects the dependencies that stand for the objects in the schema public.
const inPublic = "from pg_catalog.pg_depend p where p.refclassid=2615 and p.refobjid='public'::pg_catalog.regnamespace"

// partsInPublic describes what belongs to the tables in public: how many indexes, triggers, constraints and rules, and who
// has which rights.
const partsInPublic = "(select pg_catalog.count(*)::pg_catalog.text from pg_catalog.pg_depend p join pg_catalog.pg_depend q on q.refclassid=1259 and q.refobjid=p.objid " +
	"where p.refclassid=2615 and p.refobjid='public'::pg_catalog.regnamespace and p.classid=1259 and q.deptype in ('a','i'))" +
	"||(select coalesce(pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat(c.relacl,(select pg_catalog.string_agg(a.attacl::pg_catalog.text,'' order by a.attnum)" +
	" from pg_catalog.pg_attribute a where a.attrelid=c.oid and a.attacl is not null)),'' order by c.oid)),'')" +
	" from pg_catalog.pg_depend p join pg_catalog.pg_class c on c.oid=p.objid where p.refclassid=2615 and p.refobjid='public'::pg_catalog.regnamespace and p.classid=1259)"

// watchedCatalogs are those of which hardly a row is a store's: roles and their memberships, databases, tablespaces,
// settings of both, comments and labels of them, foreign data wrappers and servers, user mappings, languages, extensions,
// event triggers, publications, subscriptions, access methods, large objects, parameters' rights; and those in
// storesRows.
const watchedCatalogs = "'{1260,1261,1262,1213,2964,2396,3592,2328,1417,1418,2612,3079,3466,6104,6100,2601,2613,2995,6243,2615,2609,826,1255,3501,2617,3456,3602,3600,3601,3764,2605,2607,2616,2753}'::pg_catalog.oid[]"

// storesRows are catalogs that have rows of stores: the object that a row is about, and which rows are not the store's.
var storesRows = []struct{ catalog, object, found string }{
	{"2615", "2615,x.oid", "pg_catalog.pg_namespace x where x.oid<>n and x.nspname!~'^pg_'"},
	{"2609", "x.classoid,x.objoid", "pg_catalog.pg_description x where (x.classoid=2615 and x.objoid<>n or exists (select from pg_catalog.pg_depend p " +
		"where p.classid=x.classoid and p.objid=x.objoid and p.refclassid=2615 and p.refobjid not in (n,pg_catalog.pg_my_temp_schema())))"},
	{"826", "826,x.oid", "pg_catalog.pg_default_acl x where x.defaclnamespace<>n"},
	{"1255", "1255,x.oid", "pg_catalog.pg_proc x where x.pronamespace not in (n,pg_catalog.pg_my_temp_schema())"},
	{"2617", "2617,x.oid", "pg_catalog.pg_operator x where x.oprnamespace not in (n,pg_catalog.pg_my_temp_schema())"},
	{"3456", "3456,x.oid", "pg_catalog.pg_collation x where x.collnamespace not in (n,pg_catalog.pg_my_temp_schema())"},
	{"3602", "3602,x.oid", "pg_catalog.pg_ts_config x where x.cfgnamespace not in (n,pg_catalog.pg_my_temp_schema())"},
	{"3600", "3600,x.oid", "pg_catalog.pg_ts_dict x where x.dictnamespace not in (n,pg_catalog.pg_my_temp_schema())"},
	{"3601", "3601,x.oid", "pg_catalog.pg_ts_parser x where x.prsnamespace not in (n,pg_catalog.pg_my_temp_schema())"},
	{"3764", "3764,x.oid", "pg_catalog.pg_ts_template x where x.tmplnamespace not in (n,pg_catalog.pg_my_temp_schema())"},
	{"2605", "2605,x.oid", "pg_catalog.pg_cast x where not exists (select from pg_catalog.pg_type t where t.oid in (x.castsource,x.casttarget) and t.typnamespace=n)"},
	{"2607", "2607,x.oid", "pg_catalog.pg_conversion x where x.connamespace not in (n,pg_catalog.pg_my_temp_schema())"},
	{"2616", "2616,x.oid", "pg_catalog.pg_opclass x where x.opcnamespace not in (n,pg_catalog.pg_my_temp_schema())"},
	{"2753", "2753,x.oid", "pg_catalog.pg_opfamily x where x.opfnamespace not in (n,pg_catalog.pg_my_temp_schema())"},
	{"3501", "1247,x.enumtypid", "pg_catalog.pg_enum x join pg_catalog.pg_type t on t.oid=x.enumtypid where t.typnamespace not in (n,pg_catalog.pg_my_temp_schema())"},
}

// changesOf is how many rows of a relation were written since the server's process last told its statistics, which it does
// between transactions.
func changesOf(oid string) string {
	return "(pg_catalog.pg_stat_get_xact_tuples_inserted(" + oid + ")+pg_catalog.pg_stat_get_xact_tuples_updated(" + oid + ")+pg_catalog.pg_stat_get_xact_tuples_deleted(" + oid + "))"
}

// beforeSQL returns the statement that remembers what lookSQL compares with.
func beforeSQL(s backend.Store, head bool) string {
	set := func(name, value string) string {
		return "pg_catalog.set_config('tenement." + name + "'," + value + ",true)"
	}
	written := "''"
	if head {
		written = "(select coalesce(pg_catalog.string_agg(o.rel::pg_catalog.text,','),'') from (select " + literal(quote(s.String())) +
			"::pg_catalog.regnamespace::oid as n) s, lateral (" + lockedOutside + ") o)"
	}
	return "select " + set("before", "(select pg_catalog.count(*)::pg_catalog.text "+inPublic+")") + "," + set("parts", partsInPublic) + "," +
		set("written", written) + "," + set("dropped", "pg_catalog.pg_stat_get_xact_tuples_deleted(2615)::pg_catalog.text") + "," +
		set("changes", "(select pg_catalog.array_agg("+changesOf("w.c")+" order by w.i)::pg_catalog.text from pg_catalog.unnest("+watchedCatalogs+") with ordinality w(c,i))") + ";"
}

// mine is a condition on the xmin of a row: the row was written by the transaction top, or by one of its subtransactions.
// It can be seen, and whoever wrote it is still in progress. (The first condition is the cheap one.)
func mine(xmin, top string) string {
	return "(pg_catalog.age(" + xmin + ")<=pg_catalog.age(" + top + "::pg_catalog.xid) and pg_catalog.pg_xact_status((((" + top + "::pg_catalog.text::int8>>32)<<32)+" +
		xmin + "::pg_catalog.text::int8)::pg_catalog.text::pg_catalog.xid8)='in progress')"
}

// lookBody is the look, of plpgsql. It is the same for all stores but for the first line.
var lookBody = func() string {
	const refuse = "raise exception using errcode='" + codeOutside + "',message="
	const before = "pg_catalog.current_setting('tenement.before',true)::int8"
	its := mine("x.xmin", "top")
	rows := ""
	for _, r := range storesRows {
		if rows += "if w=" + r.catalog + " then select pg_catalog.pg_describe_object(" + r.object + ",0) into found from " + r.found + " and " + its + " limit 1;"; r.catalog == "2615" {
			rows += " if found is null and pg_catalog.pg_stat_get_xact_tuples_deleted(2615)>pg_catalog.current_setting('tenement.dropped',true)::int8 then found:='a schema'; end if;"
		}
		rows += " continue when found is null; els"
	}
	return "if top is null then return; end if; " +
		"for o in " + lockedOutside + " and l.relation::pg_catalog.text<>all(pg_catalog.string_to_array(pg_catalog.current_setting('tenement.written',true),',')) order by c.relkind desc loop " + // tables ahead of their sequences
		// A foreign key that refers to a table locks it as making a trigger does, and its end as dropping one; ANALYZE
		// locks as changing a comment does. What counts is whether the definition has changed.
		"continue when o.mode in ('ShareRowExclusiveLock','ShareUpdateExclusiveLock','AccessExclusiveLock')" +
		" and not exists (select from pg_catalog.pg_class x where o.mode<>'ShareRowExclusiveLock' and x.oid=o.rel and " + its + ")" +
		" and not exists (select from pg_catalog.pg_attribute x where x.attrelid=o.rel and " + its + ")" +
		" and not exists (select from pg_catalog.pg_trigger x where x.tgrelid=o.rel and not x.tgisinternal and " + its + ")" +
		" and not exists (select from pg_catalog.pg_rewrite x where x.ev_class=o.rel and " + its + ")" +
		" and not exists (select from pg_catalog.pg_policy x where x.polrelid=o.rel and " + its + ")" +
		" and not exists (select from pg_catalog.pg_constraint x where x.conrelid=o.rel and " + its + ")" +
		" and not exists (select from pg_catalog.pg_statistic_ext x where x.stxrelid=o.rel and " + its + ")" +
		" and not exists (select from pg_catalog.pg_description x where x.objoid=o.rel and x.classoid=1259 and " + its + "); " +
		refuse + "pg_catalog.format('%s.%I is not in the store',o.schema,o.name),schema=o.schema::pg_catalog.text,table=o.name; end loop; " +
		"select pg_catalog.count(*) as now,pg_catalog.min(case when " + mine("p.xmin", "top") +
		" or p.classid=1255 and exists (select from pg_catalog.pg_proc x where x.oid=p.objid and " + its + ")" +
		" or p.classid=1247 and exists (select from pg_catalog.pg_type x where x.oid=p.objid and " + its + ")" +
		" then pg_catalog.pg_describe_object(p.classid,p.objid,0) end) as made into o " + inPublic + "; " +
		"if o.made is not null then " + refuse + "o.made||', made or changed in the schema public, is not in the store'; end if; " +
		"for w in select g.c from pg_catalog.unnest(" + watchedCatalogs + ") with ordinality g(c,i) where " + changesOf("g.c") +
		">coalesce((pg_catalog.current_setting('tenement.changes',true)::int8[])[g.i],0) order by g.c=2609 loop found:=null; " + rows +
		"e begin execute pg_catalog.format('select pg_catalog.pg_describe_object(%s,x.oid,0) from %s x where " + strings.ReplaceAll(mine("x.xmin", "$1"), "'", "''") +
		" limit 1',case w when 2995 then 2613 else w end,w::pg_catalog.regclass) using top into found; exception when insufficient_privilege or undefined_column then found:=null; end; end if; " +
		refuse + "coalesce(found,'what '||w::pg_catalog.regclass||' lists')||' is the whole database''s, or another store''s, and not in the store'; end loop; " +
		"if o.now<" + before + " or " + partsInPublic + "<>pg_catalog.current_setting('tenement.parts',true) then " +
		refuse + "'what was dropped from the schema public, or from a table in it, or rights there, are not in the store'; end if; "
}()

// lookSQL returns the statements that fail (codeOutside) when the transaction did something outside of the store.
func lookSQL(s backend.Store) string {
	// Deferred triggers have their turn first: they do what they do in this transaction.
	return "set constraints all immediate;set local search_path=pg_catalog,pg_temp;do $look$ declare top xid8:=pg_catalog.pg_current_xact_id_if_assigned(); " +
		"n oid:=" + literal(quote(s.String())) + "::pg_catalog.regnamespace; o record; w oid; found text; begin " + lookBody + "end $look$;"
}

// outside reports whether err says that a transaction of the tenant set did something outside of its store.
func outside(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == codeOutside
}

// watchedSession is the session of a Maintenance handle: its transactions are looked at before they commit, and a statement
// outside of one gets one.
type watchedSession struct {
	*session
	watching bool // a transaction of its own or the caller's is open
}

// plain reports whether a statement is run as it is: it belongs to a transaction already, or is itself a BEGIN or COMMIT.
func (w *watchedSession) plain(query string) bool {
	return w.watching || w.inTx || !w.c.idle() || classify(query)&control != 0
}

// watch returns the session that looks, for upkeep.
func (s *session) watch(access driver.Access) driver.Session {
	if access == driver.AccessMaintenance {
		return &watchedSession{session: s}
	}
	return s
}

// inTransaction runs a statement, in a transaction of its own where it needs one and may have one: that is returned open.
func inTransaction[R any](ctx context.Context, w *watchedSession, query string, run func() (R, error)) (result R, tx sqldriver.Tx, err error) {
	switch {
	case w.watching && classify(query)&commits != 0:
		if err = w.look(ctx); err != nil {
			return result, nil, err
		}
		fallthrough
	case w.plain(query):
		result, err = run()
		return result, nil, err
	}
	if tx, err = w.BeginTx(ctx, sqldriver.TxOptions{}); err != nil {
		return result, nil, err
	}
	if result, err = run(); err == nil {
		return result, tx, nil
	}
	if _ = tx.Rollback(); noTransaction(err) {
		result, err = run()
	}
	return result, nil, err
}

func (w *watchedSession) ExecContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	result, tx, err := inTransaction(ctx, w, query, func() (sqldriver.Result, error) { return w.session.ExecContext(ctx, query, args) })
	if tx != nil {
		err = tx.Commit()
	}
	return result, err
}

func (w *watchedSession) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	rows, tx, err := inTransaction(ctx, w, query, func() (sqldriver.Rows, error) { return w.session.QueryContext(ctx, query, args) })
	if tx != nil {
		return &watchedRows{Rows: rows, tx: tx}, nil
	}
	return rows, err
}

// noTransaction reports whether a statement refuses to run in a transaction, or would have ended it.
func noTransaction(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && (pe.Code == "25001" || pe.Code == "2D000") || errors.Is(err, errOwnTx)
}

func (w *watchedSession) BeginTx(ctx context.Context, opts sqldriver.TxOptions) (sqldriver.Tx, error) {
	tx, err := w.session.BeginTx(ctx, opts)
	if err != nil || opts.ReadOnly || driver.IsOwn(ctx) && w.c.be.roles.mode != rolesOff {
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
	if !w.over() {
		if err := w.look(t.ctx); err != nil {
			_ = t.Tx.Rollback()
			return err
		}
	}
	return t.Tx.Commit()
}

// look looks at what the transaction did; it fails with it when that was outside of the store.
func (w *watchedSession) look(ctx context.Context) error {
	err := w.c.texts(ctx, lookSQL(w.c.unit.rt.Store), nil)
	switch {
	case err == nil:
		return nil
	case outside(err):
		return readOnlyFault("commit", w.c.unit.rt.Store, err)
	}
	return w.fault("commit", err)
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
