package sqlite

import (
	"database/sql/driver"
	"fmt"
	"strings"
	"time"
)

// timeFormat is how a time.Time is written: as SQLite's own functions read and write it (in UTC, without saying so), of one
// width, so that texts sort as the times do, and with the microseconds that Postgres keeps: the same program finds the
// same values on both. What is finer is cut off, as pgx does.
const timeFormat = "2006-01-02 15:04:05.000000"

// formatTimes puts the text of each time.Time in its place.
func formatTimes(args []driver.NamedValue) error {
	for i := range args {
		t, ok := args[i].Value.(time.Time)
		if !ok {
			continue
		}
		t = t.UTC()
		if year := t.Year(); year < 0 || year > 9999 {
			return fmt.Errorf("parameter %d: the year %d cannot be stored as a time; SQLite's go from 0 to 9999", args[i].Ordinal, year)
		}
		args[i].Value = t.Format(timeFormat)
	}
	return nil
}

// time returns the time that a text in column i stands for, where the column is declared to hold times and the driver did
// not know what to make of it: a type that it has no name for (TIMESTAMPTZ, TIMESTAMP(6)), or a text as time.Time's String
// has it, which is how times were written once, in a zone without an abbreviation.
func (r *rows) time(i int, text string) (time.Time, bool) {
	if len(text) < len("2006-01-02") || text[0] < '0' || text[0] > '9' {
		return time.Time{}, false
	}
	if !r.holdsTimes(i) {
		return time.Time{}, false
	}
	return parseTime(text)
}

// holdsTimes reports whether column i is declared to hold times.
func (r *rows) holdsTimes(i int) bool {
	declared := r.in.(driver.RowsColumnTypeDatabaseTypeName).ColumnTypeDatabaseTypeName(i)
	return strings.HasPrefix(declared, "TIMESTAMP") || strings.HasPrefix(declared, "DATETIME") || declared == "DATE"
}

// parseTime reads what this package and SQLite write, what time.Time's String writes, and RFC 3339.
func parseTime(text string) (time.Time, bool) {
	if len(text) == len(time.DateOnly) {
		t, err := time.Parse(time.DateOnly, text)
		return t, err == nil
	}
	day, clock, ok := strings.Cut(strings.Replace(text, "T", " ", 1), " ")
	if !ok {
		return time.Time{}, false
	}
	clock, zone, _ := strings.Cut(clock, " ") // "+0545 +0545 m=+0.01"
	zone, _, _ = strings.Cut(zone, " ")
	for _, layout := range []string{"2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05-0700", "2006-01-02 15:04:05", "2006-01-02 15:04"} {
		if t, err := time.Parse(layout, day+" "+clock+zone); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
