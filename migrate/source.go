package migrate

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/tenement-go/tenement/backend"
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
	tx      bool // goose runs it in a transaction
	text    bool // may be sent as whole text: see fast
	varies  bool // its outcome may differ from store to store, so a template must not contain it
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
	hasUp      = regexp.MustCompile(`(?mi)^--\s*\+goose\s+up\s*$`)
	tableName  = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)
)

func newSets(d dialect, shared, tenant []Source) (sharedSet, tenantSet *set, err error) {
	var faults []error
	sharedSet = newSet(d, SetShared, shared, &faults)
	tenantSet = newSet(d, SetTenant, tenant, &faults)
	return sharedSet, tenantSet, errors.Join(faults...)
}

// newSystem reads the sources of a library's own tables.
func newSystem(d dialect, sources []Source) ([]*series, error) {
	var faults []error
	s := newSet(d, SetShared, sources, &faults)
	return s.sources, errors.Join(faults...)
}

func newSet(d dialect, kind Set, sources []Source, faults *[]error) *set {
	s := &set{kind: kind, target: state{}}
	tables := map[string]string{ledgerTable: ledgerSourceName, statesTable: ledgerSourceName, ledgerVersions: ledgerSourceName}
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
		src.load(d, in, fault)
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

// variant is a migration file: for one dialect, or for any.
type variant struct {
	file    string
	name    string // without the dialect
	dialect backend.Dialect
	text    []byte
}

// load reads and checks a source's files, those of the other dialect too: a file that only production would refuse
// should be refused on the developer's machine.
func (s *series) load(d dialect, in Source, fault func(SourceError)) {
	versions := map[int64][]variant{}
	s.files, s.running = fileSet{}, fileSet{}
	if in.FS != nil {
		names, err := fs.Glob(in.FS, "*")
		if err != nil {
			fault(SourceError{Reason: "cannot list the files: " + err.Error(), Err: err})
			return
		}
		for _, name := range names {
			if ext := path.Ext(name); (ext != ".sql" && ext != ".go") || strings.HasSuffix(name, "_test.go") {
				continue
			}
			version, err := goose.NumericComponent(name)
			if err != nil {
				continue // as goose does: helpers may live beside the migrations
			}
			if path.Ext(name) == ".go" {
				// Only there to be counted: goose wants each to be registered.
				s.files[name], s.running[name] = nil, nil
				continue
			}
			text, err := fs.ReadFile(in.FS, name)
			if err != nil {
				fault(SourceError{File: name, Reason: "cannot be read: " + err.Error(), Err: err})
				return
			}
			v := variant{file: name, name: strings.TrimSuffix(name, ".sql"), text: text}
			for _, dialect := range []backend.Dialect{backend.SQLite, backend.Postgres} {
				if base, ok := strings.CutSuffix(v.name, "."+string(dialect)); ok {
					v.name, v.dialect = base, dialect
				}
			}
			versions[version] = append(versions[version], v)
		}
	}

	goMigrations := map[int64]*goose.Migration{}
	if in.Go != nil {
		for _, m := range in.Go() {
			if goMigrations[m.Version] != nil {
				fault(SourceError{File: m.Source, Reason: fmt.Sprintf("two Go migrations have version %d", m.Version)})
				return
			}
			goMigrations[m.Version] = m
		}
	}
	if len(versions)+len(goMigrations) == 0 {
		fault(SourceError{Reason: "no migrations: FS must have files such as 00001_init.sql at its root (use fs.Sub to step into a directory)", Err: goose.ErrNoMigrations})
		return
	}

	ok := true
	for _, version := range slices.Sorted(maps.Keys(versions)) {
		variants := versions[version]
		if m := goMigrations[version]; m != nil {
			fault(SourceError{File: variants[0].file, Reason: fmt.Sprintf("version %d is a Go migration of this source too", version)})
			ok = false
			continue
		}
		chosen := choose(version, variants, d.name, func(e SourceError) { ok = false; fault(e) })
		for _, v := range variants {
			m := &migration{source: s, version: version, file: v.file, sql: true, sum: checksum(v.text)}
			if err := m.parse(v.text); err != nil {
				ok = false
				why := reason(err)
				if !hasUp.Match(v.text) {
					why = "there is no line '-- +goose Up' ahead of the first statement: " + why
				}
				fault(SourceError{File: v.file, Line: faultyLine(v, err), Reason: why, Err: err})
				continue
			}
			if chosen != nil && v.file == chosen.file {
				m.text, m.varies = m.traits(d, v.text)
				s.migrations = append(s.migrations, m)
				s.files[v.file], s.running[v.file] = v.text, m.beginningText(v.text, d.begin)
			}
		}
	}
	if !ok {
		return
	}
	for _, g := range goMigrations {
		s.migrations = append(s.migrations, &migration{
			source: s, version: g.Version, file: g.Source, sum: "go", tx: g.UseTx, varies: true,
		})
	}
	slices.SortFunc(s.migrations, func(a, b *migration) int { return cmp.Compare(a.version, b.version) })

	// goose has the last word on the whole.
	db := (&recorder{}).open()
	defer func() { _ = db.Close() }()
	if _, err := s.provider(db, providerOptions{store: &scriptedStore{}, files: s.files}); err != nil {
		fault(SourceError{Reason: reason(err), Err: err})
	}
}

// choose returns the variant of a version that d sees.
func choose(version int64, variants []variant, d backend.Dialect, fault func(SourceError)) *variant {
	byDialect := map[backend.Dialect]*variant{}
	for i := range variants {
		v := &variants[i]
		if v.name != variants[0].name || byDialect[v.dialect] != nil {
			fault(SourceError{File: v.file, Reason: fmt.Sprintf("version %d is that of %s too; give one of them another number", version, variants[0].file)})
			return nil
		}
		byDialect[v.dialect] = v
	}
	if byDialect[""] == nil {
		for _, pair := range [][2]backend.Dialect{{backend.SQLite, backend.Postgres}, {backend.Postgres, backend.SQLite}} {
			if byDialect[pair[0]] == nil {
				fault(SourceError{
					File: byDialect[pair[1]].file,
					Reason: fmt.Sprintf("there is nothing for %s: add %[2]s.%[1]s.sql or %[2]s.sql (with an empty Up when there is nothing to do)",
						pair[0], variants[0].name),
				})
				return nil
			}
		}
	}
	if v := byDialect[d]; v != nil {
		return v
	}
	return byDialect[""]
}

// checksum identifies the text of a migration. Line ends do not count: a checkout on Windows is not an edit.
func checksum(text []byte) string {
	sum := sha256.Sum256(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
	return hex.EncodeToString(sum[:8])
}

// reason strips goose's wrapping, which says again what SourceError says.
func reason(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// parse has goose read the migration, by applying it to a database that only takes notes.
func (m *migration) parse(text []byte) error {
	rec := &recorder{}
	db := rec.open()
	defer func() { _ = db.Close() }()
	src, file := &series{}, fileSet{m.file: text}
	p, err := src.provider(db, providerOptions{store: &scriptedStore{}, files: file})
	if err != nil {
		return err
	}
	if _, err := p.ApplyVersion(context.Background(), m.version, true); err != nil {
		return err
	}
	m.up, m.tx = rec.statements, rec.began
	rec.statements = nil
	if p, err = src.provider(db, providerOptions{store: &scriptedStore{applied: true}, files: file}); err != nil {
		return err
	}
	if _, err := p.ApplyVersion(context.Background(), m.version, false); err != nil {
		return err
	}
	m.down = rec.statements
	return nil
}

// faultyLine finds the first line from which on goose has the complaint that it has about the whole file.
func faultyLine(v variant, complaint error) int {
	version, err := goose.NumericComponent(v.file)
	if err != nil {
		return 0
	}
	lines := bytes.SplitAfter(v.text, []byte("\n"))
	end := 0
	for i, line := range lines {
		end += len(line)
		m := &migration{version: version, file: v.file}
		if err := m.parse(v.text[:end]); err != nil && err.Error() == complaint.Error() {
			return i + 1
		}
	}
	return 0
}

// fileSet is a file system of files held in memory, all at its root.
type fileSet map[string][]byte

var (
	_ fs.ReadDirFS  = fileSet(nil)
	_ fs.ReadFileFS = fileSet(nil)
)

// Open implements fs.FS.
func (f fileSet) Open(name string) (fs.File, error) {
	if name == "." {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
	}
	text, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memoryFile{Reader: bytes.NewReader(text), info: fileInfo{name: name, size: int64(len(text))}}, nil
}

// ReadFile implements fs.ReadFileFS.
func (f fileSet) ReadFile(name string) ([]byte, error) {
	text, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return slices.Clone(text), nil
}

// ReadDir implements fs.ReadDirFS.
func (f fileSet) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	entries := make([]fs.DirEntry, 0, len(f))
	for _, name := range slices.Sorted(maps.Keys(f)) {
		entries = append(entries, fs.FileInfoToDirEntry(fileInfo{name: name, size: int64(len(f[name]))}))
	}
	return entries, nil
}

// Stat implements fs.StatFS.
func (f fileSet) Stat(name string) (fs.FileInfo, error) {
	text, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return fileInfo{name: name, size: int64(len(text))}, nil
}

type memoryFile struct {
	io.Reader
	info fileInfo
}

func (f *memoryFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *memoryFile) Close() error               { return nil }

type fileInfo struct {
	name string
	size int64
}

func (i fileInfo) Name() string     { return i.name }
func (i fileInfo) Size() int64      { return i.size }
func (fileInfo) Mode() fs.FileMode  { return 0o444 }
func (fileInfo) ModTime() time.Time { return time.Time{} }
func (fileInfo) IsDir() bool        { return false }
func (fileInfo) Sys() any           { return nil }
