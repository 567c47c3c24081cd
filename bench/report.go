package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/internal/machine"
)

// report is what one run found out, and about what.
type report struct {
	machine  string
	server   string
	args     []string
	rounds   int
	slice    time.Duration
	seed     uint64
	began    time.Time
	took     time.Duration
	suites   []suite // all that there are
	measured []suiteReport
	skipped  []string           // suites, and why
	kept     map[string]earlier // suites that were not measured now
}

type suiteReport struct {
	suite
	outcome
	results []result
}

func (r *report) add(su suite, o outcome) {
	sr := suiteReport{suite: su, outcome: o}
	for _, row := range su.rows {
		if o.err != nil {
			sr.results = append(sr.results, result{row: row, err: o.err})
			continue
		}
		sr.results = append(sr.results, row.result(o.scores))
	}
	r.measured = append(r.measured, sr)
}

// skip notes a suite that cannot be measured here.
func (r *report) skip(su suite, why string) {
	r.skipped = append(r.skipped, fmt.Sprintf("`%s`: %s", su.name, why))
}

// failure returns why rows could not be measured.
func (r *report) failure() error {
	var errs []error
	for _, sr := range r.measured {
		if sr.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", sr.name, sr.err))
			continue
		}
		for _, res := range sr.results {
			if res.err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", res.id, res.err))
			}
		}
	}
	return errors.Join(errs...)
}

// draw writes the suites' charts into a directory.
func (r *report) draw(dir string) error {
	for _, sr := range r.measured {
		if sr.charts == nil || sr.err != nil {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for name, c := range sr.charts(sr.scores) {
			if err := os.WriteFile(filepath.Join(dir, name+".svg"), []byte(c.SVG()), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// markdown writes the rows, then everything that was measured for them.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("# Results\n\nWritten by the command; do not edit. The figures are medians of the rounds, the ratio is the median of the rounds' ratios, " +
		"± half the distance between their quartiles.\n\n")
	fmt.Fprintf(&b, "- command: `%s`, %s, %v\n", strings.Join(append([]string{"go run ."}, r.args...), " "),
		r.began.UTC().Format("2006-01-02 15:04 UTC"), r.took.Round(time.Second))
	fmt.Fprintf(&b, "- machine: %s\n- versions: %s\n", r.machine, strings.Join(machine.Versions(), ", ")+r.server)
	fmt.Fprintf(&b, "- %d rounds of %v for each contender, in turn; seed %d\n\n", r.rounds, r.slice, r.seed)
	for _, left := range r.skipped {
		fmt.Fprintf(&b, "Not measured: %s.\n\n", left)
	}
	r.writeRuns(&b)
	b.WriteString(rowHead)
	for _, su := range r.suites {
		b.WriteString(r.kept[su.name].rows)
		if sr := r.of(su); sr != nil {
			for _, res := range sr.results {
				b.WriteString(res.line(sr.what))
			}
		}
	}
	b.WriteString(scoresHead)
	for _, su := range r.suites {
		b.WriteString(r.kept[su.name].scores)
		if sr := r.of(su); sr != nil && sr.err == nil {
			sr.writeScores(&b)
		}
	}
	return b.String()
}

// of returns what was measured of a suite, or nil.
func (r *report) of(su suite) *suiteReport {
	for i := range r.measured {
		if r.measured[i].name == su.name {
			return &r.measured[i]
		}
	}
	return nil
}

const scoresHead = "\n## What was measured\n\nTime is by the clock, divided by all operations: where 8 goroutines are at work, each of them waits 8 times as long. " +
	"CPU is that of all processes, an operation.\n"

const rowHead = "| row | ours | reference | ratio | ± | bar | | what |\n|---|--:|--:|--:|--:|--:|---|---|\n"

func (r result) line(suite string) string {
	what := suite + ": " + r.what
	if r.err != nil {
		return fmt.Sprintf("| `%s` | | | | | %s | **failed** | %s (%s) |\n", r.id, bar(r.bar), what, oneLine(r.err))
	}
	verdict := ""
	switch {
	case r.missed():
		verdict = "**missed**"
	case r.Bar > 0, r.none:
		verdict = "ok"
	}
	if r.none {
		return fmt.Sprintf("| `%s` | %s | | | | none | %s | %s |\n", r.id, r.metric.format(r.Ours), verdict, what)
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s | %.3f | %s | %s | %s |\n", r.id, r.metric.format(r.Ours), r.metric.format(r.Reference),
		ratio(r.Ratio), r.Spread, bar(r.Bar), verdict, what)
}

func ratio(v float64) string { return fmt.Sprintf("%.3g", v) }

func bar(v float64) string {
	if v == 0 {
		return ""
	}
	return "≤ " + ratio(v)
}

func oneLine(err error) string {
	return strings.ReplaceAll(strings.ReplaceAll(err.Error(), "\n", "; "), "|", "/")
}

// writeScores writes a table of all contenders of a suite.
func (sr suiteReport) writeScores(b *strings.Builder) {
	fmt.Fprintf(b, "\n`%s`: %s\n\n| |", sr.name, sr.what)
	metrics := sr.scores.metrics()
	for _, m := range metrics {
		fmt.Fprintf(b, " %s |", m)
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(metrics)) + "\n")
	for _, name := range sr.scores.names {
		fmt.Fprintf(b, "| %s |", name)
		for _, m := range metrics {
			cell := ""
			if series := sr.scores.of[name][m]; len(series) > 0 {
				cell = m.format(median(series))
			}
			fmt.Fprintf(b, " %s |", cell)
		}
		b.WriteString("\n")
	}
	for _, note := range sr.scores.notes {
		fmt.Fprintf(b, "\n%s\n", note)
	}
}

// versions of the servers that were used.
func (e *env) versions(ctx context.Context) (out string) {
	if e.cluster == nil {
		return ""
	}
	_ = e.asAdmin(ctx, func(conn *pgx.Conn) error {
		var version string
		if err := conn.QueryRow(ctx, `SELECT current_setting('server_version')`).Scan(&version); err != nil {
			return err
		}
		out = ", Postgres " + version
		return nil
	})
	if e.bouncer != "" {
		out += ", PgBouncer " + e.bouncer
	}
	return out
}
