package transfer

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// rewrittenQuery finds a table, or a partition of one, that is no longer what the transaction's snapshot has of it. The catalogs
// as rows are as of the snapshot; pg_relation_filenode, pg_partition_root and pg_identify_object_as_address look at them as they
// are now. Name and number of each column are compared, since one of another number is another column.
var rewrittenQuery = `WITH RECURSIVE here AS (SELECT COALESCE($1::text, current_schema()::text) AS name), seen AS (
		SELECT t.name, c.oid, c.relname, c.relfilenode, CASE c.relkind WHEN 'p' THEN c.oid END AS root, false AS part
		FROM unnest($2::text[]) t (name) LEFT JOIN pg_catalog.pg_class c ON c.relname = t.name AND c.oid = ANY (` +
	sqltext.InSchema("pg_class", "(SELECT quote_ident(h.name)::regnamespace FROM here h)") + `)
		UNION ALL
		SELECT s.name, c.oid, c.relname, c.relfilenode, s.root, true
		FROM seen s JOIN pg_catalog.pg_inherits i ON i.inhparent = s.oid JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition)
	SELECT s.name FROM seen s, here h
	WHERE s.oid IS NULL OR pg_relation_filenode(s.oid) IS DISTINCT FROM NULLIF(s.relfilenode, 0) OR pg_partition_root(s.oid) IS DISTINCT FROM s.root
		OR NOT s.part AND EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = s.oid AND a.attnum > 0 AND NOT a.attisdropped
			AND (pg_identify_object_as_address('pg_class'::regclass, s.oid, a.attnum)).object_names IS DISTINCT FROM ARRAY[h.name, s.relname, a.attname]::text[])
	LIMIT 1`

// unrewritten returns ErrMigrated when a table that the transaction has read, and so has locked, was not covered by its
// snapshot: what gives it another file (TRUNCATE, most of ALTER TABLE) or puts another in its place leaves an older snapshot
// none of its rows, or none of a column's values, without an error. schema is nil for the one that comes first in the path.
// To lock all tables ahead, as pg_dump does, would have migrations wait for the whole time, and leave a gap all the same.
func unrewritten(ctx context.Context, q querier, schema *string, tables []string) error {
	if len(tables) == 0 {
		return nil
	}
	var name string
	switch err := q.QueryRowContext(ctx, rewrittenQuery, schema, tables).Scan(&name); err {
	case sql.ErrNoRows:
		return nil
	case nil:
		return fmt.Errorf("%w (table %s)", ErrMigrated, name)
	default:
		return err
	}
}
