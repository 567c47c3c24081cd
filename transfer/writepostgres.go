package transfer

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// postgresWriter writes into a store of Postgres in one transaction, by COPY.
//
// It works with the rights of the tables' owner, who is no superuser. Triggers of users it disables (ALTER TABLE … DISABLE
// TRIGGER USER: the owner may), and rules on INSERT, which COPY passes over and a clone's INSERT … SELECT would run.
// Triggers of foreign keys only a superuser may disable, and session_replication_role is a superuser's too: so foreign keys
// are dropped, and added again once all rows are there, which checks them, cycles among them, by one query each. To make
// them deferrable for that time instead would keep the OIDs, and cost a trigger per row. Row level security that is forced
// on the owner is lifted. All of it is in the one transaction, so nobody sees it, and it is undone when that fails. Unique,
// exclusion and check constraints hold at each moment: in the order of no row can they fail that held together where the
// rows come from.
type postgresWriter struct {
	conn    *sql.Conn
	tx      *sql.Tx
	present present
	redo    []string // what puts back what was taken away
	series  []Sequence
}

var _ writer = (*postgresWriter)(nil)

// present says what a schema has of what is asked for by a question of its own: planning one takes the server longer than
// the COPY of a small table, and most schemas have nothing of it.
type present struct {
	triggers  bool // of users or of foreign keys, on either side (relhastriggers), now or once
	rules     bool // of tables, now or once
	forced    bool // row level security that is forced on the owner
	views     bool // materialized ones, with rows
	sequences bool // of the tables, or of none
	minimal   bool // the server's log has no more than it takes to recover (wal_level)
}

func (p *present) ask(ctx context.Context, q querier, list []Table) error {
	names := make([]string, len(list))
	for i, t := range list {
		names[i] = sqltext.Quote(t.Name)
	}
	return q.QueryRowContext(ctx, `SELECT COALESCE(bool_or(c.relhastriggers), false), COALESCE(bool_or(c.relhasrules AND c.relkind IN ('r', 'p')), false),
			COALESCE(bool_or(c.relforcerowsecurity), false),
			COALESCE(bool_or(c.relkind = 'm' AND c.relispopulated), false),
			COALESCE(bool_or(c.relkind = 'S' AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
				AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0 AND d.refobjid <> ALL ($1::text[]::regclass[]))), false),
			current_setting('wal_level') = 'minimal'
		FROM pg_catalog.pg_class c WHERE c.oid = ANY (`+relationsHere+`)`, names).Scan(&p.triggers, &p.rules, &p.forced, &p.views, &p.sequences, &p.minimal)
}

// takeAway are queries for pairs of statements: what takes something out of the way, and what puts it back, and the table
// that it is of.
var takeAway = []struct {
	where func(p present) bool // there may be any
	query string
}{
	// Those of partitions come and go with their parents'. Those to shared tables stay: to drop one locks the table that it
	// refers to against everybody until the end (RemoveTriggerById), and what they refer to is there before the first row.
	{func(p present) bool { return p.triggers }, `SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname),
		format('ALTER TABLE %s ADD CONSTRAINT %I %s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid)) ||
			COALESCE(format('; COMMENT ON CONSTRAINT %I ON %s IS %L', k.conname, k.conrelid::regclass, obj_description(k.oid, 'pg_constraint')), ''), c.relname
	FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_class f ON f.oid = k.confrelid
	WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY (` + relationsHere + `)
		AND f.relnamespace = c.relnamespace ORDER BY k.oid`},
	{func(p present) bool { return p.triggers }, `SELECT format('ALTER TABLE %s DISABLE TRIGGER %I', t.tgrelid::regclass, t.tgname),
		format('ALTER TABLE %s %s TRIGGER %I', t.tgrelid::regclass,
			CASE t.tgenabled WHEN 'O' THEN 'ENABLE' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' END, t.tgname), c.relname
	FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
	WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgrelid = ANY (` + relationsHere + `) ORDER BY t.oid`},
	{func(p present) bool { return p.rules }, `SELECT format('ALTER TABLE %s DISABLE RULE %I', r.ev_class::regclass, r.rulename),
		format('ALTER TABLE %s %s RULE %I', r.ev_class::regclass,
			CASE r.ev_enabled WHEN 'O' THEN 'ENABLE' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' END, r.rulename), c.relname
	FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
	WHERE r.ev_type = '3' AND r.ev_enabled <> 'D' AND c.relkind IN ('r', 'p') AND r.ev_class = ANY (` + relationsHere + `) ORDER BY r.oid`},
	{func(p present) bool { return p.forced }, `SELECT format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', c.oid::regclass), format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', c.oid::regclass), c.relname
	FROM pg_catalog.pg_class c WHERE c.relforcerowsecurity AND c.oid = ANY (` + relationsHere + `) ORDER BY c.oid`},
}

