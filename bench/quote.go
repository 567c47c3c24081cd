package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A line of a table in README.md that quotes a row carries its name in a comment:
//
//	| Postgres point read | 18.2 µs | 12.1 µs (`stdlib`) | 1.5 | <!-- bench: pg_read_sql -->
//
// Its second, third and fourth cell begin with the row's figures: ours, the reference, the ratio. An empty cell stays
// empty, and what follows the figure stays as it is.

var (
	quoteMark = regexp.MustCompile(`<!-- bench: (\w+) -->`)
	figure    = regexp.MustCompile(`^(\s*)[0-9][0-9.,]*( (ns|µs|ms|s|B|kB|MB|GB)\b)?`)
	resultRow = regexp.MustCompile("^\\| `(\\w+)` \\|")
)

// figures are the three cells of a row of RESULTS.md.
type figures [3]string

// readResults reads the rows of files that the command has written.
func readResults(files ...string) (map[string]figures, error) {
	rows := make(map[string]figures)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			m := resultRow.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			cells := strings.Split(line, "|")
			if len(cells) < 5 {
				return nil, fmt.Errorf("%s: %q has too few cells", file, line)
			}
			var f figures
			for i := range f {
				f[i] = strings.TrimSpace(cells[i+2])
			}
			rows[m[1]] = f
		}
	}
	return rows, nil
}

// quote returns text with the figures of its marked lines put in.
func quote(text string, rows map[string]figures) (string, error) {
	var (
		out  strings.Builder
		errs []error
	)
	for line := range strings.Lines(text) {
		m := quoteMark.FindStringSubmatch(line)
		if m == nil {
			out.WriteString(line)
			continue
		}
		f, ok := rows[m[1]]
		cells := strings.Split(line, "|")
		switch {
		case !ok || f[0] == "":
			errs = append(errs, fmt.Errorf("row %q was not measured", m[1]))
		case len(cells) < 6:
			errs = append(errs, fmt.Errorf("row %q is quoted in a line that is not one of a table of four columns", m[1]))
		default:
			for i, value := range f {
				cells[i+2] = figure.ReplaceAllString(cells[i+2], "${1}"+value)
			}
		}
		out.WriteString(strings.Join(cells, "|"))
	}
	return out.String(), errors.Join(errs...)
}

// quoteFile puts the figures of the RESULTS*.md of this directory into a file.
func quoteFile(name string) error {
	results, err := filepath.Glob("RESULTS*.md")
	if err != nil || len(results) == 0 {
		return errors.Join(err, errors.New("there is no RESULTS*.md here: measure first, with -o RESULTS.md"))
	}
	rows, err := readResults(results...)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	quoted, err := quote(string(text), rows)
	if err != nil {
		return err
	}
	return os.WriteFile(name, []byte(quoted), 0o644)
}
