package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/tenement-go/tenement/internal/machine"
)

const (
	crowdTables = 3
	activeShare = 100 // one of so many tenants is active
	coldVisits  = 500
)

// crowded is what a process with a great many tenants, of which few are active, says of itself.
type crowded struct {
	Open, Status          time.Duration
	AtRest, Served        float64 // memory, in bytes
	Files                 int
	Warm, Cold, ColdWorst time.Duration // a request: the median, to an active tenant and the first to another, and its 99th percentile
}

// crowd makes the tenants, and has a new process serve them.
func crowd(ctx context.Context, t terms, w io.Writer, st *stage) (string, error) {
	began := time.Now()
	if err := populate(ctx, st.direct, t.crowd, crowdTables); err != nil {
		return "", err
	}
	made := time.Since(began)
	fmt.Fprintf(w, "%d tenants of %d tables in %v\n", t.crowd, crowdTables, made.Round(time.Second))
	p, err := (&company{st: st, order: order{URL: st.direct, Seed: t.seed, Tenants: t.crowd, Crowd: true}}).start(func(*order) {})
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	var c crowded
	err = json.NewDecoder(p.out).Decode(&c)
	if <-p.done; err != nil || p.err != nil {
		return "", errors.Join(err, p.err)
	}
	text := fmt.Sprintf("\n## %d tenants on SQLite, one of %d active\n\n| | |\n|---|--:|\n"+
		"| made in, with 8 goroutines | %v |\n| the process opens in | %v |\n| memory at rest | %.1f MB |\n| memory when all the active ones were served | %.1f MB |\n| open files then | %d |\n"+
		"| status | %v |\n| a request to an active tenant, median | %v |\n| the first request to another, median | %v |\n| its 99th percentile | %v |\n",
		t.crowd, activeShare, made.Round(time.Second), c.Open.Round(time.Millisecond), c.AtRest/megabyte, c.Served/megabyte, c.Files,
		c.Status.Round(time.Millisecond), c.Warm.Round(time.Microsecond), c.Cold.Round(time.Microsecond), c.ColdWorst.Round(time.Microsecond))
	fmt.Fprint(w, text)
	return text, nil
}

// runCrowd is the process that serves them.
func runCrowd(o order) (err error) {
	ctx, c, began := context.Background(), crowded{}, time.Now()
	app, closeAll, err := openSoak(ctx, o.URL, crowdTables)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	c.Open = time.Since(began)
	if c.AtRest, err = machine.Anonymous(os.Getpid()); err != nil {
		return err
	}
	v := &visitor{app: app, tables: crowdTables, rng: rand.New(rand.NewPCG(o.Seed, 4))}
	all := slugs(o.Seed, o.Tenants)
	active, others := all[:len(all)/activeShare], all[len(all)/activeShare:]
	var warm []time.Duration
	for range 10 { // rounds; the first of which opens their stores
		if warm, err = v.visits(ctx, active); err != nil {
			return err
		}
	}
	c.Files = openFiles()
	if c.Served, err = machine.Anonymous(os.Getpid()); err != nil {
		return err
	}
	cold, err := v.visits(ctx, others[:min(coldVisits, len(others))])
	if err != nil {
		return err
	}
	c.Warm, c.Cold, c.ColdWorst = warm[len(warm)/2], cold[len(cold)/2], cold[len(cold)*99/100]
	began = time.Now()
	if _, err := app.Migrator().Status(ctx); err != nil {
		return err
	}
	c.Status = time.Since(began)
	return json.NewEncoder(os.Stdout).Encode(c)
}

// visits visits each of the tenants once, and returns how long that took, in order.
func (v *visitor) visits(ctx context.Context, slugs []string) (took []time.Duration, err error) {
	for _, slug := range slugs {
		began := time.Now()
		if err := v.visit(ctx, slug); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took, nil
}
