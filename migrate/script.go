package migrate

import (
	"context"
	"fmt"
	"strings"

	"github.com/pressly/goose/v3/database"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/broken"
)

// script is what brings a store from one state to another, as text that runs in one transaction. Only its guards differ
// between the stores of a group.
//
// A guard records the first version of a source that has something pending, under the condition that the store has the
// versions that the script was made for; otherwise the value is NULL, which goose's table refuses, and nothing of the
// script is kept. What the ledger has to do with it is the lane's.
type script struct {
	dialect dialect
	guards  []guard
	body    string
}

// guard is the condition on one version table, and the row by which it is checked.
type guard struct {
	table   string
	version int64 // the row to write
	rows    int   // how many there must be: the versions and goose's zero
	newest  int64 // and the highest of them
}

// compose makes the script that applies todo to stores that are at from. In a store that is fresh, which nobody sees yet,
// more may be sent as text. ok is false when the migrations cannot be.
func (d dialect) compose(from state, todo []*migration, fresh bool) (sc script, ok bool) {
	sc.dialect = d
	var body strings.Builder
	var src *series
	for _, mig := range todo {
		statements := mig.up
		switch {
		case fresh && mig.fresh != nil:
			statements = mig.fresh
		case fresh, !mig.asText:
			return script{}, false
		}
		guarded := false
		if mig.source != src {
			src = mig.source
			list, there := from[src.name]
			if guarded = there; there {
				sc.guards = append(sc.guards, guard{table: src.table, version: mig.version, rows: len(list) + 1, newest: newest(list)})
			} else {
				// That there is no such table is checked by making it.
				body.WriteString(src.createTable(d))
				body.WriteString(d.versionRow(src.table, 0))
			}
		}
		for _, statement := range statements {
			body.WriteString(statement)
			if strings.HasSuffix(statement, ";") {
				body.WriteByte('\n')
			} else {
				body.WriteString("\n;\n") // it may end in a comment
			}
		}
		for _, name := range mig.restore {
			fmt.Fprintf(&body, "SET LOCAL %s TO %s;\n", name, d.usual(name))
		}
		if !guarded {
			body.WriteString(d.versionRow(src.table, mig.version))
		}
	}
	sc.body = body.String()
	return sc, true
}

// guard returns the text that differs from store to store.
func (sc script) guard(store backend.Store) string {
	var b strings.Builder
	for _, g := range sc.guards {
		// Qualified: the shared store, which unqualified names also reach, has a table of that name.
		table := sc.dialect.in(store) + g.table
		if broken.Ledger {
			b.WriteString(sc.dialect.versionRow(table, g.version))
			continue
		}
		fmt.Fprintf(&b, "INSERT INTO %s (version_id, is_applied) SELECT CASE WHEN count(*) = %d AND max(version_id) = %d THEN %d END, %s FROM %s;\n",
			table, g.rows, g.newest, g.version, sc.dialect.yes(), table)
	}
	return b.String()
}

func (d dialect) versionRow(table string, version int64) string {
	return fmt.Sprintf("INSERT INTO %s (version_id, is_applied) VALUES (%d, %s);\n", table, version, d.yes())
}

// yes is goose's value for is_applied.
func (d dialect) yes() string {
	if d.name == backend.Postgres {
		return "true"
	}
	return "1"
}

// in returns the qualifier of a store's own tables.
func (d dialect) in(store backend.Store) string {
	if d.name == backend.Postgres {
		return `"` + store.String() + `".` // a store's name has no quotes in it
	}
	return "main."
}

// usual is what a setting is put back to after a migration: goose begins a new transaction.
func (d dialect) usual(setting string) string {
	if setting == "lock_timeout" {
		return fmt.Sprint(d.lockTimeout.Milliseconds())
	}
	return "DEFAULT"
}

// createTable returns the statement by which goose makes the source's version table.
func (s *series) createTable(d dialect) string {
	rec := &recorder{}
	db := rec.open()
	defer func() { _ = db.Close() }()
	store, err := database.NewStore(d.goose, s.table)
	if err == nil {
		err = store.CreateVersionTable(context.Background(), db)
	}
	if err != nil || len(rec.statements) != 1 {
		panic(fmt.Sprintf("migrate: goose makes its version table in %d statements: %v", len(rec.statements), err))
	}
	return strings.TrimSpace(rec.statements[0]) + ";\n"
}
