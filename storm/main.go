// Command storm proves, as far as a run can, that tenants stay apart and that nothing is lost, while everything that can
// fail does.
//
//	cd storm && go run . [-seed N] [-for DURATION] [-on sqlite,postgres,pooler] [-ops N]
//
// Over each set-up two processes serve, with many goroutines, many tenants and small pools. They journal outside of the
// databases what was acknowledged to them. Meanwhile tenants come, change and go, their slugs are given to others, all
// stores are migrated, and the faults of a schedule are done, which the seed decides. At the end the stores are compared
// with the journals:
//
//	wrong  a row, or an answer, that is another's, or that must not be there
//	lost   something that was acknowledged and is not there, or that nobody can account for
//	hung   an operation that outlived its context by more than two seconds, or that never ended
//	leak   goroutines, connections or files that were left
//
// The exit status is 1 when there was any of them. The seed is printed; the same seed makes the same faults at the same
// moments. What goroutines do in between is theirs to race for.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
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
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// terms are those of a run.
type terms struct {
	seed    uint64
	d       time.Duration
	ops     int
	actors  int
	tenants int
	keep    bool
	crashes int
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("storm", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var t terms
	flags.Uint64Var(&t.seed, "seed", 0, "of the schedule of faults (default: a random one)")
	flags.DurationVar(&t.d, "for", 20*time.Second, "how long the storm is over each set-up")
	flags.IntVar(&t.ops, "ops", 0, "go on until there were so many operations over each set-up")
	flags.IntVar(&t.actors, "actors", 100, "goroutines of each of the two processes")
	flags.IntVar(&t.tenants, "tenants", 60, "how many tenants there are, more or less")
	flags.BoolVar(&t.keep, "errors", false, "list the errors that operations returned, which are allowed")
	flags.IntVar(&t.crashes, "crash", 0, "no storm: kill so many processes in the middle of something, over each set-up")
	on := flags.String("on", "sqlite,postgres,pooler", "the set-ups")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if t.seed == 0 {
		t.seed = rand.Uint64()
	}
	fmt.Fprintf(stdout, "seed %d\n", t.seed)
	status := 0
	for name := range strings.SplitSeq(*on, ",") {
		if stages[name] == nil {
			fmt.Fprintf(stderr, "storm: -on: there is no set-up %q\n", name)
			return 2
		}
		began := time.Now()
		var v *verdict
		var err error
		if t.crashes > 0 {
			v, err = crash(ctx, name, t.seed, t.crashes)
		} else {
			v, err = storm(ctx, name, t)
		}
		if err != nil {
			fmt.Fprintf(stdout, "%s: %v\n", name, err)
			status = 1
			continue
		}
		v.print(stdout, name, time.Since(began), t.keep)
		if len(v.Breaches) > 0 {
			status = 1
		}
	}
	return status
}

// storm is one set-up, one storm, and what the judge says.
func storm(ctx context.Context, name string, t terms) (v *verdict, err error) {
	st, err := newStage(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := st.close(); err == nil {
			err = cerr
		}
	}()
	c := &company{st: st, version: 1, order: order{URL: st.url, Journal: st.dir, Seed: t.seed, Actors: t.actors, Keepers: 3, Tenants: t.tenants}}
	defer func() {
		for _, p := range append(c.serving, c.migrating...) {
			p.kill()
		}
	}()
	for range 2 {
		if err := c.serve(); err != nil {
			return nil, err
		}
	}
	var breaches []string
	done := map[faultKind]int{}
	began := time.Now()
	for round := uint64(0); ; round++ {
		for _, f := range schedule(t.seed+round, t.d, st.faults) {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Until(began.Add(f.at))):
			}
			if err := c.inflict(ctx, f); err != nil {
				breaches = append(breaches, fmt.Sprintf("%s: %v", f.kind, err))
			}
			done[f.kind]++
		}
		time.Sleep(time.Until(began.Add(t.d)))
		r, err := readJournals(st.dir)
		if err != nil {
			return nil, err
		}
		if r.ops >= t.ops {
			break
		}
		began = time.Now()
	}
	for _, p := range c.serving {
		if err := p.stop(patience + 20*time.Second); err != nil {
			breaches = append(breaches, err.Error())
		}
	}
	c.serving = nil
	for _, p := range c.migrating {
		select {
		case <-p.done:
		case <-time.After(90 * time.Second):
			p.kill()
			breaches = append(breaches, "hung: a fleet migration did not end")
		}
	}
	if st.cluster != nil && name != "pooler" { // whose connections are its own
		if n, err := st.connections(ctx); err != nil || n > 0 {
			breaches = append(breaches, fmt.Sprintf("leak: %d connections are open (%v)", n, err))
		}
	}
	if v, err = judge(ctx, st.direct, st.dir, c.version); err != nil {
		return nil, err
	}
	v.Breaches, v.Faults = append(v.Breaches, breaches...), done
	return v, nil
}

func (v *verdict) print(w io.Writer, name string, took time.Duration, withErrors bool) {
	count := func(prefix string) (n int) {
		for _, b := range v.Breaches {
			if strings.HasPrefix(b, prefix) {
				n++
			}
		}
		return n
	}
	faults := 0
	for _, n := range v.Faults {
		faults += n
	}
	fmt.Fprintf(w, "%-9s %8d operations, %d writes, %d faults, %d tenants, %d rows checked: %d wrong, %d lost, %d hung, %d leaked; %v\n",
		name, v.Ops, v.Writes, faults, v.Tenants, v.Rows, count("wrong"), count("lost"), count("hung"), count("leak"), took.Round(time.Second))
	for _, kind := range slices.Sorted(maps.Keys(v.Faults)) {
		fmt.Fprintf(w, "    %4d %s\n", v.Faults[kind], kind)
	}
	for i, b := range v.Breaches {
		if i == 20 {
			fmt.Fprintf(w, "    … and %d more\n", len(v.Breaches)-i)
			break
		}
		fmt.Fprintf(w, "    %.400s\n", b)
	}
	if !withErrors {
		return
	}
	for _, text := range slices.SortedFunc(maps.Keys(v.Errors), func(a, b string) int { return v.Errors[b] - v.Errors[a] }) {
		fmt.Fprintf(w, "    %6d × %s\n", v.Errors[text], text)
	}
}
