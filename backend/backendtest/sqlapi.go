package backendtest

import (
	"database/sql"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var sqlCases = []testCase{
	{
		id: "sql", name: "values round-trip",
		rule: "Values come back as they were given: NULL, text, bytes, integers, floats, booleans, times.",
		run: func(e *env) {
			a := e.tenant("a")
			e.ddl(a, e.pick(
				`CREATE TABLE v (id INTEGER PRIMARY KEY, t TEXT, b BLOB, i INTEGER, f REAL, o BOOLEAN, w TIMESTAMP)`,
				`CREATE TABLE v (id integer PRIMARY KEY, t text, b bytea, i bigint, f double precision, o boolean, w timestamptz)`))
			when := time.Date(2024, 2, 29, 23, 59, 58, 123456000, time.UTC)
			type row struct {
				t sql.NullString
				b []byte
				i sql.NullInt64
				f sql.NullFloat64
				o sql.NullBool
				w sql.NullTime
			}
			text := func(s string) sql.NullString { return sql.NullString{String: s, Valid: true} }
			rows := []row{
				{text("plain"), []byte("bytes"), sql.NullInt64{Int64: 1, Valid: true}, sql.NullFloat64{Float64: 0.1, Valid: true}, sql.NullBool{Bool: true, Valid: true}, sql.NullTime{Time: when, Valid: true}},
				{text(""), []byte{0, 1, 0xff, '\'', '\\'}, sql.NullInt64{Int64: -1 << 63, Valid: true}, sql.NullFloat64{Float64: -1e300, Valid: true}, sql.NullBool{Valid: true}, sql.NullTime{Time: when.Truncate(time.Second), Valid: true}},
				{text("Ünïcode ☃ 'quoted' \"double\" \\ $1 ?"), []byte{}, sql.NullInt64{Int64: 1<<63 - 1, Valid: true}, sql.NullFloat64{Valid: true}, sql.NullBool{}, sql.NullTime{}},
				{sql.NullString{}, nil, sql.NullInt64{}, sql.NullFloat64{}, sql.NullBool{}, sql.NullTime{}},
			}
			for id, r := range rows {
				_, err := e.be.DB().ExecContext(e.in(a), `INSERT INTO v (id, t, b, i, f, o, w) VALUES ($1, $2, $3, $4, $5, $6, $7)`, id, r.t, r.b, r.i, r.f, r.o, r.w)
				require.NoError(e, err, "row %d", id)
			}
			for id, want := range rows {
				var got row
				require.NoError(e, e.be.DB().QueryRowContext(e.in(a), `SELECT t, b, i, f, o, w FROM v WHERE id = $1`, id).
					Scan(&got.t, &got.b, &got.i, &got.f, &got.o, &got.w), "row %d", id)
				require.Equal(e, want.w.Valid, got.w.Valid)
				require.True(e, want.w.Time.Equal(got.w.Time), "time of row %d: want %v, got %v", id, want.w.Time, got.w.Time)
				want.w, got.w = sql.NullTime{}, sql.NullTime{}
				if len(want.b) == 0 && want.b != nil {
					require.Empty(e, got.b)
					want.b, got.b = nil, nil
				}
				require.Equal(e, want, got, "row %d", id)
			}
			for _, column := range []string{"t", "b"} {
				var id int
				require.NoError(e, e.be.DB().QueryRowContext(e.in(a), `SELECT sum(id) FROM v WHERE `+column+` IS NULL`).Scan(&id))
				require.Equal(e, 3, id, "NULL in %s is in the last row only; the empty is not NULL", column)
			}
		},
	},
	{
		id: "sql", name: "results of a statement",
		rule: "RowsAffected counts the rows; RETURNING, and LastInsertId where the database has it, give the new key.",
		run: func(e *env) {
			a := e.tenant("a")
			result, err := e.be.DB().ExecContext(e.in(a), `INSERT INTO notes (mark) VALUES ($1), ($2), ($3)`, "x", "y", "z")
			require.NoError(e, err)
			n, err := result.RowsAffected()
			require.NoError(e, err)
			require.EqualValues(e, 3, n)
			if !e.postgres() {
				id, err := result.LastInsertId()
				require.NoError(e, err)
				require.EqualValues(e, 3, id)
			}
			result, err = e.be.DB().ExecContext(e.in(a), `UPDATE notes SET mark = $1 WHERE mark <> $2`, "same", "z")
			require.NoError(e, err)
			n, err = result.RowsAffected()
			require.NoError(e, err)
			require.EqualValues(e, 2, n)
			var id int
			require.NoError(e, e.be.DB().QueryRowContext(e.in(a), insertNote+` RETURNING id`, "w").Scan(&id))
			require.Equal(e, 4, id)
			e.holds(a, "same", "same", "z", "w")
		},
	},
	{
		id: "sql", name: "no rows",
		rule: "QueryRow of a query without rows gives sql.ErrNoRows, and a failing statement the driver's own error, not the backend's.",
		run: func(e *env) {
			a := e.tenant("a")
			var mark string
			require.ErrorIs(e, e.be.DB().QueryRowContext(e.in(a), `SELECT mark FROM notes WHERE id = $1`, 1).Scan(&mark), sql.ErrNoRows)
			tx := e.tx(a)
			require.ErrorIs(e, tx.QueryRow(`SELECT mark FROM notes WHERE id = $1`, 1).Scan(&mark), sql.ErrNoRows)
			_, err := tx.Exec(insertNote, "a1")
			require.NoError(e, err)
			require.NoError(e, tx.Commit())
			require.ErrorIs(e, tx.Commit(), sql.ErrTxDone)
			_, err = e.be.DB().ExecContext(e.in(a), `INSERT INTO notes (id, mark) SELECT id, 'twice' FROM notes`)
			require.Error(e, err)
			coded := false
			for cause := err; cause != nil; cause = errors.Unwrap(cause) {
				switch cause.(type) {
				case interface{ SQLState() string }, interface{ Code() int }:
					coded = true
				}
			}
			require.True(e, coded, "the database's code is in the chain of %T: %v", err, err)
		},
	},
	{
		id: "sql", name: "columns",
		rule: "Rows name their columns and the columns' types, the database's and Go's, without rows and for NULL too.",
		run: func(e *env) {
			a := e.tenant("a")
			for n := range 2 {
				rows, err := e.be.DB().QueryContext(e.in(a), `SELECT id, mark AS "the mark", CAST(NULL AS text) AS missing FROM notes`)
				require.NoError(e, err)
				names, err := rows.Columns()
				require.NoError(e, err)
				require.Equal(e, []string{"id", "the mark", "missing"}, names)
				if n > 0 {
					require.True(e, rows.Next())
				}
				types, err := rows.ColumnTypes()
				require.NoError(e, err)
				require.Contains(e, []string{"INTEGER", "INT4"}, strings.ToUpper(types[0].DatabaseTypeName()))
				require.Equal(e, "TEXT", strings.ToUpper(types[1].DatabaseTypeName()))
				for _, t := range types {
					require.NotNil(e, t.ScanType(), t.Name())
				}
				require.NoError(e, rows.Close())
				e.add(a, "a row")
			}
		},
	},
	{
		id: "sql", name: "arguments",
		rule: "Too few or too many arguments are an error; named ones work where the database has them.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			var mark string
			err := e.be.DB().QueryRowContext(e.in(a), `SELECT mark FROM notes WHERE id = $1`).Scan(&mark)
			assert.Error(e, err, "too few")
			assert.NotErrorIs(e, err, sql.ErrNoRows, "too few")
			if e.postgres() {
				assert.Error(e, e.be.DB().QueryRowContext(e.in(a), `SELECT mark FROM notes WHERE id = $1`, 1, 2).Scan(&mark), "too many")
			} else {
				require.NoError(e, e.be.DB().QueryRowContext(e.in(a), `SELECT mark FROM notes WHERE id = :id`, sql.Named("id", 1)).Scan(&mark))
				require.Equal(e, "a1", mark)
				require.NoError(e, e.be.DB().QueryRowContext(e.in(a), `SELECT mark FROM notes WHERE id = ?`, 1).Scan(&mark))
				require.Equal(e, "a1", mark)
			}
			type kind string
			type custom struct{ sql.NullString } // a driver.Valuer
			e.add(a, string(kind("named type")))
			_, err = e.be.DB().ExecContext(e.in(a), insertNote, kind("kind"))
			require.NoError(e, err, "a named string type")
			_, err = e.be.DB().ExecContext(e.in(a), insertNote, custom{sql.NullString{String: "valuer", Valid: true}})
			require.NoError(e, err, "a driver.Valuer")
			pointed := "pointer"
			_, err = e.be.DB().ExecContext(e.in(a), insertNote, &pointed)
			require.NoError(e, err, "a pointer")
			_, err = e.be.DB().ExecContext(e.in(a), insertNote, struct{ X chan int }{})
			require.Error(e, err, "a value that no database has")
			e.holds(a, "a1", "named type", "kind", "valuer", "pointer")
		},
	},
	{
		id: "sql", name: "a large result",
		rule:  "A result of many rows arrives whole and in order, and can be left early.",
		conns: 2,
		run: func(e *env) {
			a := e.tenant("a", strings.Repeat("long ", 50))
			const many = 20_000
			for _, stop := range []int{1, many / 2, many + 1} {
				rows, err := e.be.DB().QueryContext(e.in(a), manyRows("mark"), many)
				require.NoError(e, err)
				n := 0
				for n < stop && rows.Next() {
					var mark sql.RawBytes
					var i int
					require.NoError(e, rows.Scan(&mark, &i))
					n++
					require.Equal(e, n, i)
					require.Len(e, mark, 250)
				}
				require.NoError(e, rows.Err())
				require.Equal(e, min(stop, many), n)
				require.NoError(e, rows.Close())
			}
		},
	},
	{
		id: "sql", name: "a large value",
		rule: "A value of several megabytes arrives whole.",
		run: func(e *env) {
			a := e.tenant("a")
			large := strings.Repeat("0123456789abcdef", 1<<17) // 2 MB
			e.add(a, large)
			e.holds(a, large)
		},
	},
	{
		id: "sql", name: "a held connection",
		rule: "db.Conn works as database/sql documents: statements, transactions and Raw on one connection, errors after it is closed.",
		run: func(e *env) {
			a := e.tenant("a")
			conn := e.conn()
			require.NoError(e, conn.PingContext(e.ctx))
			tx, err := conn.BeginTx(e.in(a), nil)
			require.NoError(e, err)
			_, err = tx.Exec(insertNote, "a1")
			require.NoError(e, err)
			require.NoError(e, tx.Commit())
			stmt, err := conn.PrepareContext(e.in(a), insertNote)
			require.NoError(e, err)
			_, err = stmt.ExecContext(e.in(a), "a2")
			require.NoError(e, err)
			require.NoError(e, stmt.Close())
			mine := errors.New("mine")
			require.ErrorIs(e, conn.Raw(func(c any) error { require.NotNil(e, c); return mine }), mine)
			got, err := readMarks(e.in(a), conn)
			require.NoError(e, err, "after Raw")
			require.Equal(e, []string{"a1", "a2"}, got)
			require.NoError(e, conn.Close())
			_, err = conn.ExecContext(e.in(a), insertNote, "stray")
			require.ErrorIs(e, err, sql.ErrConnDone)
			e.holds(a, "a1", "a2")
		},
	},
	{
		id: "sql", name: "readers in parallel",
		rule: "Readers of one store run at once, beside a transaction that writes to it and is not committed.",
		run: func(e *env) {
			a := e.tenant("a", "a1")
			tx := e.tx(a)
			_, err := tx.Exec(insertNote, "a2")
			require.NoError(e, err)
			const readers = 3
			var ready, wg sync.WaitGroup
			ready.Add(readers)
			failures := newTally()
			for range readers {
				wg.Go(func() {
					rows, err := e.be.DB().QueryContext(e.in(a), manyRows("mark"), 100)
					ready.Done()
					if err != nil {
						failures.add(err)
						return
					}
					defer func() { _ = rows.Close() }()
					ready.Wait() // all of them are open
					n := 0
					for rows.Next() {
						n++
					}
					failures.add(rows.Err())
					if n != 100 {
						failures.add(errors.New("not all rows arrived"))
					}
				})
			}
			require.NoError(e, e.within("the readers", func() error { wg.Wait(); return nil }))
			require.NoError(e, failures.err())
			e.holds(a, "a1")
			require.NoError(e, tx.Commit())
			e.holds(a, "a1", "a2")
		},
	},
	{
		id: "sql", name: "a statement inside a transaction that reads its own rows",
		rule: "A transaction sees what it wrote, through every kind of call, before it is committed and others see it.",
		run: func(e *env) {
			a := e.tenant("a")
			tx := e.tx(a)
			for i, want := range [][]string{{"0"}, {"0", "1"}} {
				_, err := tx.ExecContext(e.in(a), insertNote, string(rune('0'+i)))
				require.NoError(e, err)
				got, err := readMarks(e.in(a), tx)
				require.NoError(e, err)
				require.Equal(e, want, got)
				stmt, err := tx.PrepareContext(e.in(a), selectMarks)
				require.NoError(e, err)
				got, err = readMarksStmt(e.in(a), stmt)
				require.NoError(e, err)
				require.Equal(e, want, got)
				require.NoError(e, stmt.Close())
				e.holds(a)
			}
			require.NoError(e, tx.Commit())
			e.holds(a, "0", "1")
		},
	},
}
