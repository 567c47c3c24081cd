// Command bench prints the project's figures: ours beside a reference that does the same with the bare driver, a
// hand-written client, a script or a peer, measured in turn in one run.
//
//	cd bench && go run . [-quick] [-rows REGEXP] [-rounds N] [-scale 10k|growth] [-o RESULTS.md]
//	cd bench && go run . -quote ../README.md
//
// A row is a ratio, ours ÷ reference, beside the bar that the project set itself. Each round runs all contenders in turn
// for a second each; what is printed is the median of the rounds, and of their ratios, with half the distance between
// the ratios' quartiles as ±. Unless a row says otherwise the contenders are saturated: 8 goroutines on few cores, through
// 8 connections. The exit status is 1 when a row could not be measured, not when a bar was missed: timings differ from
// machine to machine.
//
// It starts a Postgres cluster of its own from the installed binaries, or uses the one that TENEMENT_TEST_POSTGRES names.
// -quick is for seeing that all rows can be measured: it takes about a minute, and its figures mean little. With -o the
// same is written to a file, with charts beside it where a suite has some; with -rows too, the file keeps what it has of the
// other suites. -quote puts the figures of RESULTS*.md into the marked lines of another file.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/tenement-go/tenement/internal/machine"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := command(ctx, args, stdout, stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	}
	fmt.Fprintln(stderr, "bench:", err)
	return 1
}

var errUsage = errors.New("usage")

func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if os.Getenv(crowdVariable) != "" {
		return runCrowd(ctx, stdout)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	quick := flags.Bool("quick", false, "smaller sizes and shorter rounds, to see that all rows can be measured")
	only := flags.String("rows", "", "measure only the suites with a row whose name matches this regular expression")
	rounds := flags.Int("rounds", 0, "rounds (default 9, with -quick 3)")
	scale := flags.String("scale", "", `"10k" measures thousands of stores instead, which takes much longer; "growth" the same work with 10 to 10,000 tenants`)
	seed := flags.Uint64("seed", 1, "of the random choices")
	output := flags.String("o", "", "write the results to this file too")
	quoteIn := flags.String("quote", "", "measure nothing: put the figures of RESULTS*.md into the marked lines of this file")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if *quoteIn != "" {
		return quoteFile(*quoteIn)
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-rows: %w", err)
	}
	suites, err := suitesOf(*scale)
	if err != nil {
		return err
	}
	e := newEnv(*quick)
	defer e.close()
	e.seed = *seed
	if *rounds > 0 {
		e.rounds = *rounds
	}
	rep := &report{suites: suites, machine: machine.Describe(), began: time.Now(), args: args, rounds: e.rounds, slice: e.slice, seed: e.seed}
	if *only != "" && *output != "" {
		if rep.kept, err = readEarlier(*output, suites); err != nil {
			return err
		}
	}
	for _, su := range suites {
		if !slices.ContainsFunc(su.rows, func(r row) bool { return match.MatchString(r.id) }) {
			continue
		}
		if why := su.absent(); why != "" {
			rep.skip(su, why)
			fmt.Fprintf(stderr, "skipped %s: %s\n", su.name, why)
			continue
		}
		delete(rep.kept, su.name)
		began := time.Now()
		rep.add(su, e.measure(ctx, su))
		fmt.Fprintf(stderr, "%v %s\n", time.Since(began).Round(time.Millisecond), su.name)
		if ctx.Err() != nil {
			break
		}
	}
	rep.server = e.versions(ctx)
	rep.took = time.Since(rep.began)
	text := rep.markdown()
	fmt.Fprint(stdout, text)
	if *output != "" {
		if err := os.WriteFile(*output, []byte(text), 0o644); err != nil {
			return err
		}
		if err := rep.draw(filepath.Join(filepath.Dir(*output), "charts")); err != nil {
			return err
		}
	}
	return rep.failure()
}

func suitesOf(scale string) ([]suite, error) {
	switch scale {
	case "":
		return slices.Concat(postgresReadSuites, postgresRandomSuites, postgresTripSuites,
			sqliteSuites, resolverSuites, provisionSuites, spareSuites, transferSuites, fleetSuites, othersSuites(1000, 12), peerSuites, citusSuites), nil
	case "10k":
		return scaleSuites, nil
	case "growth":
		return growthSuites, nil
	}
	return nil, fmt.Errorf(`-scale: %q is neither "10k" nor "growth"`, scale)
}

// outcome is what a suite came to.
type outcome struct {
	scores *scores
	err    error
}

// measure runs one suite and cleans up after it.
func (e *env) measure(ctx context.Context, su suite) outcome {
	defer e.endSuite()
	s := newScores()
	return outcome{scores: s, err: su.measure(ctx, e, s)}
}
