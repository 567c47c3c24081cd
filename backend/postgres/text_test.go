package postgres

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]traits{
		"":                                      0,
		"SELECT a, b FROM t WHERE id = $1":      0,
		"select * from t":                       star,
		"SELECT t.* FROM t":                     star,
		"SELECT a, * FROM t":                    star,
		"INSERT INTO t VALUES ($1) RETURNING *": star,
		"SELECT count(*) FROM t":                0,
		"SELECT 2 * 3, a*b, (a)*b FROM t":       0,
		"SELECT '*', \"*\", $$ * $$, $x$ * $x$ /* * */ -- *": 0,
		"UPDATE t SET a = 1":     0,
		"SELECT 1; SELECT 2":     0,
		"(SELECT 1)":             0,
		"SELECT 1;;":             0,
		"CREATE TABLE x (a int)": defines,

		// What a session keeps.
		"SET search_path = x":                                   taints,
		" /* c */ set local search_path = x":                    0,
		"SET SESSION search_path = x":                           taints,
		"SET SESSION AUTHORIZATION x":                           dooms,
		"SET ROLE x":                                            dooms,
		"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY":  dooms,
		"SET CONSTRAINTS ALL DEFERRED":                          0,
		"SET TRANSACTION READ ONLY":                             first,
		"RESET ALL":                                             taints,
		"LISTEN x":                                              taints,
		"LOAD 'x'":                                              dooms,
		"PREPARE x AS SELECT 1":                                 dooms,
		"CREATE TEMP TABLE x (a int)":                           taints | defines,
		"create or replace temporary view v as select 1":        taints | defines,
		"CREATE TABLE pg_temp.x (a int)":                        taints | defines,
		"SELECT 1 INTO x":                                       defines,
		"INSERT INTO x SELECT 1":                                0,
		"SELECT 1 INTO TEMP x":                                  defines | taints,
		"SELECT temp, temporary FROM readings":                  0, // S75
		"CREATE TABLE temp (temporary int)":                     defines,
		"SELECT pg_temp FROM t":                                 0,
		"DECLARE c CURSOR FOR SELECT 1":                         0,
		"DECLARE c CURSOR FOR SELECT 1 WITH HOLD":               0,
		"DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1":        taints,
		"DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1":            0,
		"SELECT pg_advisory_lock(1)":                            taints | holds,
		"SELECT pg_catalog.\"pg_try_advisory_lock_shared\"(1)":  taints | holds,
		"SELECT pg_advisory_xact_lock(1)":                       0,
		"SELECT pg_advisory_unlock(1)":                          0,
		"SELECT set_config('a.b', $1, true)":                    0,
		"SELECT pg_catalog.set_config('a.b', f(1, true), TRUE)": 0,
		"SELECT set_config('a.b', $1, false)":                   taints,
		"SELECT set_config('a.b', $1, $2)":                      taints,
		"SELECT set_config('a.b', $1, not true)":                taints,
		"SELECT set_config('a.b', 'x', /* , true */ false)":     taints,
		"SELECT \"set_config\"('a.b', 'x', false)":              taints,
		`SELECT U&"set\005fconfig"('a.b', 'x', false)`:          taints,
		"UPDATE pg_settings SET setting = 'x' WHERE name = 'y'": taints, // S75
		"UPDATE pg_catalog.\"pg_settings\" s SET setting = 'x'": taints,
		"SELECT query_to_xml('select 1', true, true, '')":       taints,
		"SELECT * FROM ts_stat('select x')":                     taints | star,

		// Transactions.
		"COMMIT":                         control | ends | commits,
		"BEGIN; SELECT 1; COMMIT":        control | ends | ownTx,
		"SELECT 1; rollback":             control | ends | ownTx,
		"end work;":                      control | ends | commits,
		"SELECT 1; -- COMMIT\n SELECT 2": 0,
		"DO $$ BEGIN COMMIT; END $$":     calls | defines | taints,
		"CREATE FUNCTION f() RETURNS int AS $f$ BEGIN; END; $f$; SELECT 1":                                       defines,
		"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3": defines,
		"PREPARE TRANSACTION 'x'":             control | ends | commits,
		"CALL p($1)":                          control | calls | defines,
		"commit/**/work and chain":            control | ends | chains | commits,
		"ROLLBACK AND NO CHAIN":               control | ends,
		"ROLLBACK TRANSACTION TO SAVEPOINT s": control,
		"COMMIT PREPARED 'x'":                 control,
		// What hides a COMMIT from a hasty reader, and not from the server.
		"SELECT name'a\\'; COMMIT; SELECT '1'":                                              control | ends | ownTx,
		"SELECT E'a''b\\''; COMMIT; SELECT ''":                                              control | ends | ownTx,
		"SELECT 1 AS a$b$; COMMIT; SELECT 1":                                                control | ends | ownTx,
		"SELECT 1; --\rCOMMIT; SELECT 1":                                                    control | ends | ownTx,
		"SELECT x.begin atomic FROM (SELECT 1 AS begin) x; COMMIT; SELECT":                  control | ends | ownTx,
		"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 case; END; COMMIT; SELECT 1": control | ends | ownTx | defines,
		"/* nested /* comment */ ; COMMIT */ SELECT 1":                                      0,
		"SELECT 'it''s; COMMIT; SET x'":                                                     0,
		`SELECT E'it\'s; COMMIT; x'; SELECT 1`:                                              0,
		"SELECT 'unterminated; COMMIT; SELECT":                                              0,
		"SELECT $1; SELECT $2":                                                              0,
	} {
		assert.Equal(t, want, classify(text), text)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	got, whole := words(`SELECT "a""b", ÄB, nextval('S'), 'public."Q"'::regclass, $$x$$ FROM "T" AS t`)
	assert.Equal(t, []string{"Q", "T", `a"b`, "as", "from", "nextval", "public", "regclass", "s", "select", "t", "Äb"}, got)
	assert.True(t, whole)
	_, whole = words(`SELECT U&"a"`)
	assert.False(t, whole)
}

func FuzzClassify(f *testing.F) {
	f.Add("SELECT $a$ ; /* -- */ 'x' \"y\" E'\\'")
	f.Add("SELECT set_config('a', (b), true)")
	f.Fuzz(func(_ *testing.T, text string) { // comes to an end
		classify(text)
		words(text)
	})
}
