package transfer

import (
	"context"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// indexesAside is from which size on, in bytes, a table is filled ahead of its indexes: to sort its rows once takes less time
// and a third of the log of what putting them in one by one does, and costs a change of the catalog.
const indexesAside = 4 << 20

// asideQuery finds the indexes of a table that can be dropped and made again as they were, with what drops them and what
// makes them: not those that something else depends on (a view that groups by the primary key, a foreign key from
// another schema), nor those of which their definition does not say all.
const asideQuery = `SELECT CASE WHEN k.oid IS NULL THEN format('DROP INDEX %s', x.oid::regclass)
			ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname) END,
		CASE WHEN k.oid IS NULL THEN pg_get_indexdef(x.oid)
			ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid)) END ||
		COALESCE('; COMMENT ON INDEX ' || x.oid::regclass || ' IS ' || quote_literal(obj_description(x.oid, 'pg_class')), '') ||
		COALESCE('; COMMENT ON CONSTRAINT ' || quote_ident(k.conname) || ' ON ' || k.conrelid::regclass || ' IS ' ||
			quote_literal(obj_description(k.oid, 'pg_constraint')), '')
	FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
	LEFT JOIN pg_catalog.pg_constraint k ON k.conrelid = i.indrelid AND k.conindid = x.oid AND k.contype IN ('p', 'u', 'x')
	WHERE i.indrelid = $1::regclass AND pg_relation_size($2::regclass) >= $3 AND x.relkind = 'i' AND NOT x.relispartition
		AND i.indisvalid AND NOT i.indisclustered AND NOT i.indisreplident
		AND x.reltablespace = 0 AND (k.oid IS NULL OR k.contype IN ('p', 'u') AND x.reloptions IS NULL)
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = x.oid AND a.attstattarget >= 0)
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = x.oid)
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_constraint'::regclass AND d.refobjid = k.oid
			AND (d.classid, d.objid) <> ('pg_class'::regclass, x.oid))
	ORDER BY x.oid`

// withoutIndexes calls fill, which fills a table with the rows of source; of a big one the indexes are made afterwards. It is
// for a table that nobody else sees.
func (w *postgresWriter) withoutIndexes(ctx context.Context, table, source string, fill func() error) error {
	var drop, redo []string
	err := each(ctx, w.tx, asideQuery, []any{sqltext.Quote(table), source, indexesAside}, func(scan func(...any) error) error {
		var away, back string
		err := scan(&away, &back)
		drop, redo = append(drop, away), append(redo, back)
		return err
	})
	if err == nil {
		err = w.run(ctx, drop)
	}
	if err == nil {
		err = fill()
	}
	if err == nil {
		err = w.run(ctx, redo)
	}
	return err
}
