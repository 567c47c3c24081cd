package migrate

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
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
		"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1;":                              {cut: true},
		"CREATE FUNCTION f() RETURNS void AS $$ BEGIN":                                        {cut: true},
		"CREATE FUNCTION f() RETURNS int SET search_path = x AS $$ SELECT 1 $$ LANGUAGE sql;": text,
		"SELECT temp FROM readings;":                                                          text,
		"CREATE TEMP TABLE a (x INT);":                                                        goose,
		"SELECT 1 INTO TEMPORARY b;":                                                          goose,
		"CREATE TABLE pg_temp.a (x INT);":                                                     goose,
		"VACUUM a;":                                                                           goose,
		"COMMIT;":                                                                             {controls: []control{{verb: ends}}},
		"LISTEN x;":                                                                           goose,
		"(SELECT 1);":                                                                         goose,
		// What is set for the transaction alone is set back; see fault 18.
		"SET LOCAL lock_timeout = '1s';":                 sets("lock_timeout"),
		"set local statement_timeout to 0;":              sets("statement_timeout"),
		"SET LOCAL app.user_id = '7';":                   sets("app.user_id"),
		"SET LOCAL lock_timeout = '1s'; DROP TABLE a;":   sets("lock_timeout"),
		"SET lock_timeout = '1s';":                       goose,
		"SET SESSION lock_timeout = '1s';":               goose,
		"SET LOCAL ROLE postgres;":                       {role: true},
		"SET LOCAL role = postgres;":                     {role: true},
		"SET LOCAL SESSION AUTHORIZATION x;":             {role: true},
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

// Of which statements nothing stays when they fail.
func TestFailsWhole(t *testing.T) {
	t.Parallel()
	for statement, want := range map[string]bool{
		"INSERT INTO a VALUES (';');":                   true,
		"/* first */ VACUUM;":                           true,
		"DELETE FROM a; DELETE FROM b;":                 false,
		"-- first\ndo $$ BEGIN NULL; END $$;":           false,
		"CALL step();":                                  false,
		"CREATE INDEX CONCURRENTLY ON a (x);":           false,
		"DROP INDEX CONCURRENTLY a_x;":                  true,
		"ALTER TABLE a DETACH PARTITION b CONCURRENTLY": false,
		"SELECT 'concurrently'":                         true,
		"CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; DELETE FROM c; END;": true,
	} {
		d := sqltext.Postgres
		if strings.Contains(statement, "TRIGGER") {
			d = sqltext.SQLite
		}
		assert.Equal(t, want, failsWhole(d, statement), statement)
	}
}

