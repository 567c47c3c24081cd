package transfer

import (
	"context"
	"errors"
	"time"

	"github.com/tenement-go/tenement/tenancy"
)

// Progress says how far the work is: it is told when a table has been moved.
type Progress struct {
	Table string
	Rows  int64
}

// ExportOptions are the terms of [Export].
type ExportOptions struct {
	// Without are tables that are left out, by name: those of which the file can do without, and virtual tables.
	Without []string
	// NoFiles leaves the tenant's files out (see [tenancy.App.Dir]).
	NoFiles bool
	// OnTable is told of each table that is written; it may be nil.
	OnTable func(Progress)
}

// Export writes a tenant, in whatever state it is, to a new file at path: an ordinary SQLite database (see the package's
// documentation). It is what the tenant's tables were at one moment, however much is written meanwhile; its files are read
// afterwards, one after the other. Writers are not held up, and memory does not grow with the tenant, but for that of a few
// of its largest rows. It returns tenancy.ErrNotFound when there is no such tenant, a [*FileError] of fs.ErrExist when
// there is something at path, backend.ErrStoreMissing, a [*SchemaError] for a virtual table, and [ErrMigrated] when a table
// was rewritten or emptied meanwhile in a way that Postgres' snapshots do not cover. When it fails nothing is left at path.
func Export(ctx context.Context, app *tenancy.App, id tenancy.ID, path string, opt ExportOptions) (*Manifest, error) {
	t, err := app.ByID(ctx, id)
	if err != nil {
		return nil, err
	}
	return export(ctx, app, t, path, opt, asItIs)
}

// asItIs begins an export of everything there is, whatever that is.
func asItIs(*snapshot) error { return nil }

// export writes a tenant. begin is called with what is going to be written, ahead of the first row.
func export(ctx context.Context, app *tenancy.App, t tenancy.Tenant, path string, opt ExportOptions, begin func(*snapshot) error) (*Manifest, error) {
	w, err := createFile(ctx, path)
	if err != nil {
		return nil, err
	}
	m := &Manifest{
		Format: Format, Made: time.Now().UTC().Truncate(time.Second), Tenant: tenantOf(t),
		Dialect: app.Backend().Dialect(), Without: opt.Without,
	}
	err = withSnapshot(ctx, app, own(t), opt.Without, func(s *snapshot) error {
		if err := begin(s); err != nil {
			return err
		}
		return w.write(ctx, s, m, opt.OnTable)
	})
	if err == nil && !opt.NoFiles {
		m.Files, err = w.files(ctx, app, t)
	}
	if err != nil {
		return nil, errors.Join(err, w.abandon())
	}
	if err := w.finish(ctx, m); err != nil {
		return nil, err
	}
	return m, nil
}

// write writes the tables, and what is to be said of them.
func (w *fileWriter) write(ctx context.Context, s *snapshot, m *Manifest, told func(Progress)) error {
	m.Sources, m.Tables, m.Sequences = s.sources, s.tables(), s.sequences()
	m.name()
	to := &sqliteWriter{conn: w.conn, tx: w.tx}
	for i := range m.Tables {
		t := &m.Tables[i]
		name, columns, err := w.table(ctx, *t)
		if err != nil {
			return err
		}
		if len(columns) == 0 {
			continue
		}
		p := &tablePlan{from: *t, to: Table{Name: name}, source: t.moved()}
		p.as = types(p.source)
		for k, c := range columns {
			p.columns = append(p.columns, columnPlan{at: k, to: c})
		}
		sum, err := p.run(ctx, s, to)
		if err != nil {
			return err
		}
		t.Rows, t.Hash = sum.rows, sum.String()
		if told != nil {
			told(Progress{Table: t.Name, Rows: t.Rows})
		}
	}
	return nil
}
