package main

import (
	"fmt"
	"hash/fnv"
	"testing/fstest"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// A row says whose it is. The shared store has a table of the same name, with one row, so that a statement that falls
// through to it is seen.
const (
	sharedMark = "shared"

	sqlTables = `-- +goose Up
CREATE TABLE entries (write_id BIGINT NOT NULL, part INTEGER NOT NULL, mark TEXT NOT NULL);
CREATE INDEX entries_write ON entries (write_id);
`
	sqlShared = sqlTables + `INSERT INTO entries (write_id, part, mark) VALUES (-1, 0, '` + sharedMark + `');
`
	// What a migration did is done once only if there is one row for it.
	sqlMigrated = `CREATE TABLE migrated (version INTEGER NOT NULL);
`
)

// newest is the version to which the last fleet migration brings the stores; servers carry version 1.
const newest = 6

// sources returns the sets of a binary that is at a version.
func sources(version int) (shared, tenant []migrate.Source) {
	files := fstest.MapFS{"00001_entries.sql": {Data: []byte(sqlTables + sqlMigrated)}}
	for v := 2; v <= version; v++ {
		add := func(suffix, text string) {
			files[fmt.Sprintf("%05d_step%s.sql", v, suffix)] = &fstest.MapFile{Data: []byte(text)}
		}
		up := "-- +goose Up\n"
		column := fmt.Sprintf("%sALTER TABLE entries ADD COLUMN c%d INTEGER;\nINSERT INTO migrated (version) VALUES (%d);\n", up, v, v)
		switch v {
		case 2, 6: // nothing but the version table keeps it from being done twice
			add("", fmt.Sprintf("%sINSERT INTO migrated (version) VALUES (%d);\n", up, v))
		case 3: // outside of a transaction
			add(".postgres", fmt.Sprintf("-- +goose NO TRANSACTION\n%sCREATE INDEX CONCURRENTLY IF NOT EXISTS entries_c%d ON entries (mark);\n", up, v))
			add(".sqlite", fmt.Sprintf("-- +goose NO TRANSACTION\n%sCREATE INDEX IF NOT EXISTS entries_c%d ON entries (mark);\n", up, v))
		case 4: // fails where there is a poisoned row, until it is taken away
			add("", fmt.Sprintf("%sINSERT INTO entries (write_id, part, mark) SELECT 0, 0, NULL FROM entries WHERE write_id = %d;\nINSERT INTO migrated (version) VALUES (%d);\n",
				up, poison, v))
		default:
			add("", column)
		}
	}
	return []migrate.Source{{Name: "shared", FS: fstest.MapFS{"00001_entries.sql": {Data: []byte(sqlShared)}}}},
		[]migrate.Source{{Name: "storm", FS: files}}
}

// poison is the write_id of the row that makes a migration fail.
const poison = -7

// poisoned reports whether a tenant is one of the 50 of which one has that row.
func poisoned(id tenancy.ID) bool {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return h.Sum32()%50 == 0
}

func isPostgres(be backend.Backend) bool { return be.Dialect() == backend.Postgres }
