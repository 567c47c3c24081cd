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

// newest is the version to which the last fleet migration brings the stores; servers carry version 1. There are as many as a
// long storm has fleet migrations.
const newest = 60

const (
	indexVersion  = 3 // makes an index, outside of a transaction
	poisonVersion = 4 // fails where there is a poisoned row, until that is taken away
	indexName     = "entries_c3"
)

// addsColumn reports whether a migration adds a column, c and its number, to entries.
func addsColumn(version int) bool { return version > poisonVersion && version%2 == 1 }

// leavesRow reports whether a migration leaves a row in migrated. The first makes that table, and what is not in a transaction
// may be done again.
func leavesRow(version int) bool { return version > 1 && version != indexVersion }

// sqlIndex counts the indexes of the name that can be used.
var sqlIndex = map[backend.Dialect]string{
	backend.SQLite:   `SELECT count(*) FROM sqlite_master WHERE type = 'index' AND name = '` + indexName + `'`,
	backend.Postgres: `SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('` + indexName + `') AND indisvalid`,
}

// sources returns the sets of a binary that is at a version.
func sources(version int) (shared, tenant []migrate.Source) {
	files := fstest.MapFS{"00001_entries.sql": {Data: []byte(sqlTables + sqlMigrated)}}
	for v := 2; v <= version; v++ {
		add := func(suffix, text string) {
			files[fmt.Sprintf("%05d_step%s.sql", v, suffix)] = &fstest.MapFile{Data: []byte(text)}
		}
		up, row := "-- +goose Up\n", fmt.Sprintf("INSERT INTO migrated (version) VALUES (%d);\n", v)
		switch {
		case v == indexVersion:
			add(".postgres", "-- +goose NO TRANSACTION\n"+up+"CREATE INDEX CONCURRENTLY IF NOT EXISTS "+indexName+" ON entries (mark);\n")
			add(".sqlite", "-- +goose NO TRANSACTION\n"+up+"CREATE INDEX IF NOT EXISTS "+indexName+" ON entries (mark);\n")
		case v == poisonVersion:
			add("", fmt.Sprintf("%sINSERT INTO entries (write_id, part, mark) SELECT 0, 0, NULL FROM entries WHERE write_id = %d;\n%s", up, poison, row))
		case addsColumn(v):
			add("", fmt.Sprintf("%sALTER TABLE entries ADD COLUMN c%d INTEGER;\n%s", up, v, row))
		default: // nothing but the version table keeps it from being done twice
			add("", up+row)
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
