package sqlite

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Times are written as SQLite's own functions read and write them, and read however they were written before.
func TestTimes(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, _ := withTable(t, b, "a")
	mustExec(t, a, b.DB(), `CREATE TABLE at (id INTEGER PRIMARY KEY, a TIMESTAMP, b TIMESTAMPTZ, c TIMESTAMP WITH TIME ZONE, d DATETIME(6), e DATE, f TEXT)`)
	kathmandu := time.FixedZone("+0545", 5*3600+45*60)
	at := time.Date(2024, 3, 1, 1, 2, 3, 456789, kathmandu)
	want := at.Truncate(time.Microsecond)
	mustExec(t, a, b.DB(), "INSERT INTO at VALUES (1, $1, $1, $1, $1, $1, $1)", at)
	var text, day string
	require.NoError(t, b.DB().QueryRowContext(a, "SELECT f, datetime(a) || date(b) FROM at").Scan(&text, &day))
	require.Equal(t, "2024-02-29 19:17:03.000456", text)
	require.Equal(t, "2024-02-29 19:17:032024-02-29", day)
	for _, column := range []string{"a", "b", "c", "d", "e"} {
		var got time.Time
		require.NoError(t, b.DB().QueryRowContext(a, "SELECT "+column+" FROM at").Scan(&got), column)
		require.Equal(t, want.UTC(), got, column)
	}
	_, err := b.DB().ExecContext(a, "INSERT INTO at (a) VALUES ($1)", time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC))
	require.ErrorContains(t, err, "12000")

	// What is written by SQLite itself is in the same order.
	before := time.Now()
	mustExec(t, a, b.DB(), "CREATE TABLE log (id INTEGER PRIMARY KEY, at TIMESTAMP DEFAULT CURRENT_TIMESTAMP); INSERT INTO log (id) VALUES (1)")
	require.Equal(t, 1, count(t, a, b.DB(), "SELECT count(*) FROM log WHERE at BETWEEN $1 AND $2", before.Add(-2*time.Second), before.Add(time.Minute)))

	for text, want := range map[string]time.Time{
		at.String(): at, at.In(time.UTC).String(): at, time.Now().Round(0).String(): {}, "2024-02-29 19:17:03": time.Date(2024, 2, 29, 19, 17, 3, 0, time.UTC),
		"2024-02-29 19:17:03.5 +0545 +0545 m=+0.123456": time.Date(2024, 2, 29, 19, 17, 3, 5e8, kathmandu),
		"2024-02-29T19:17:03Z":                          time.Date(2024, 2, 29, 19, 17, 3, 0, time.UTC),
		"2024-02-29 19:17:03.25+05:45":                  time.Date(2024, 2, 29, 19, 17, 3, 25e7, kathmandu),
		"2024-02-29 19:17":                              time.Date(2024, 2, 29, 19, 17, 0, 0, time.UTC),
		"2024-02-29":                                    time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC),
	} {
		mustExec(t, a, b.DB(), "UPDATE at SET a = $1, b = $1", text)
		for _, column := range []string{"a", "b"} {
			var got time.Time
			require.NoError(t, b.DB().QueryRowContext(a, "SELECT "+column+" FROM at").Scan(&got), text)
			if !want.IsZero() {
				require.True(t, got.Equal(want), "%s: %v", text, got)
			}
		}
	}
	for _, text := range []string{"", "today", "2024", "2024-02-30", "2024-02-29 25:00:00", "1. 2. 2024 10:00"} {
		mustExec(t, a, b.DB(), "UPDATE at SET b = $1", text)
		var got string
		require.NoError(t, b.DB().QueryRowContext(a, "SELECT b FROM at").Scan(&got))
		require.Equal(t, text, got, "what is no time is a text")
	}
}

func FuzzParseTime(f *testing.F) {
	f.Add(int64(1709234223250000), 3600)
	f.Fuzz(func(t *testing.T, micros int64, offset int) {
		at := time.UnixMicro(micros % 2e17).In(time.FixedZone("", offset%50000/60*60))
		if year := at.UTC().Year(); year < 0 || year > 9999 || at.Year() < 0 || at.Year() > 9999 {
			return
		}
		for _, text := range []string{at.UTC().Format(timeFormat), at.String(), at.Format(time.RFC3339Nano)} {
			got, ok := parseTime(text)
			assert.True(t, ok, text)
			assert.True(t, got.Equal(at), text)
		}
	})
}

// What scans into the type that a column says (GORM, into maps) gets the time, not its text.
func TestTimesHaveAScanType(t *testing.T) {
	t.Parallel()
	b := openIn(t, t.TempDir())
	a, _ := withTable(t, b, "a")
	mustExec(t, a, b.DB(), "CREATE TABLE at (t DATETIME, z TIMESTAMP, s TEXT)")
	mustExec(t, a, b.DB(), "INSERT INTO at VALUES ($1, $1, 'x')", time.Unix(0, 0))
	rows, err := b.DB().QueryContext(a, "SELECT t, z, s FROM at")
	require.NoError(t, err)
	defer func() { _ = rows.Close() }()
	require.True(t, rows.Next())
	types, err := rows.ColumnTypes()
	require.NoError(t, err)
	require.Equal(t, reflect.TypeFor[time.Time](), types[0].ScanType())
	require.Equal(t, reflect.TypeFor[time.Time](), types[1].ScanType())
	require.Equal(t, reflect.TypeFor[string](), types[2].ScanType())
}
