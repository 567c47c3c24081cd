package migrate

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// gooseRun applies and undoes the migrations of one source in one store, through goose. It uses one connection at a time.
type gooseRun struct {
	src      *series
	db       *sql.DB
	table    *versionTable
	provider *goose.Provider
	byGo     []*goose.Migration
	at       *statementLog
}

// goose readies goose to work in a store; nothing is asked of it yet.
func (m *Migrator) goose(src *series, db *sql.DB) (*gooseRun, error) {
	table, err := m.dialect.versionTable(src)
	if err != nil {
		return nil, err
	}
	g := &gooseRun{src: src, db: db, table: table, at: &statementLog{}}
	if src.goFunc != nil {
		g.byGo = src.goFunc()
	}
	g.provider, err = src.provider(db, providerOptions{
		store: table, files: src.running, byGo: g.byGo, log: slog.New(g.at), outOfOrder: true, begin: m.dialect.begin,
	})
	return g, err
}

// up applies a migration. done is false when another migrator has applied it.
func (g *gooseRun) up(ctx context.Context, mig *migration) (done bool, failure *StoreError) {
	return g.apply(ctx, mig, true, goose.ErrAlreadyApplied)
}

// down undoes a migration. done is false when it is not applied.
func (g *gooseRun) down(ctx context.Context, mig *migration) (done bool, failure *StoreError) {
	return g.apply(ctx, mig, false, goose.ErrNotApplied)
}

// apply runs a migration in one direction. Waiting for a connection ends with ctx; from then on the migration is brought
// to its end, which a cancelled context would cut off at any point.
func (g *gooseRun) apply(ctx context.Context, mig *migration, up bool, noNeed error) (done bool, failure *StoreError) {
	*g.at, g.table.recording = statementLog{}, false
	var err error
	if fn := g.outside(mig, up); fn != nil {
		done, err = g.applyOutside(ctx, mig, up, fn)
	} else {
		own, begun, cancel := untilBegun(ctx)
		defer cancel()
		g.table.begun = begun
		_, err = g.provider.ApplyVersion(own, mig.version, up)
		done = err == nil
	}
	if err == nil && done && !mig.tx {
		err = g.confirm(ctx, mig, up)
	}
	switch {
	case err == nil:
		return done, nil
	case errors.Is(err, noNeed), errors.Is(err, errAlreadyRecorded):
		return false, nil
	}
	failure = &StoreError{Source: g.src.name, Version: mig.version, File: mig.file, SQLState: sqltext.State(err), Err: err, noTx: !mig.tx}
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		failure.Err = partial.Err
	}
	if mig.sql && g.at.version == mig.version {
		failure.Statement = g.at.statement
		failure.Line = lineOf(g.src.files[mig.file], g.at.statement)
	}
	failure.halfDone = g.stays(mig)
	if up && !mig.tx {
		g.explain(ctx, mig, failure)
	}
	return false, failure
}

// untilBegun returns a context that ends with ctx until begun is called.
func untilBegun(ctx context.Context) (own context.Context, begun func(), cancel context.CancelFunc) {
	own, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	return own, func() { stop() }, func() { stop(); end(nil) }
}

// outside returns the function of a Go migration that works without a transaction, or nil.
func (g *gooseRun) outside(mig *migration, up bool) goose.GoMigrationNoTxContext {
	if mig.sql {
		return nil
	}
	for _, b := range g.byGo {
		switch {
		case b.Version != mig.version:
		case up:
			return b.UpFnNoTxContext
		default:
			return b.DownFnNoTxContext
		}
	}
	return nil
}

// applyOutside runs such a function. goose would hold one connection while the function, which is given the handle, takes
// another, for which a small pool has no room. The function sees its caller's context end.
func (g *gooseRun) applyOutside(ctx context.Context, mig *migration, up bool, fn goose.GoMigrationNoTxContext) (done bool, err error) {
	if _, err := g.provider.GetDBVersion(ctx); err != nil { // makes the version table
		return false, err
	}
	_, err = g.table.GetMigration(ctx, g.db, mig.version)
	switch there := err == nil; {
	case err != nil && !errors.Is(err, database.ErrVersionNotFound):
		return false, err
	case there == up:
		return false, nil
	}
	defer func() {
		if r := recover(); r != nil { // as goose does
			err = fmt.Errorf("panic in a Go migration: %v", r)
		}
	}()
	if err := fn(ctx, g.db); err != nil {
		return false, err
	}
	ctx, cancel := outlasting(ctx)
	defer cancel()
	if up {
		return true, g.table.Insert(ctx, g.db, database.InsertRequest{Version: mig.version})
	}
	return true, g.table.Delete(ctx, g.db, mig.version)
}