// What a direction of a file is refused for, by line, alone and behind a transaction of goose's.
func TestCheck(t *testing.T) {
	t.Parallel()
	const none = 0
	both := []backend.Dialect{backend.SQLite, backend.Postgres}
	for _, c := range []struct {
		dialects []backend.Dialect
		text     string
		in, out  int // the line of the fault in a file with a transaction of goose's, and in one without
	}{
		{both, "BEGIN;\nINSERT INTO a VALUES (1);\nCOMMIT;", 1, none},
		{both, "SELECT 1;\n/* x */ begin TRANSACTION;\nINSERT INTO a VALUES (1);", 2, 2},
		{both, "BEGIN;\nCOMMIT;\n-- BEGIN;\nBEGIN;\nSELECT 1;", 1, 4},
		{both, "COMMIT; UPDATE plans SET x = 1; BEGIN;", 1, 1},
		{both, "SELECT 1;\nROLLBACK;", 2, none},
		{both, "END;", 1, none},
		{both, "SELECT CASE WHEN x THEN 1 END FROM a;", none, none},
		{both, "-- +goose StatementBegin\nSELECT 1;\nBEGIN;\nSELECT 2;\n-- +goose StatementEnd", 3, 3},
		{both, "BEGIN;\nSAVEPOINT s;\nCOMMIT;", 1, none},
		{both, "BEGIN;\nSAVEPOINT s;\nRELEASE SAVEPOINT s;", 1, 1},
		{[]backend.Dialect{backend.SQLite}, "SAVEPOINT s;\nINSERT INTO a VALUES (1);", none, 1},
		{[]backend.Dialect{backend.SQLite}, "SAVEPOINT s;\nSAVEPOINT b;\nROLLBACK TO s;\nRELEASE 'S';", none, none},
		{[]backend.Dialect{backend.SQLite}, "SAVEPOINT s;\nSAVEPOINT b;\nRELEASE b;", none, 1},
		{[]backend.Dialect{backend.SQLite}, "-- +goose StatementBegin\nCREATE TRIGGER t AFTER INSERT ON a BEGIN\nDELETE FROM b;\nEND;\n-- +goose StatementEnd", none, none},
		{[]backend.Dialect{backend.SQLite}, "CREATE TRIGGER t AFTER INSERT ON a BEGIN\nDELETE FROM b;\nEND;", none, none}, // fails by itself
		{[]backend.Dialect{backend.Postgres}, "SAVEPOINT s;\nROLLBACK TO SAVEPOINT s;\nROLLBACK WORK TO s;\nRELEASE s;", none, none},
		{[]backend.Dialect{backend.Postgres}, "START TRANSACTION;\nABORT AND CHAIN;", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "BEGIN;\nCOMMIT AND NO CHAIN;", 1, none},
		{[]backend.Dialect{backend.Postgres}, "SELECT 1;\nPREPARE TRANSACTION 'x';", 2, none},
		{[]backend.Dialect{backend.Postgres}, "PREPARE x AS SELECT 1;\nCOMMIT PREPARED 'y';\nROLLBACK PREPARED 'z';", none, none},
		{[]backend.Dialect{backend.Postgres}, "DO $$ BEGIN\nNULL;\nEND $$;", none, none},
		{[]backend.Dialect{backend.Postgres}, "-- +goose StatementBegin\nCREATE FUNCTION f() RETURNS int BEGIN ATOMIC\nSELECT 1;\nEND;\n-- +goose StatementEnd", none, none},
		{[]backend.Dialect{backend.Postgres}, "CREATE FUNCTION f() RETURNS void AS $$ BEGIN\nNULL;\nEND;\n$$ LANGUAGE plpgsql;", none, none}, // fails by itself
		// S80: whose rights hold.
		{[]backend.Dialect{backend.Postgres}, "SELECT 1;\nRESET ROLE;", 2, 2},
		{[]backend.Dialect{backend.Postgres}, "SET ROLE postgres;", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "SET SESSION ROLE NONE;", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "set \"role\" to 'x';", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "SET SESSION AUTHORIZATION DEFAULT;", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "SET SESSION SESSION AUTHORIZATION DEFAULT;", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "RESET SESSION AUTHORIZATION;", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "RESET session_authorization;", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "DISCARD ALL;", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "SELECT set_config('Role', 'none', false);", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "INSERT INTO a SELECT pg_catalog.\"set_config\"('ro' || 'le', 'x', true);", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "SELECT set_config($$role$$, 'x', true);", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "UPDATE pg_settings SET setting = 'none' WHERE name = 'role';", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "WITH x AS (SELECT 1)\nUPDATE ONLY pg_catalog.\"pg_settings\" s SET setting = 'x' WHERE name LIKE 'r%';", 2, 2},
		{[]backend.Dialect{backend.Postgres}, "INSERT INTO a SELECT setting FROM pg_settings;\nUPDATE a SET x = (SELECT setting FROM pg_settings);", none, none},
		// What hides goose's version table.
		{[]backend.Dialect{backend.Postgres}, "SELECT 1;\nRESET search_path;", 2, 2},
		{[]backend.Dialect{backend.Postgres}, "RESET \"search_path\";", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "RESET ALL;", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "SET \"search_path\" = x;", 1, 1},
		{[]backend.Dialect{backend.Postgres}, "SELECT set_config('lock_timeout', '1s', true);", none, none},
		{[]backend.Dialect{backend.Postgres}, "UPDATE a SET role = 'x';\nALTER ROLE x SET role = y;\nRESET lock_timeout;", none, none},
	} {
		for _, d := range c.dialects {
			for head, want := range map[string]int{"-- +goose Up\n": c.in, "-- +goose NO TRANSACTION\n-- +goose Up\n": c.out} {
				file := []byte(head + c.text + "\n")
				m := &migration{version: 1, file: "1_a.sql"}
				require.NoError(t, m.parse(file), c.text)
				first := 0
				rules{of: d, used: d, kind: SetTenant, fault: func(line int, _ string) {
					if first == 0 {
						first = line - strings.Count(head, "\n")
					}
				}}.check(m, file, m.up, 0)
				assert.Equal(t, want, first, "%s: %s%s", d, head, c.text)
			}
		}
	}
}
