package manage_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/internal/pgtest"
)

var update = flag.Bool("update", false, "write what comes out into the golden files, SQLite's first")

// Each directory of testdata is a case:
//
//	args      command lines, one a line. All but the last prepare the case and must succeed; "old: " before one means
//	          that the binary before the last migrations runs it
//	stdin     what the last one reads, where there is something
//	terminal  its streams are a terminal, where this file is there
//	reads     it changes nothing, where this file is there: such cases share the stores that the same lines prepared
//	stdout, stderr, status
//	          what has to come out. With the suffix .postgres: there, where it differs
//
// S68, S70 and what goes wrong on the command line.
func TestGolden(t *testing.T) {
	t.Parallel()
	parent := t
	dirs, err := filepath.Glob("testdata/*/args")
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	var prepared preparations
	for _, file := range dirs {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			if *update {
				// One after the other: what Postgres differs in is written beside what SQLite gave.
				runCase(t, dir, prepared.place(t, parent, dir, backend.SQLite), backend.SQLite)
				runCase(t, dir, prepared.place(t, parent, dir, backend.Postgres), backend.Postgres)
				return
			}
			for _, d := range []backend.Dialect{backend.SQLite, backend.Postgres} {
				t.Run(string(d), func(t *testing.T) {
					t.Parallel()
					if d == backend.Postgres {
						pgtest.Shared(t) // skips this test, and not the parent, whose places they are
					}
					runCase(t, dir, prepared.place(t, parent, dir, d), d)
				})
			}
		})
	}
}

// preparations are the stores of the cases that only read, by what prepared them.
type preparations struct {
	mu     sync.Mutex
	places map[string]func() *place
}

// place returns the stores of a case, prepared.
func (p *preparations) place(t, parent *testing.T, dir string, d backend.Dialect) *place {
	calls := caseCalls(t, dir)
	prepare := func(owner *testing.T) *place {
		at := newPlace(owner, d)
		for _, c := range calls[:len(calls)-1] {
			at.run(t, c)
			require.Zero(t, c.status, "%v: %s", c.args, c.stderr.String())
		}
		return at
	}
	if _, reads := optional(t, filepath.Join(dir, "reads")); !reads {
		return prepare(t)
	}
	key := string(d)
	for _, c := range calls[:len(calls)-1] {
		key += fmt.Sprintf("\n%v %q", c.old, c.args)
	}
	p.mu.Lock()
	if p.places == nil {
		p.places = map[string]func() *place{}
	}
	if p.places[key] == nil {
		p.places[key] = sync.OnceValue(func() *place { return prepare(parent) })
	}
	get := p.places[key]
	p.mu.Unlock()
	return get()
}

func caseCalls(t *testing.T, dir string) (calls []*call) {
	text, err := os.ReadFile(filepath.Join(dir, "args"))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		line, old := strings.CutPrefix(line, "old: ")
		calls = append(calls, &call{args: words(t, strings.TrimSuffix(line, "\n")), old: old})
	}
	return calls
}

func runCase(t *testing.T, dir string, p *place, d backend.Dialect) {
	calls := caseCalls(t, dir)
	last := calls[len(calls)-1]
	last.stdin, _ = optional(t, filepath.Join(dir, "stdin"))
	_, last.terminal = optional(t, filepath.Join(dir, "terminal"))
	p.run(t, last)
	golden(t, filepath.Join(dir, "stdout"), d, steady(last.stdout.String()))
	golden(t, filepath.Join(dir, "stderr"), d, steady(last.stderr.String()))
	golden(t, filepath.Join(dir, "status"), d, strconv.Itoa(last.status)+"\n")
}

func optional(t *testing.T, file string) (string, bool) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false
	}
	require.NoError(t, err)
	return string(text), true
}

// golden compares text with a file. A file that is not there is an empty text.
func golden(t *testing.T, file string, d backend.Dialect, text string) {
	t.Helper()
	want, _ := optional(t, file)
	own := file + "." + string(d)
	if special, ok := optional(t, own); ok && d != backend.SQLite {
		want, file = special, own
	}
	if !*update {
		assert.Equal(t, want, text, file)
		return
	}
	if d != backend.SQLite {
		_ = os.Remove(own)
		common, _ := optional(t, strings.TrimSuffix(file, "."+string(d)))
		if common == text {
			return
		}
		file = own
	} else if text == "" {
		_ = os.Remove(file)
		return
	}
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
}

// steady replaces what is another at each run by something of the same length.
func steady(text string) string {
	for _, r := range []struct{ pattern, with string }{
		{`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`, "01234567-89ab-7cde-8f01-23456789abcd"},
		{`20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z`, "2026-01-02T03:04:05Z"},
		{`20[0-9]{2}-[0-9]{2}-[0-9]{2}`, "2026-01-02"},
		{`"elapsed_(ms|ns)":[0-9]+`, `"elapsed_$1":0`},
		{`(?m)^[0-9]+ of [0-9]+ stores done, [0-9]+ failed\n`, ""}, // a run that takes long says how far it is
		{`"fingerprint": "[0-9a-f]+"`, `"fingerprint": "0123456789abcdef"`},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.with)
	}
	return text
}

// words splits a line at its spaces; double quotes keep them.
func words(t *testing.T, line string) []string {
	var list []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			list = append(list, part)
		} else {
			list = append(list, strings.Fields(part)...)
		}
	}
	require.Zero(t, strings.Count(line, `"`)%2, "a quote is not closed: %s", line)
	return list
}
