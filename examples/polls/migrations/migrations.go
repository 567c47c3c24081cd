// Package migrations embeds the schema of the polls application: three sets of goose files.
//
// A file named NNNNN_name.sql is for every database; NNNNN_name.sqlite.sql and NNNNN_name.postgres.sql are a pair, one for
// each. The application's SQL is the same on both: only the way in which a column numbers itself differs.
package migrations

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed shared/*.sql auth/*.sql polls/*.sql
var files embed.FS

// Shared is the set of the tables that all tenants read: the plans.
func Shared() fs.FS { return sub("shared") }

// Auth is the set of users, sessions and API tokens. It comes before Polls, whose tables refer to users.
func Auth() fs.FS { return sub("auth") }

// Polls is the set of polls, choices and votes.
func Polls() fs.FS { return sub("polls") }

func sub(dir string) fs.FS {
	fsys, err := fs.Sub(files, dir)
	if err != nil {
		panic(err) // The directories are constants that the compiler has embedded.
	}
	return fsys
}

// ForDialect returns fsys without the files that are for another dialect ("sqlite" or "postgres"), for whoever runs goose
// without something that knows the naming rule: goose itself would take the two files of a pair for a duplicated version.
func ForDialect(fsys fs.FS, dialect string) (fs.FS, error) {
	if dialect != "sqlite" && dialect != "postgres" {
		return nil, fmt.Errorf("migrations: unknown dialect %q: use sqlite or postgres", dialect)
	}
	return dialectFS{FS: fsys, dialect: dialect}, nil
}

// dialectFS leaves the other dialect's files out of what Glob finds, which is how goose looks for migrations.
type dialectFS struct {
	fs.FS
	dialect string
}

var _ fs.GlobFS = dialectFS{}

// Glob implements [fs.GlobFS].
func (d dialectFS) Glob(pattern string) ([]string, error) {
	names, err := fs.Glob(d.FS, pattern)
	return slices.DeleteFunc(names, func(name string) bool {
		suffix := strings.TrimPrefix(path.Ext(strings.TrimSuffix(name, ".sql")), ".")
		return suffix != "" && suffix != d.dialect
	}), err
}
