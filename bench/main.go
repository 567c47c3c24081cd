// Command bench prints the project's figures: ours beside a reference that does the same with the bare driver, a
// hand-written script or a peer, measured in turn in one run.
//
//	cd bench && go run . [-quick] [-json] [-only NAME] [-rounds N]
//
// It starts a Postgres cluster of its own from the installed binaries (or uses the one that TENEMENT_TEST_POSTGRES
// names). Every row is a ratio, ours ÷ reference, against the bar that the project set itself; the exit status is 1 when
// a row could not be measured, not when a bar was missed, since timings differ from machine to machine.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	quick := flags.Bool("quick", false, "smaller sizes and fewer rounds: ends within 60 seconds, and says less")
	asJSON := flags.Bool("json", false, "print one JSON object per row")
	only := flags.String("only", "", "measure only the rows whose name matches this regular expression")
	rounds := flags.Int("rounds", 0, "rounds per row (default 7, with -quick 3)")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintf(stderr, "bench: -only: %v\n", err)
		return 2
	}
	env := newEnv(*quick)
	defer env.close()
	if *rounds > 0 {
		env.rounds = *rounds
	}
	failed := 0
	var results []result
	for _, s := range slices.Concat(sqliteSuites, postgresSuites, tenancySuites, fleetSuites) {
		if !slices.ContainsFunc(s.rows, match.MatchString) {
			continue
		}
		if ctx.Err() != nil {
			return 1
		}
		began := time.Now()
		rs, err := s.measure(ctx, env)
		if err != nil {
			failed++
			fmt.Fprintf(stderr, "bench: %v: %v\n", s.rows, err)
			continue
		}
		for _, r := range rs {
			if !match.MatchString(r.Name) {
				continue
			}
			results = append(results, r)
			if *asJSON {
				_ = json.NewEncoder(stdout).Encode(r)
			}
		}
		fmt.Fprintf(stderr, "measured %v in %v\n", s.rows, time.Since(began).Round(time.Millisecond))
	}
	if !*asJSON {
		print(stdout, results)
	}
	if failed > 0 {
		return 1
	}
	return 0
}

// suite measures one or more rows that share a set-up.
type suite struct {
	rows    []string
	measure func(context.Context, *env) ([]result, error)
}

// result is one row. Ratio is ours ÷ reference; where the bar is an absolute number, Reference holds that number and
// the bar is 1.
type result struct {
	Name      string  `json:"name"`
	Ours      float64 `json:"ours"`
	Reference float64 `json:"reference"`
	Unit      string  `json:"unit"`
	Ratio     float64 `json:"ratio"`
	Bar       float64 `json:"bar"`
	OK        bool    `json:"ok"`

	Spread float64 `json:"spread"` // half the distance between the quartiles of the rounds' ratios
	What   string  `json:"what"`   // the two sides in words
}

func print(w io.Writer, results []result) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "row\tours\treference\tunit\tratio\t±\tbar\t\twhat")
	for _, r := range results {
		verdict := "ok"
		if !r.OK {
			verdict = "MISSED"
		}
		fmt.Fprintf(tw, "%s\t%.4g\t%.4g\t%s\t%.3f\t%.3f\t≤ %.3f\t%s\t%s\n",
			r.Name, r.Ours, r.Reference, r.Unit, r.Ratio, r.Spread, r.Bar, verdict, r.What)
	}
	_ = tw.Flush()
}