// openPostgresWriter empties the tables of a store, and takes away what is in the way; in the shared
// store what is the library's stays.
func openPostgresWriter(ctx context.Context, conn *sql.Conn, tx *sql.Tx, list []Table, shared bool) (*postgresWriter, error) {
	w := &postgresWriter{conn: conn, tx: tx}
	if err := w.present.ask(ctx, tx, list); err != nil {
		return nil, err
	}
	var do []string
	for _, away := range takeAway {
		if !away.where(w.present) {
			continue
		}
		err := each(ctx, tx, away.query, nil, func(scan func(...any) error) error {
			var away, back, table string
			err := scan(&away, &back, &table)
			if !shared || !isOwn(table) {
				do, w.redo = append(do, away), append(w.redo, back)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if w.present.triggers {
		// What the keys that stay defer would be in the way of putting back what was taken away: a table for which a check
		// is pending cannot be changed.
		do = append(do, "SET CONSTRAINTS ALL IMMEDIATE")
	}
	if err := w.run(ctx, do); err != nil {
		return nil, err
	}
	if err := w.empty(ctx, list); err != nil {
		return nil, err
	}
	if !w.present.sequences {
		return w, nil
	}
	var err error
	w.series, err = sequencesHere(ctx, tx)
	// The numbers of a version table are the migrator's, as its rows are: it may be at work in the new store already.
	w.series = slices.DeleteFunc(w.series, func(s Sequence) bool {
		return s.Table != "" && !slices.ContainsFunc(list, func(t Table) bool { return t.Name == s.Table })
	})
	return w, err
}

// empty truncates the tables that have rows. To truncate one that has none gives it and its indexes new files, which costs
// more than to look.
func (w *postgresWriter) empty(ctx context.Context, list []Table) error {
	if len(list) == 0 {
		return nil
	}
	asked := make([]string, len(list))
	for i, t := range list {
		asked[i] = "EXISTS (SELECT FROM " + sqltext.Quote(t.Name) + ")"
	}
	var full []string
	err := each(ctx, w.tx, "SELECT i FROM unnest(ARRAY["+strings.Join(asked, ", ")+"]) WITH ORDINALITY u (rows, i) WHERE rows", nil, func(scan func(...any) error) error {
		var i int
		err := scan(&i)
		full = append(full, sqltext.Quote(list[i-1].Name))
		return err
	})
	if err != nil || len(full) == 0 {
		return err
	}
	return w.run(ctx, []string{"TRUNCATE " + strings.Join(full, ", ")})
}

func (w *postgresWriter) run(ctx context.Context, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	_, err := w.tx.ExecContext(ctx, strings.Join(statements, ";\n"))
	return err
}

// finish puts back what was taken away, and has materialized views see the rows.
func (w *postgresWriter) finish(ctx context.Context) error {
	if !w.present.views {
		return w.run(ctx, w.redo)
	}
	err := each(ctx, w.tx, `SELECT format('REFRESH MATERIALIZED VIEW %s', c.oid::regclass) FROM pg_catalog.pg_class c
		WHERE c.relkind = 'm' AND c.relispopulated AND c.oid = ANY (`+relationsHere+`) ORDER BY c.oid`, nil,
		func(scan func(...any) error) error {
			var refresh string
			err := scan(&refresh)
			w.redo = append(w.redo, refresh)
			return err
		})
	if err != nil {
		return err
	}
	return w.run(ctx, w.redo)
}

// copyBuffer is how much is sent at once.
const copyBuffer = 64 << 10

func (w *postgresWriter) fill(ctx context.Context, table string, columns []Column, produce func(put func(row []any) error) error) error {
	pr, pw := io.Pipe()
	kinds := types(columns)
	var mine error
	done := make(chan struct{})
	go func() {
		defer close(done)
		out := bufio.NewWriterSize(pw, copyBuffer)
		var line []byte
		mine = produce(func(row []any) (err error) {
			if line, err = appendCopy(line[:0], kinds, row); err == nil {
				_, err = out.Write(line)
			}
			return err
		})
		if mine == nil {
			mine = out.Flush()
		}
		pw.CloseWithError(mine)
	}()
	err := withCopier(w.conn, func(c driver.Copier) error {
		_, err := c.CopyIn(ctx, pr, "COPY "+sqltext.Quote(table)+" ("+quoted(columns, "")+") FROM STDIN")
		return err
	})
	pr.CloseWithError(errStopped)
	<-done
	if mine != nil && !stopped(mine) {
		return mine
	}
	return err
}

// errStopped: nobody reads any more what is produced.
var errStopped = errors.New("the copy has ended")

// stopped: the fault is the reader's, who has an error of its own.
func stopped(err error) bool { return errors.Is(err, errStopped) || errors.Is(err, io.ErrClosedPipe) }

// sequence has the sequence of that name, or the one that the column has, or the table's only one, go on. A number below
// the first, such as the 0 of an AUTOINCREMENT that has given out none, leaves it as it is.
func (w *postgresWriter) sequence(ctx context.Context, s Sequence) error {
	to, ok := w.sequenceFor(s)
	if !ok {
		return nil
	}
	_, err := w.tx.ExecContext(ctx, `SELECT setval($1::regclass, $2, $3) FROM pg_catalog.pg_sequence WHERE seqrelid = $1::regclass AND seqmin <= $2`, sqltext.Quote(to.Name), s.Last, s.Called)
	return err
}

func (w *postgresWriter) sequenceFor(s Sequence) (to Sequence, ok bool) {
	if s.Name != "" {
		for _, to := range w.series {
			if to.Name == s.Name {
				return to, true
			}
		}
	}
	n := 0
	for _, own := range w.series {
		if own.Table != "" && strings.EqualFold(own.Table, s.Table) && (s.Column == "" || strings.EqualFold(own.Column, s.Column)) {
			to = own
			n++
		}
	}
	return to, n == 1
}

// catchUp has each sequence that is a column's go on behind the highest number that is there. It is for rows that come
// from SQLite, where a column may count without anything that remembers.
func (w *postgresWriter) catchUp(ctx context.Context) error {
	for _, s := range w.series {
		if s.Table == "" {
			continue
		}
		_, err := w.tx.ExecContext(ctx, `SELECT setval($1::regclass, m.top) FROM (SELECT max(`+sqltext.Quote(s.Column)+`) AS top FROM `+sqltext.Quote(s.Table)+`) m, `+
			sqltext.Quote(s.Name)+` s WHERE m.top > 0 AND m.top > CASE WHEN s.is_called THEN s.last_value ELSE s.last_value - 1 END`, sqltext.Quote(s.Name))
		if err != nil {
			return err
		}
	}
	return nil
}
