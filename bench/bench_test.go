package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every figure that README.md quotes is the one of RESULTS.md: `go run . -quote ../README.md` puts them in.
func TestREADMEQuotesTheResults(t *testing.T) {
	files, err := filepath.Glob("RESULTS*.md")
	if err != nil || len(files) == 0 {
		t.Skip("there are no results to quote")
	}
	rows, err := readResults(files...)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted, err := quote(string(text), rows)
	if err != nil {
		t.Fatal(err)
	}
	before, after := strings.Split(string(text), "\n"), strings.Split(quoted, "\n")
	for i := range before {
		if before[i] != after[i] {
			t.Errorf("README.md, line %d:\n%s\nshould be\n%s", i+1, before[i], after[i])
		}
	}
}

// What is not measured again is kept, with how it was measured.
func TestPartOfTheRowsIsMeasured(t *testing.T) {
	file := filepath.Join(t.TempDir(), "RESULTS.md")
	suites := []suite{
		{name: "first", what: "one", rows: []row{{id: "first_a", ours: "x", ref: "y"}, {id: "first_b", ours: "x", ref: "y"}}},
		{name: "second", what: "two", rows: []row{{id: "second_a", ours: "x", ref: "y"}}},
		{name: "third", what: "three", rows: []row{{id: "third_a", ours: "x", ref: "y"}}},
	}
	measure := func(machine string, took float64, names ...string) string {
		t.Helper()
		kept, err := readEarlier(file, suites)
		if err != nil {
			t.Fatal(err)
		}
		r := &report{suites: suites, kept: kept, machine: machine, rounds: 1}
		for _, su := range suites {
			if slices.Contains(names, su.name) {
				delete(r.kept, su.name)
				s := newScores()
				s.add("x", measured{wall: took})
				s.add("y", measured{wall: 2 * took})
				s.note("noted of %s on %s", su.name, machine)
				r.add(su, outcome{scores: s})
			}
		}
		text := r.markdown()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return text
	}
	all := measure("old", 1000, "first", "second", "third")
	if strings.Contains(all, "Kept") {
		t.Error("nothing is kept of nothing")
	}
	measure("newer", 2000, "second")
	got := measure("newest", 3000, "third")
	for _, want := range []string{
		"- machine: newest\n", "Kept from an earlier run: `first`.\n\n- command", "Kept from an earlier run: `second`.\n\n- command", "- machine: old\n", "- machine: newer\n",
		"| `first_a` | 1.00 µs | 2.00 µs | 0.5 ", "| `first_b` | 1.00 µs", "| `second_a` | 2.00 µs", "| `third_a` | 3.00 µs",
		"\n`first`: one\n", "noted of first on old", "noted of second on newer", "noted of third on newest",
	} {
		if n := strings.Count(got, want); n != 1 {
			t.Errorf("%q is there %d times in\n%s", want, n, got)
		}
	}
	if again := measure("old", 1000, "first", "second", "third"); again != all {
		t.Errorf("all were measured again:\n%s\nis not\n%s", again, all)
	}
	if err := os.WriteFile(file, []byte("dear diary"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readEarlier(file, suites); err == nil {
		t.Error("it would be overwritten")
	}
}

func TestQuote(t *testing.T) {
	rows := map[string]figures{"pg_read": {"18.2 µs", "12.0 µs", "1.52"}, "broken": {}}
	for _, c := range []struct{ in, want string }{
		{"| read | 1 µs | 53.1 ms (`stdlib`) | 0.9 | <!-- bench: pg_read -->\n", "| read | 18.2 µs | 12.0 µs (`stdlib`) | 1.52 | <!-- bench: pg_read -->\n"},
		{"| read | 50 ns, no allocation | | | <!-- bench: pg_read -->\n", "| read | 18.2 µs, no allocation | | | <!-- bench: pg_read -->\n"},
		{"| read | 1 µs | 2 µs | 0.5 |\n", "| read | 1 µs | 2 µs | 0.5 |\n"},
	} {
		got, err := quote(c.in, rows)
		if err != nil || got != c.want {
			t.Errorf("quote(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
	for _, bad := range []string{
		"| read | 1 | 2 | 3 | <!-- bench: nobody -->", "| read | 1 | 2 | 3 | <!-- bench: broken -->", "1 µs <!-- bench: pg_read -->",
	} {
		if _, err := quote(bad, rows); err == nil {
			t.Errorf("quote(%q) is nil", bad)
		}
	}
}

// What the command writes, quoting reads.
func TestTheReportIsRead(t *testing.T) {
	s := newScores()
	for i := range 5 {
		s.add("ours", measured{wall: float64(18000 + i)})
		s.add("slow", measured{wall: 20000})
		s.add("fast", measured{wall: 12000})
	}
	r := &report{began: time.Now(), suites: []suite{
		{name: "reads", what: "one statement", rows: []row{
			{id: "pg_read", what: "ours ÷ the best", ours: "ours", ref: "slow|fast", bar: 1.45},
			{id: "unmeasured", ours: "nobody", ref: "fast"},
		}},
		{name: "broken", rows: []row{{id: "broken", ours: "ours", ref: "fast"}}},
	}}
	r.add(r.suites[0], outcome{scores: s})
	r.add(r.suites[1], outcome{scores: newScores(), err: errors.New("no\nserver")})
	file := filepath.Join(t.TempDir(), "RESULTS.md")
	if err := os.WriteFile(file, []byte(r.markdown()), 0o600); err != nil {
		t.Fatal(err)
	}
	rows, err := readResults(file)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := rows["pg_read"], (figures{"18.0 µs", "12.0 µs", "1.5"}); got != want {
		t.Errorf("pg_read is %v, want %v", got, want)
	}
	if !r.measured[0].results[0].missed() {
		t.Error("1.5 does not miss the bar 1.45")
	}
	if err := r.failure(); err == nil || !strings.Contains(err.Error(), "unmeasured") || !strings.Contains(err.Error(), "no\nserver") {
		t.Errorf("failure() is %v, which does not name what could not be measured", err)
	}
}

// An error inside of a measured loop fails the rows, whoever had it and however late.
func TestAContestFailsLoudly(t *testing.T) {
	e := newEnv(true)
	broken := errors.New("broken")
	calls := 0
	late := contender{name: "late", worker: alike(func(context.Context) error {
		if calls++; calls > 7 {
			return broken
		}
		return nil
	})}
	s := newScores()
	if err := e.contest(t.Context(), s, contest{ops: 5}, late); !errors.Is(err, broken) {
		t.Errorf("the contest ends with %v, want the error of its operation", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.contest(gone, s, contest{}, late); !errors.Is(err, context.Canceled) {
		t.Errorf("a contest in a context that has ended returns %v", err)
	}
}

func TestNoRowIsCalledLikeAnother(t *testing.T) {
	seen := make(map[string]bool)
	for _, scale := range []string{"", "10k", "growth"} {
		suites, err := suitesOf(scale)
		if err != nil {
			t.Fatal(err)
		}
		for _, su := range suites {
			for _, r := range su.rows {
				if seen[r.id] {
					t.Errorf("two rows are called %s", r.id)
				}
				seen[r.id] = true
			}
		}
	}
}

func TestTheCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "RESULTS.md")
	if code := run(t.Context(), []string{"-quick", "-rows", "^sqlite_read$", "-o", file}, io.Discard, io.Discard); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	rows, err := readResults(file)
	if err != nil || rows["sqlite_read"][0] == "" {
		t.Errorf("the results hold no sqlite_read: %v, %v", rows, err)
	}
	for _, args := range [][]string{{"-nonsense"}, {"-scale", "11k"}, {"-rows", "("}} {
		if code := run(t.Context(), args, io.Discard, io.Discard); code == 0 {
			t.Errorf("%v: exit status 0", args)
		}
	}
}
