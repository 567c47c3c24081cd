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
		"SELECT 2 * 3, a*b FROM t":              0,
		"SELECT '*', \"*\", $$ * $$, $x$ * $x$ /* * */ -- *": 0,
		"SET search_path = x":                                sticky,
		" /* c */ set local search_path = x":                 0,
		"SET TRANSACTION READ ONLY":                          0,
		"UPDATE t SET a = 1":                                 0,
		"RESET ALL":                                          sticky,
		"LISTEN x":                                           sticky,
		"CREATE TEMP TABLE x (a int)":                        sticky,
		"create or replace temporary view v as select 1":     sticky,
		"CREATE TABLE x (a int)":                             0,
		"SELECT 1 INTO TEMP x":                               sticky,
		"SELECT pg_advisory_lock(1)":                         sticky,
		"SELECT pg_try_advisory_lock_shared(1)":              sticky,
		"SELECT pg_advisory_xact_lock(1)":                    0,
		"SELECT 'it''s; COMMIT; SET x'":                      0,
		`SELECT E'it\'s; COMMIT; x'; SELECT 1`:               0,
		"COMMIT":                                             control | ends,
		"BEGIN; SELECT 1; COMMIT":                            control | ends | ownTx,
		"SELECT 1; rollback":                                 control | ends | ownTx,
		"SELECT 1; -- COMMIT\n SELECT 2":                     0,
		"DO $$ BEGIN COMMIT; END $$":                         calls,
		"CREATE FUNCTION f() RETURNS int AS $f$ BEGIN; END; $f$; SELECT 1":                                       0,
		"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3": 0,
		"PREPARE TRANSACTION 'x'":             sticky | control | ends,
		"CALL p($1)":                          control | calls,
		"commit/**/work and chain":            control | ends | chains,
		"ROLLBACK AND NO CHAIN":               control | ends,
		"ROLLBACK TRANSACTION TO SAVEPOINT s": control,
		"COMMIT PREPARED 'x'":                 control,
		// What hides a COMMIT from a hasty reader, and not from the server.
		"SELECT name'a\\'; COMMIT; SELECT '1'":                             control | ends | ownTx,
		"SELECT E'a''b\\''; COMMIT; SELECT ''":                             control | ends | ownTx,
		"SELECT 1 AS a$b$; COMMIT; SELECT 1":                               control | ends | ownTx,
		"SELECT 1; --\rCOMMIT; SELECT 1":                                   control | ends | ownTx,
		"SELECT x.begin atomic FROM (SELECT 1 AS begin) x; COMMIT; SELECT": control | ends | ownTx,
		"/* nested /* comment */ ; COMMIT */ SELECT 1":                     0,
		"(SELECT 1)":                           0,
		"SELECT 1;;":                           0,
		"SELECT 'unterminated; COMMIT; SELECT": 0,
		"SELECT $1; SELECT $2":                 0,
	} {
		assert.Equal(t, want, classify(text), text)
	}
}

func FuzzClassify(f *testing.F) {
	f.Add("SELECT $a$ ; /* -- */ 'x' \"y\" E'\\'")
	f.Fuzz(func(_ *testing.T, text string) { classify(text) }) // comes to an end
}
