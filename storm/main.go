// Command storm proves, as far as a run can, that tenants stay apart and that nothing is lost, while everything that can
// fail does.
//
//	cd storm && go run . [storm] [-seed N] [-for DURATION] [-on sqlite,postgres,pooler] [-ops N]
//	cd storm && go run . crash [-seed N] [-kills N] [-on sqlite,postgres]
//	cd storm && go run . soak [-seed N] [-for DURATION] [-tenants N] [-crowd N]
//
// Over each set-up two processes serve, with many goroutines, many tenants and small pools. They journal outside of the
// databases what was acknowledged to them. Meanwhile tenants come, change and go, their slugs are given to others, all
// stores are migrated, and the faults of a schedule are done, which the seed decides. An error is nothing then. When the
// faults are over, the processes that lived through them work once more, in each tenant that is in service: in calm weather
// nothing may fail. Of a store that is purged the journals have what was in it when that was asked for; what was written
// later, or to a store that could not be read then, is not judged. At the end the stores are compared with the journals, and
// the registry with the changes that were acknowledged:
//
//	wrong  a row, or an answer, that is another's, or that must not be there
//	lost   something that was acknowledged and is not there, or that nobody can account for; or what fails in calm weather
//	hung   an operation that outlived its context by more than two seconds (-late), or that never ended
//	leak   goroutines, connections or files that were left
//	died   a process that ended by itself, with an error or of a panic (of a race too, if it is built with -race), or a fault
//	       that could not be done
//
// The exit status is 1 when there was any of them. The seed is printed; the same seed makes the same faults in the same order,
// each at its moment, or when the one before it is done: some wait, a fleet migration for the one before it. With -ops the
// same is done again with the next seed until there were as many operations, which depends on the machine. What goroutines do
// in between is theirs to race for.
//
// crash kills processes in the middle of one operation after another instead, and looks whether another process that runs
// finishes them. soak has processes serve many tenants for a while, and draws what they and the server use. With -o the
// results are written to a file, and charts beside it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"time"
)

func main() {
	if text := os.Getenv(envOrder); text != "" {
		if err := serveUntil(text, os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "storm:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// command is one of the things that this program does.
type command struct {
	title    string
	defaults terms
	// do says on w how it goes, and returns the text of the results and whether all held.
	do func(ctx context.Context, t terms, w io.Writer) (results string, ok bool, err error)
}

var commands = map[string]command{
	"storm": {title: "Storm", do: overStages(storm), defaults: terms{d: 20 * time.Second, tenants: 60, on: "sqlite,postgres,pooler"}},
	"crash": {title: "Crash", do: overStages(crash), defaults: terms{on: "sqlite,postgres"}},
	"soak":  {title: "Soak", do: soak, defaults: terms{d: 5 * time.Minute, tenants: 10_000}},
}

// terms are those of a run.
type terms struct {
	command string
	args    []string

	seed    uint64
	d       time.Duration
	on      string
	ops     int
	actors  int
	tenants int
	errors  bool
	late    time.Duration
	kills   int
	crowd   int
	output  string
}

func parse(args []string, stderr io.Writer) (terms, error) {
	name, rest := "storm", args
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, rest = args[0], args[1:]
	}
	c, ok := commands[name]
	if !ok {
		return terms{}, fmt.Errorf("there is no command %q", name)
	}
	t := c.defaults
	t.command, t.args = name, args
	flags := flag.NewFlagSet("storm", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Uint64Var(&t.seed, "seed", 0, "of the schedule of faults (default: a random one)")
	flags.DurationVar(&t.d, "for", t.d, "how long a storm is over each set-up, or a soak")
	flags.StringVar(&t.on, "on", t.on, "the set-ups")
	flags.IntVar(&t.ops, "ops", 0, "storm: go on until there were so many operations, over all three set-ups")
	flags.IntVar(&t.actors, "actors", 100, "storm: goroutines of each of the two processes")
	flags.IntVar(&t.tenants, "tenants", t.tenants, "how many tenants there are, in a storm more or less")
	flags.BoolVar(&t.errors, "errors", false, "storm: list the errors that operations returned, which are allowed")
	flags.DurationVar(&t.late, "late", 2*time.Second, "storm: by how much an operation may outlive its context")
	flags.IntVar(&t.kills, "kills", 250, "crash: how many processes are killed over each set-up")
	flags.IntVar(&t.crowd, "crowd", 100_000, "soak: how many tenants one SQLite directory has, of which few are active")
	flags.StringVar(&t.output, "o", "", "write the results to this file too, and what belongs to them beside it")
	if err := flags.Parse(rest); err != nil {
		return t, err
	}
	for name := range strings.SplitSeq(t.on, ",") {
		if t.on != "" && stages[name] == nil {
			return t, fmt.Errorf("-on: there is no set-up %q", name)
		}
	}
	if t.seed == 0 {
		t.seed = rand.Uint64()
	}
	return t, nil
}

// run is main without the process: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	t, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "storm:", err)
		return 2
	}
	fmt.Fprintf(stdout, "seed %d\n", t.seed)
	began := time.Now()
	c := commands[t.command]
	results, ok, err := c.do(ctx, t, stdout)
	if err == nil && t.output != "" {
		err = os.WriteFile(t.output, []byte(head(c.title, t, began)+results), 0o644)
	}
	if err != nil {
		fmt.Fprintln(stderr, "storm:", err)
	}
	if err != nil || !ok {
		return 1
	}
	return 0
}
