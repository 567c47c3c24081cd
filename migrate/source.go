package migrate

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/pressly/goose/v3"
)

// Source is a named series of goose migrations.
type Source struct {
	// Name identifies the source within its set: lower-case letters, digits and '_', a letter first.
	Name string

	// FS has the migration files at its root, named as goose has it (00002_votes.sql). A file 00002_votes.sqlite.sql is
	// for SQLite alone, 00002_votes.postgres.sql for Postgres; where only one of them is there, 00002_votes.sql must
	// serve the other. It is read once, by [New]. It may be nil when there are only Go migrations.
	FS fs.FS

	// Go makes the Go migrations, made with [goose.NewGoMigration]. It is called anew for each store that needs them,
	// concurrently, because goose writes into what it is given. It may be nil.
	Go func() []*goose.Migration

	// Table is goose's version table. Defaults to goose_db_version for the first source of a set, and to goose_NAME for
	// the others.
	Table string
}

// SourceError is a fault in the sources given to [New], found before any store is touched.
type SourceError struct {
	Set    Set
	Source string // the source's name
	File   string // the migration file; empty when no single file is at fault
	Line   int    // counted from 1; 0 when no line is at fault
	Reason string // what is wrong and what to do
	Err    error  // goose's own error, or nil
}

// Error returns "SET source NAME: FILE:LINE: reason".
func (e *SourceError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s source %q: ", e.Set, e.Source)
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Reason)
	return b.String()
}

// Unwrap returns goose's own error, if it was goose that refused the file.
func (e *SourceError) Unwrap() error { return e.Err }

// set is a Set's sources, checked and read for one dialect.
type set struct {
	kind    Set
	sources []*series
	target  state // everything applied
}

type series struct {
	name, table string
	files       fileSet // what this dialect sees
	running     fileSet // the same as goose is to run it
	migrations  []*migration
	goFunc      func() []*goose.Migration
}

// migration is one version of one source.
type migration struct {
	source  *series
	version int64
	file    string // empty for a Go migration without one
	sum     string
	sql     bool     // else it is Go
	up      []string // goose's statements; SQL only
	down    []string
	noDown  bool // nothing says how it is undone; goose would only forget it
	tx      bool // goose runs it in a transaction
	envsub  bool // the environment is part of it

	asText  bool     // may be part of a script
	fresh   []string // what may be part of a script in a store that nobody sees yet; nil when nothing may
	restore []string // the settings that it changes for its transaction
	indexes []string // those that it makes CONCURRENTLY, which may fail and leave them invalid
	varies  bool     // its outcome may differ from store to store, so a template must not contain it
}

func (s *series) find(version int64) *migration {
	i, ok := slices.BinarySearchFunc(s.migrations, version, func(m *migration, v int64) int { return cmp.Compare(m.version, v) })
	if !ok {
		return nil
	}
	return s.migrations[i]
}

func (s *set) find(name string) *series {
	for _, src := range s.sources {
		if src.name == name {
			return src
		}
	}
	return nil
}

var (
	sourceName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)
	tableName  = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)
)

func newSets(d dialect, shared, tenant, system []Source) (sharedSet, tenantSet *set, err error) {
	var faults []error
	sharedSet = newSet(d, SetShared, shared, system, &faults)
	tenantSet = newSet(d, SetTenant, tenant, nil, &faults)
	return sharedSet, tenantSet, errors.Join(faults...)
}

// newSystem reads the sources of a library's own tables.
func newSystem(d dialect, sources []Source) ([]*series, error) {
	var faults []error
	s := newSet(d, SetShared, sources, nil, &faults)
	return s.sources, errors.Join(faults...)
}

func newSet(d dialect, kind Set, sources, system []Source, faults *[]error) *set {
	s := &set{kind: kind, target: state{}}
	tables := map[string]string{ledgerVersions: ledgerSourceName}
	for _, table := range ledgerTables {
		tables[table] = ledgerSourceName
	}
	for _, in := range system {
		tables[in.Table] = in.Name
	}
	for i, in := range sources {
		fault := func(e SourceError) {
			e.Set, e.Source = kind, in.Name
			*faults = append(*faults, &e)
		}
		if !sourceName.MatchString(in.Name) || in.Name == ledgerSourceName {
			fault(SourceError{Reason: "the name must be 1 to 40 lower-case letters, digits and '_', a letter first, and not " + ledgerSourceName})
			continue
		}
		if s.find(in.Name) != nil {
			fault(SourceError{Reason: "another source of this set has the same name; rename one of them (and set its Table to keep the version table it has)"})
			continue
		}
		table := in.Table
		switch {
		case table != "":
		case i == 0:
			table = goose.DefaultTablename
		default:
			table = "goose_" + in.Name
		}
		if !tableName.MatchString(table) {
			fault(SourceError{Reason: fmt.Sprintf("version table %q: use lower-case letters, digits and '_', without a schema", table)})
			continue
		}
		if other, taken := tables[table]; taken {
			fault(SourceError{Reason: fmt.Sprintf("version table %q belongs to source %q already; set Table to another name", table, other)})
			continue
		}
		tables[table] = in.Name
		src := &series{name: in.Name, table: table, goFunc: in.Go}
		before := len(*faults)
		src.load(d, kind, in, fault)
		if len(*faults) > before {
			continue
		}
		s.sources = append(s.sources, src)
		applied := make([]applied, 0, len(src.migrations))
		for _, m := range src.migrations {
			applied = append(applied, m.applied())
		}
		s.target[src.name] = applied
	}
	return s
}

func (m *migration) applied() applied { return applied{Version: m.version, Sum: m.sum} }
