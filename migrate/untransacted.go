package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pressly/goose/v3/database"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// Migrations without a transaction of goose's: their version is recorded on its own, after the fact.

// errUnrecorded: the version row is not as goose has just written it.
var errUnrecorded = errors.New("goose wrote down that it is done, and that did not stay")

// confirm asks, on a session that has nothing of the migration's left, whether the version is recorded. A migration that
// leaves a transaction open takes the version's row into it, and both are undone when the connection is given back.
func (g *gooseRun) confirm(ctx context.Context, mig *migration, up bool) error {
	ctx, cancel := outlasting(ctx)
	defer cancel()
	_, err := g.table.GetMigration(ctx, g.db, mig.version)
	switch {
	case err != nil && !errors.Is(err, database.ErrVersionNotFound):
		return err
	case (err == nil) != up:
		return fmt.Errorf("%w in %s: the migration has no transaction of goose's, and left one open that was undone (end it with COMMIT), "+
			"or a trigger or rule keeps the row away", errUnrecorded, g.src.table)
	}
	return nil
}

// stays reports whether something stays, or may, of a migration that failed. goose says what it is about to run, and not
// what it has run.
func (g *gooseRun) stays(mig *migration) bool {
	switch {
	case mig.tx:
		return false
	case !mig.sql, g.table.recording, g.at.n > 1:
		return true
	}
	return g.at.n == 1 && !failsWhole(textDialect(g.table.dialect.name), g.at.statement)
}

// failsWhole reports whether nothing stays of a statement of goose's that fails: it is one of the server's, none that may commit
// on the way, as a block and a procedure may, and none that leaves an invalid index behind, or half of a partition's detaching.
func failsWhole(d sqltext.Dialect, text string) bool {
	if len(sqltext.Statements(d, text)) != 1 {
		return false
	}
	s := sqltext.New(d, text)
	first := s.Next()
	if s.Is(first, "do") || s.Is(first, "call") {
		return false
	}
	concurrently := false
	for t := first; t.Kind != sqltext.End; t = s.Next() {
		concurrently = concurrently || s.Is(t, "concurrently")
	}
	return !concurrently || s.Is(first, "drop") // which is done again
}

// explain adds to a failure what somebody has to do about it who does not know what was done before: a process that is
// killed between the migration and its version's row leaves the one without the other.
func (g *gooseRun) explain(ctx context.Context, mig *migration, failure *StoreError) {
	if errors.Is(failure.Err, errUnrecorded) || errors.Is(failure.Err, ErrInvalidIndex) {
		return
	}
	if len(mig.indexes) > 0 && g.table.dialect.name == backend.Postgres {
		ctx, cancel := outlasting(ctx)
		defer cancel()
		if err := invalidIndex(ctx, g.db, mig.indexes); errors.Is(err, ErrInvalidIndex) {
			failure.Err = fmt.Errorf("%w (%w)", err, failure.Err)
			return
		}
	}
	if failure.halfDone || doneBefore(failure) {
		failure.Err = fmt.Errorf("%w; the migration has no transaction, so it may have been done before, or a part of it, without being recorded: "+
			"undo that by hand and migrate again, or finish it by hand and baseline source %q at version %d for this store",
			failure.Err, mig.source.name, mig.version)
	}
}

// doneBefore reports whether a statement may have failed because it succeeded once.
func doneBefore(failure *StoreError) bool {
	if failure.SQLState != "" {
		return slices.Contains(onceOnly, failure.SQLState)
	}
	text := failure.Err.Error()
	return slices.ContainsFunc([]string{"already exists", "duplicate column", "no such ", "UNIQUE constraint"}, func(part string) bool {
		return strings.Contains(text, part)
	})
}

// onceOnly are Postgres's codes for something that is there already, or not there any more.
var onceOnly = []string{
	"42P07", "42710", "42701", "42723", "42P06", "42P16", // duplicate table, object, column, function, schema, primary key
	"23505",                                     // unique_violation
	"42P01", "42703", "42704", "42883", "3F000", // undefined table, column, object, function, schema
}
