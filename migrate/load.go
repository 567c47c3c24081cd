package migrate

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/pressly/goose/v3"

	"github.com/tenement-go/tenement/backend"
)

var hasUp = regexp.MustCompile(`(?mi)^--\s*\+goose\s+up\s*$`)

// variant is a migration file: for one dialect, or for any.
type variant struct {
	file    string
	name    string // without the dialect
	dialect backend.Dialect
	text    []byte
}

// load reads and checks a source's files, those of the other dialect too: a file that only production would refuse
// should be refused on the developer's machine.
func (s *series) load(d dialect, kind Set, in Source, fault func(SourceError)) {
	s.files, s.running = fileSet{}, fileSet{}
	ok := true
	report := func(e SourceError) { ok = false; fault(e) }
	versions := s.readFiles(in.FS, report)
	goMigrations := readGo(in.Go, report)
	if !ok {
		return
	}
	if len(versions)+len(goMigrations) == 0 {
		fault(SourceError{Reason: "no migrations: FS must have files such as 00001_init.sql at its root (use fs.Sub to step into a directory)", Err: goose.ErrNoMigrations})
		return
	}
	for _, version := range slices.Sorted(maps.Keys(versions)) {
		variants := versions[version]
		if goMigrations[version] != nil {
			report(SourceError{File: variants[0].file, Reason: fmt.Sprintf("version %d is a Go migration of this source too", version)})
			continue
		}
		chosen := choose(version, variants, d.name, report)
		for i := range variants {
			m := s.readMigration(d.name, kind, version, &variants[i], report)
			if m != nil && chosen == &variants[i] {
				m.take(d, m.readings(d.name))
				s.migrations = append(s.migrations, m)
				s.files[m.file], s.running[m.file] = chosen.text, m.beginningText(chosen.text, d.begin)
			}
		}
	}
	if !ok {
		return
	}
	for _, g := range goMigrations {
		s.migrations = append(s.migrations, &migration{
			source: s, version: g.Version, file: g.Source, sum: "go", tx: g.UseTx, varies: true,
			noDown: g.DownFnContext == nil && g.DownFnNoTxContext == nil,
		})
	}
	slices.SortFunc(s.migrations, func(a, b *migration) int { return cmp.Compare(a.version, b.version) })

	// goose has the last word on the whole.
	db := (&recorder{}).open()
	defer func() { _ = db.Close() }()
	if _, err := s.provider(db, providerOptions{store: &scriptedStore{}, files: s.files, byGo: slices.Collect(maps.Values(goMigrations))}); err != nil {
		fault(SourceError{Reason: reason(err), Err: err})
	}
}

// readFiles reads the SQL files, by version.
func (s *series) readFiles(fsys fs.FS, fault func(SourceError)) map[int64][]variant {
	versions := map[int64][]variant{}
	if fsys == nil {
		return versions
	}
	names, err := fs.Glob(fsys, "*")
	if err != nil {
		fault(SourceError{Reason: "cannot list the files: " + err.Error(), Err: err})
		return nil
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
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			fault(SourceError{File: name, Reason: "cannot be read: " + err.Error(), Err: err})
			return nil
		}
		v := variant{file: name, name: strings.TrimSuffix(name, ".sql"), text: text}
		for _, dialect := range []backend.Dialect{backend.SQLite, backend.Postgres} {
			if base, ok := strings.CutSuffix(v.name, "."+string(dialect)); ok {
				v.name, v.dialect = base, dialect
			}
		}
		versions[version] = append(versions[version], v)
	}
	return versions
}

func readGo(list func() []*goose.Migration, fault func(SourceError)) map[int64]*goose.Migration {
	byVersion := map[int64]*goose.Migration{}
	if list == nil {
		return byVersion
	}
	for _, m := range list() {
		if byVersion[m.Version] != nil {
			fault(SourceError{File: m.Source, Reason: fmt.Sprintf("two Go migrations have version %d", m.Version)})
			return nil
		}
		byVersion[m.Version] = m
	}
	return byVersion
}

// readMigration has goose read a file, and refuses what goose would run to its own harm used being the dialect at hand.
// It returns nil for what is refused.
func (s *series) readMigration(used backend.Dialect, kind Set, version int64, v *variant, fault func(SourceError)) *migration {
	if bytes.HasPrefix(v.text, []byte("\xef\xbb\xbf")) {
		fault(SourceError{File: v.file, Line: 1, Reason: "the file begins with a byte order mark, behind which goose does not see '-- +goose Up'; save it as UTF-8 without one"})
		return nil
	}
	m := &migration{source: s, version: version, file: v.file, sql: true, sum: checksum(v.text), envsub: substitutes(v.text)}
	if err := m.parse(v.text); err != nil {
		why := reason(err)
		if !hasUp.Match(v.text) {
			why = "there is no line '-- +goose Up' ahead of the first statement: " + why
		}
		fault(SourceError{File: v.file, Line: faultyLine(*v, err), Reason: why, Err: err})
		return nil
	}
	// A file for any dialect is held to the rules of both.
	type finding struct {
		line int
		why  string
	}
	var found []finding
	refuse := func(line int, why string) {
		if f := (finding{line, why}); !slices.Contains(found, f) {
			found = append(found, f)
			fault(SourceError{File: v.file, Line: line, Reason: why})
		}
	}
	for _, d := range []backend.Dialect{backend.SQLite, backend.Postgres} {
		if v.dialect == "" || v.dialect == d {
			r := rules{of: d, used: used, kind: kind, fault: refuse}
			r.check(m, v.text, m.down, r.check(m, v.text, m.up, 0))
		}
	}
	if len(found) > 0 {
		return nil
	}
	return m
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
