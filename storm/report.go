package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tenement-go/tenement/internal/machine"
)

// head is how the file of results begins.
func head(title string, t terms, began time.Time) string {
	return fmt.Sprintf("# %s\n\nWritten by the command; do not edit.\n\n- command: `go run . %s`, seed %d, %s, %v\n- machine: %s\n- versions: %s\n\n",
		title, strings.Join(t.args, " "), t.seed, began.UTC().Format("2006-01-02 15:04 UTC"), time.Since(began).Round(time.Second),
		machine.Describe(), strings.Join(machine.Versions(), ", "))
}

// overStages does the same over one set-up after another, and puts what came of it into a table.
func overStages(fn func(ctx context.Context, st *stage, t terms) (*verdict, error)) func(context.Context, terms, io.Writer) (string, bool, error) {
	return func(ctx context.Context, t terms, w io.Writer) (string, bool, error) {
		table := "| over | operations | writes | judged | not judged | faults | rows checked | breaches | wrong | lost | hung | left | died | |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n"
		ok := true
		for name := range strings.SplitSeq(t.on, ",") {
			began := time.Now()
			v, err := onStage(ctx, name, func(st *stage) (*verdict, error) {
				v, err := fn(ctx, st, t)
				if v != nil {
					v.over = st.what
				}
				return v, err
			})
			if err != nil {
				return "", false, fmt.Errorf("%s: %w", name, err)
			}
			took := time.Since(began).Round(time.Second)
			v.print(w, name, took, t.errors)
			table += v.row(took)
			ok = ok && len(v.Breaches) == 0
		}
		return table, ok, nil
	}
}

// breachKinds are the words that a breach begins with.
var breachKinds = []string{"wrong", "lost", "hung", "leak", "died"}

// counts says how many breaches there were of each kind.
func (v *verdict) counts() []int {
	n := make([]int, len(breachKinds))
	for _, b := range v.Breaches {
		if i := slices.Index(breachKinds, kindOf(b)); i >= 0 {
			n[i]++
		}
	}
	return n
}

// kindOf returns what kind of breach it is, or nothing.
func kindOf(breach string) string {
	if kind, _, _ := strings.Cut(breach, ":"); slices.Contains(breachKinds, kind) {
		return kind
	}
	return ""
}

// eachKind is how many breaches of a kind are printed.
const eachKind = 8

func (v *verdict) faults() (n int) {
	for _, of := range v.Faults {
		n += of
	}
	return n
}

// row is the verdict in the table of the results.
func (v *verdict) row(took time.Duration) string {
	cells := []any{v.over, v.Ops, v.Writes, v.Judged, v.Writes - v.Judged, v.faults(), v.Rows, len(v.Breaches)}
	for _, n := range v.counts() {
		cells = append(cells, n)
	}
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(v.Faults)) {
		kinds = append(kinds, fmt.Sprintf("%d × %s", v.Faults[kind], kind))
	}
	rest := strings.Join(kinds, ", ")
	if v.Calm > 0 {
		rest += fmt.Sprintf("; %d deeds in calm weather", v.Calm)
	}
	return fmt.Sprintf("| %v | %v | %v | %v | %v | %v | %v | %v | %v | %v | %v | %v | %v | %v; %v |\n", append(cells, rest, took)...)
}

func (v *verdict) print(w io.Writer, name string, took time.Duration, withErrors bool) {
	n := v.counts()
	fmt.Fprintf(w, "%-9s %8d operations, %d writes (%d judged, %d not), %d faults, %d tenants, %d rows checked: %d breaches: %d wrong, %d lost, %d hung, %d left, %d died; %v\n",
		name, v.Ops, v.Writes, v.Judged, v.Writes-v.Judged, v.faults(), v.Tenants, v.Rows, len(v.Breaches), n[0], n[1], n[2], n[3], n[4], took)
	for _, kind := range slices.Sorted(maps.Keys(v.Faults)) {
		fmt.Fprintf(w, "    %4d %s\n", v.Faults[kind], kind)
	}
	if v.Calm > 0 {
		fmt.Fprintf(w, "    %4d deeds in calm weather\n", v.Calm)
	}
	printed := make(map[string]int)
	for _, b := range v.Breaches {
		kind := kindOf(b)
		if printed[kind]++; printed[kind] <= eachKind {
			fmt.Fprintf(w, "    %.400s\n", b)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(printed)) {
		if more := printed[kind] - eachKind; more > 0 {
			fmt.Fprintf(w, "    … and %d more (%s)\n", more, cmp.Or(kind, "other"))
		}
	}
	if !withErrors {
		return
	}
	for _, text := range slices.SortedFunc(maps.Keys(v.Errors), func(a, b string) int { return v.Errors[b] - v.Errors[a] }) {
		fmt.Fprintf(w, "    %6d × %s\n", v.Errors[text], text)
	}
}
