package transfer

import (
	"context"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// largeTable is from which size on, in bytes, a table is filled ahead of its indexes: to sort its rows once takes less time
// and a third of the log of what putting them in one by one does, and costs a change of the catalog.
const largeTable = 4 << 20

// largeTables returns which of the tables are that large. The names are quoted, with their schemas.
func largeTables(ctx context.Context, q querier, names []string) (large map[string]bool, err error) {
	large = map[string]bool{}
	err = each(ctx, q, `SELECT name FROM unnest($1::text[]) t (name) WHERE pg_relation_size(name::regclass) >= $2`, []any{names, largeTable},
		func(scan func(...any) error) error {
			var name string
			err := scan(&name)
			large[name] = true
			return err
		})
	return large, err
}

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
	WHERE i.indrelid = $1::regclass AND x.relkind = 'i' AND NOT x.relispartition
		AND i.indisvalid AND NOT i.indisclustered AND NOT i.indisreplident
		AND x.reltablespace = 0 AND (k.oid IS NULL OR k.contype IN ('p', 'u') AND x.reloptions IS NULL)
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = x.oid AND a.attstattarget >= 0)
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = x.oid)
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_constraint'::regclass AND d.refobjid = k.oid
			AND (d.classid, d.objid) <> ('pg_class'::regclass, x.oid))
	ORDER BY x.oid`

// fillLarge calls fill, which fills a large table, empty and seen by nobody else; what indexes it has are made afterwards. Of
// a file that the transaction itself has made, as TRUNCATE makes one, a server with wal_level=minimal writes no log, but has
// it on the disk by the commit (RelationNeedsWAL in rel.h, smgrDoPendingSyncs in storage.c): half of what the rows take.
// With the log that replicas and backups are made from, which it writes all the same, to make one would be for nothing.
func (w *postgresWriter) fillLarge(ctx context.Context, table string, fill func() error) error {
	var before, after []string
	err := each(ctx, w.tx, asideQuery, []any{sqltext.Quote(table)}, func(scan func(...any) error) error {
		var away, back string
		err := scan(&away, &back)
		before, after = append(before, away), append(after, back)
		return err
	})
	if err != nil {
		return err
	}
	if w.present.minimal {
		before = append(before, "TRUNCATE ONLY "+sqltext.Quote(table))
	}
	if err := w.run(ctx, before); err != nil {
		return err
	}
	if err := fill(); err != nil {
		return err
	}
	return w.run(ctx, after)
}
