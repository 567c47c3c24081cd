package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// A run that exits 1 shows it in its table, also when what was wrong is of none of the kinds.
func TestRowCountsAllBreaches(t *testing.T) {
	v := &verdict{over: "it", Ops: 5, Writes: 4, Judged: 1, Rows: 3, Calm: 7, Breaches: []string{"lost: this", "something else"}, Faults: map[faultKind]int{faultCut: 2}}
	assert.Equal(t, "| it | 5 | 4 | 1 | 3 | 2 | 3 | 2 | 0 | 1 | 0 | 0 | 0 | 2 × wires cut; 7 deeds in calm weather; 1s |\n", v.row(time.Second))
}

// Of each kind of breach some are printed, however many there are of another.
func TestPrintedOfEachKind(t *testing.T) {
	v := &verdict{Breaches: slices.Repeat([]string{"lost: this"}, 100)}
	v.Breaches = append(v.Breaches, "wrong: that", "something else")
	var out strings.Builder
	v.print(&out, "it", time.Second, false)
	assert.Equal(t, eachKind, strings.Count(out.String(), "    lost: this\n"))
	assert.Contains(t, out.String(), "    wrong: that\n    something else\n    … and 92 more (lost)\n")
}
