package backendtest

import (
	"time"

	"github.com/stretchr/testify/require"
)

var timeCases = []testCase{
	{
		id: "sql", name: "times",
		rule: "A time.Time is an instant, whatever its zone: it comes back equal, to the microsecond, in order, and as the database's own functions see it.",
		run: func(e *env) {
			a := e.tenant("a")
			e.ddl(a, e.pick(
				`CREATE TABLE events (id INTEGER PRIMARY KEY, at TIMESTAMP)`,
				`CREATE TABLE events (id integer PRIMARY KEY, at timestamptz)`))
			day := e.pick(`date(at)`, `to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD')`)
			kathmandu := time.FixedZone("", 5*3600+45*60)
			instant := time.Date(2024, 2, 29, 23, 59, 59, 999999999, time.UTC)
			times := []time.Time{ // in order
				{},
				time.Date(1969, 12, 31, 23, 59, 59, 999999900, time.UTC),
				time.Date(2024, 2, 29, 20, 0, 0, 1000, time.FixedZone("CEST", 7200)),
				time.Date(2024, 3, 1, 1, 0, 0, 0, kathmandu), // an evening in February, in UTC
				instant,
				instant.In(kathmandu).Add(time.Microsecond),
				instant.In(time.FixedZone("", -12*3600)).Add(time.Second),
				time.Now(), // with a monotonic clock
			}
			for id, at := range times {
				_, err := e.be.DB().ExecContext(e.in(a), `INSERT INTO events (id, at) VALUES ($1, $2)`, id, at)
				require.NoError(e, err, "%v", at)
			}
			for id, want := range times {
				var got time.Time
				var date string
				require.NoError(e, e.be.DB().QueryRowContext(e.in(a), `SELECT at, `+day+` FROM events WHERE id = $1`, id).Scan(&got, &date), "%v", want)
				require.True(e, got.Equal(want.Truncate(time.Microsecond)), "want %v, got %v", want, got)
				require.Equal(e, want.UTC().Format(time.DateOnly), date, "the day of %v", want)
				for _, zone := range []*time.Location{time.UTC, kathmandu} {
					var n int
					require.NoError(e, e.be.DB().QueryRowContext(e.in(a), `SELECT count(*) FROM events WHERE at = $1`, want.In(zone)).Scan(&n))
					require.Equal(e, 1, n, "rows equal to %v", want.In(zone))
					require.NoError(e, e.be.DB().QueryRowContext(e.in(a), `SELECT count(*) FROM events WHERE at < $1`, want.In(zone)).Scan(&n))
					require.Equal(e, id, n, "rows before %v", want.In(zone))
				}
			}
		},
	},
}
