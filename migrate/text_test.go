package migrate

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tenement-go/tenement/internal/sqltext"
)

func TestReadPostgres(t *testing.T) {
	t.Parallel()
	text, goose := reading{asText: true}, reading{}
	calm := func(text string, indexes ...string) reading { return reading{calm: text, indexes: indexes} }
	sets := func(names ...string) reading { return reading{asText: true, restore: names} }
	path := func(at int) reading { return reading{searchPath: true, at: at} }
	for statement, want := range map[string]reading{
		"CREATE TABLE a (x INT);": text,
		"INSERT INTO a VALUES (';', $$ ; $$, E'\\';'); UPDATE a SET x = 1;":                   text,
		"/* first */ -- second\nALTER TABLE a ADD COLUMN y INT;":                              text,
		"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END;":               text,
		"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1;":                              goose,
		"CREATE FUNCTION f() RETURNS void AS $$ BEGIN":                                        goose,
		"CREATE FUNCTION f() RETURNS int SET search_path = x AS $$ SELECT 1 $$ LANGUAGE sql;": text,
		"SELECT temp FROM readings;":                                                          text,
		"CREATE TEMP TABLE a (x INT);":                                                        goose,
		"SELECT 1 INTO TEMPORARY b;":                                                          goose,
		"CREATE TABLE pg_temp.a (x INT);":                                                     goose,
		"VACUUM a;":                                                                           goose,
		"COMMIT;":                                                                             goose,
		"LISTEN x;":                                                                           goose,
		"(SELECT 1);":                                                                         goose,
		// What is set for the transaction alone is set back; see fault 18.
		"SET LOCAL lock_timeout = '1s';":                 sets("lock_timeout"),
		"set local statement_timeout to 0;":              sets("statement_timeout"),
		"SET LOCAL app.user_id = '7';":                   sets("app.user_id"),
		"SET LOCAL lock_timeout = '1s'; DROP TABLE a;":   sets("lock_timeout"),
		"SET lock_timeout = '1s';":                       goose,
		"SET SESSION lock_timeout = '1s';":               goose,
		"SET LOCAL ROLE postgres;":                       goose,
		"SET LOCAL role = postgres;":                     goose,
		"SET LOCAL SESSION AUTHORIZATION x;":             goose,
		"SET LOCAL TIME ZONE 'UTC';":                     goose,
		"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;":  goose,
		"SET CONSTRAINTS ALL DEFERRED;":                  goose,
		"SELECT set_config('lock_timeout', '1s', true);": goose,
		"ALTER ROLE x SET search_path = y;":              goose,
		// What would hide goose's version table.
		"SET search_path = x;":                                    path(0),
		"SET LOCAL search_path TO x, public;":                     path(0),
		"SET SCHEMA 'x';":                                         path(0),
		"SELECT pg_catalog.set_config('search_path', '', false);": path(18),
		// What need not be concurrent where nobody is; see fault 13.
		"CREATE INDEX CONCURRENTLY a_x ON a (x);":                            calm("CREATE INDEX  a_x ON a (x);", "a_x"),
		"create unique index concurrently if not exists \"A x\" on a (x);":   calm("create unique index  if not exists \"A x\" on a (x);", "A x"),
		"CREATE INDEX CONCURRENTLY ON a (x);":                                calm("CREATE INDEX  ON a (x);"),
		"DROP INDEX CONCURRENTLY a_x;":                                       calm("DROP INDEX  a_x;"),
		"DROP INDEX CONCURRENTLY a_x; CREATE INDEX CONCURRENTLY b ON a (y);": calm("DROP INDEX  a_x; CREATE INDEX  b ON a (y);", "b"),
		"REINDEX INDEX CONCURRENTLY a_x;":                                    goose,
		"REFRESH MATERIALIZED VIEW CONCURRENTLY v;":                          goose,
		"CREATE INDEX CONCURRENTLY a_x ON a (x); VACUUM a;":                  {indexes: []string{"a_x"}},
		"CREATE EXTENSION IF NOT EXISTS pgcrypto;":                           {asText: true, extension: true},
		"INSERT INTO a VALUES (gen_random_uuid());":                          {asText: true, random: true},
	} {
		assert.Equal(t, want, read(sqltext.Postgres, statement), statement)
	}
}

func TestReadSQLite(t *testing.T) {
	t.Parallel()
	for statement, want := range map[string]bool{
		"CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; DELETE FROM c; END;": true,
		"CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b;":                     false,
		"DELETE FROM c;":             true,
		"END;":                       false,
		"PRAGMA user_version = 1;":   false,
		"ATTACH 'x' AS y;":           false,
		"REPLACE INTO a VALUES (1);": true,
		"CREATE TEMP TABLE a (x);":   false,
	} {
		assert.Equal(t, want, read(sqltext.SQLite, statement).asText, statement)
	}
}
