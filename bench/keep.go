package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
)

// With -rows, a results file keeps what it has of the suites that are not measured, or cannot be here, with what it says of how that was
// measured. Else whoever measures one row again would lose all others, which took hours.

// earlier is what a results file has of a suite.
type earlier struct {
	run    string // the lines that say how it was measured
	rows   string // lines of the table
	scores string // and its own section
}

var (
	runBlock = regexp.MustCompile("(?m)(?:^Kept from an earlier run: (.*)\\.\n\n)?((?:^- .*\n)+)")
	section  = regexp.MustCompile("(?m)^`(\\w+)`: ")
	quoted   = regexp.MustCompile("`(\\w+)`")
)

// readEarlier reads what a file has of suites, by their names. A file that is not there has nothing.
func readEarlier(file string, suites []suite) (map[string]earlier, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	head, sections, ok := strings.Cut(string(data), scoresHead)
	head, table, ok2 := strings.Cut(head, rowHead)
	if !ok || !ok2 {
		return nil, fmt.Errorf("%s is no results file: write to another, or measure all rows", file)
	}
	var newest string
	of := map[string]string{}
	for _, m := range runBlock.FindAllStringSubmatch(head, -1) {
		if m[1] == "" {
			newest = m[2]
		}
		for _, name := range quoted.FindAllStringSubmatch(m[1], -1) {
			of[name[1]] = m[2]
		}
	}
	found := map[string]earlier{}
	for _, su := range suites {
		k := earlier{run: newest}
		if run, has := of[su.name]; has {
			k.run = run
		}
		for line := range strings.Lines(table) {
			m := resultRow.FindStringSubmatch(line)
			if m != nil && slices.ContainsFunc(su.rows, func(r row) bool { return r.id == m[1] }) {
				k.rows += line
			}
		}
		if k.rows != "" {
			found[su.name] = k
		}
	}
	starts := section.FindAllStringSubmatchIndex(sections, -1)
	for i, at := range starts {
		end := len(sections)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		name := sections[at[2]:at[3]]
		if k, has := found[name]; has {
			k.scores = "\n" + strings.TrimRight(sections[at[0]:end], "\n") + "\n"
			found[name] = k
		}
	}
	return found, nil
}

// writeRuns says of what is kept how it was measured.
func (r *report) writeRuns(b *strings.Builder) {
	var runs []string
	names := map[string][]string{}
	for _, su := range r.suites {
		if k, kept := r.kept[su.name]; kept {
			if names[k.run] == nil {
				runs = append(runs, k.run)
			}
			names[k.run] = append(names[k.run], "`"+su.name+"`")
		}
	}
	for _, run := range runs {
		fmt.Fprintf(b, "Kept from an earlier run: %s.\n\n%s\n", strings.Join(names[run], ", "), run)
	}
}