// providerOptions are what a provider is made of, beside the source.
type providerOptions struct {
	store      database.Store
	files      fileSet
	byGo       []*goose.Migration
	log        *slog.Logger
	outOfOrder bool
	begin      string
}

// provider returns a goose provider of the source over db, which stays the caller's.
func (s *series) provider(db *sql.DB, o providerOptions) (*goose.Provider, error) {
	opts := []goose.ProviderOption{
		goose.WithStore(o.store),
		goose.WithDisableGlobalRegistry(true),
		goose.WithAllowOutofOrder(o.outOfOrder),
	}
	if list := slices.Clone(o.byGo); len(list) > 0 {
		if o.begin != "" {
			for i, g := range list {
				list[i] = beginning(g, o.begin)
			}
		}
		opts = append(opts, goose.WithGoMigrations(list...))
	}
	if o.log != nil {
		opts = append(opts, goose.WithSlog(o.log), goose.WithVerbose(true))
	}
	return goose.NewProvider(goose.DialectCustom, db, o.files, opts...)
}

// beginning returns a Go migration that does what g does, after a statement of ours in its transaction.
func beginning(g *goose.Migration, statement string) *goose.Migration {
	if g.UpFnContext == nil && g.DownFnContext == nil {
		return g
	}
	wrap := func(inTx goose.GoMigrationContext, noTx goose.GoMigrationNoTxContext) *goose.GoFunc {
		f := &goose.GoFunc{RunDB: noTx}
		if inTx != nil {
			f.RunTx = func(ctx context.Context, tx *sql.Tx) error {
				if _, err := tx.ExecContext(ctx, statement); err != nil {
					return err
				}
				return inTx(ctx, tx)
			}
		}
		return f
	}
	wrapped := goose.NewGoMigration(g.Version, wrap(g.UpFnContext, g.UpFnNoTxContext), wrap(g.DownFnContext, g.DownFnNoTxContext))
	wrapped.Source = g.Source
	return wrapped
}

// beginningText returns the text of a migration file with a statement of ours at the beginning of both directions, or the
// text as it is when that cannot be done without changing anything else.
func (m *migration) beginningText(text []byte, statement string) []byte {
	if statement == "" || !m.tx {
		return text
	}
	var b bytes.Buffer
	for line := range bytes.Lines(text) {
		b.Write(line)
		if annotation, ok := bytes.CutPrefix(bytes.TrimRight(line, "\r\n"), []byte("--")); ok {
			switch string(bytes.ToLower(bytes.Join(bytes.Fields(annotation), []byte(" ")))) {
			case "+goose up", "+goose down":
				if !bytes.HasSuffix(line, []byte("\n")) {
					b.WriteByte('\n')
				}
				b.WriteString(statement + "\n")
			}
		}
	}
	changed := &migration{version: m.version, file: m.file}
	same := func(now, before []string) bool {
		return slices.Equal(now, append([]string{statement}, before...)) || len(now) == 0 && len(before) == 0
	}
	if err := changed.parse(b.Bytes()); err != nil || changed.tx != m.tx || !same(changed.up, m.up) || !same(changed.down, m.down) {
		return text
	}
	return b.Bytes()
}

// statementLog is a slog handler that keeps the statement goose is at, which goose's errors do not tell.
type statementLog struct {
	version   int64
	statement string
	n         int // how many there were
}

var _ slog.Handler = (*statementLog)(nil)

// Enabled implements slog.Handler.
func (l *statementLog) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (l *statementLog) Handle(_ context.Context, r slog.Record) error {
	var version int64
	var statement string
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "statement":
			statement = a.Value.String()
		case "version":
			version = a.Value.Int64()
		}
		return true
	})
	l.version, l.statement = version, statement // a record without a statement ends the one before
	if statement != "" {
		l.n++
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (l *statementLog) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements slog.Handler.
func (l *statementLog) WithGroup(string) slog.Handler { return l }

// lineOf returns the line on which a statement begins in a file, or 0.
func lineOf(text []byte, statement string) int {
	first, _, _ := strings.Cut(statement, "\n")
	if first == "" {
		return 0
	}
	at := strings.Index(string(text), statement)
	if at < 0 { // other line ends
		if at = strings.Index(string(text), strings.TrimRight(first, "\r")); at < 0 {
			return 0
		}
	}
	return 1 + strings.Count(string(text[:at]), "\n")
}
