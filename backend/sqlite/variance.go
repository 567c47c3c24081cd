package sqlite

import (
	"slices"
	"strings"
	"sync/atomic"

	driver "modernc.org/sqlite"
)

// witness says whether anything was done in a store that a template must not hold: it would be the same in all stores, where
// it should be different.
type witness struct{ varies atomic.Bool }

func (w *witness) note(varies bool) {
	if varies {
		w.varies.Store(true)
	}
}

// varying are the functions whose result is not determined by their arguments (or need not be: strftime('%s','now')).
var varying = []string{
	"current_timestamp", "current_time", "current_date", "date", "time", "datetime", "julianday", "unixepoch", "strftime",
	"timediff", "random", "randomblob",
}

// variance finds calls of varying functions in what the authorizer sees of a connection's statements, one after the other.
type variance struct {
	defining bool // a table is being defined; the functions that are named (DEFAULT CURRENT_TIMESTAMP) do not run now
	deferred bool // such a function was named
	forgive  bool // the next one does not matter
}

// varies reports whether an action makes a result that may be another one the next time.
func (v *variance) varies(action driver.AuthorizerActionCode, arg1, arg2, schema string) bool {
	switch action {
	case driver.AuthCreateTable, driver.AuthAlterTable:
		v.defining = true
	case driver.AuthSelect:
		// CREATE TABLE AS SELECT names the functions before it says that it selects.
		deferred := v.deferred
		v.defining, v.deferred = false, false
		return deferred
	case driver.AuthUpdate:
		if arg1 == "sqlite_master" { // the last of what making a table does
			v.defining, v.deferred = false, false
		}
	case driver.AuthInsert:
		// goose's version tables say when the migrations were run, which is when the template was made.
		v.forgive = v.forgive || strings.HasPrefix(arg1, "goose_")
	case driver.AuthRead:
		switch {
		case arg1 == stampTable: // whose a store is
			return true
		case arg2 == "" && schema == "" && !strings.HasPrefix(arg1, "goose_") && !strings.HasPrefix(arg1, "sqlite_"):
			// No column is read, as by count(*), of a table whose schema is not written: then SQLite does not say either
			// which it is (select.c), and it may be a shared one.
			return true
		}
		// Who reads a column is told, once in a statement, of the functions in its default (tried), which do not run: goose
		// asks for the time of a version.
		v.forgive = v.forgive || strings.HasPrefix(arg1, "goose_") && arg2 == "tstamp"
	case driver.AuthFunction:
		return slices.Contains(varying, strings.ToLower(arg2)) && v.runs()
	}
	return false
}

// runs reports whether a varying function that is named runs, as far as is known.
func (v *variance) runs() bool {
	switch {
	case v.forgive:
		v.forgive = false
		return false
	case v.defining:
		v.deferred = true
		return false
	}
	return true
}
