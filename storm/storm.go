package main

import (
	"context"
	"fmt"
	"time"
)

// storm is one set-up, one storm, and what the judge says.
func storm(ctx context.Context, st *stage, t terms) (*verdict, error) {
	st.smallDisk()
	c := &company{st: st, version: 1, done: map[faultKind]int{}, order: order{URL: st.url, Journal: st.dir, Seed: t.seed, Actors: t.actors, Keepers: 3, Tenants: t.tenants, Late: t.late}}
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
	began := time.Now()
	for round := uint64(0); ; round++ {
		for _, f := range schedule(t.seed+round, t.d, st.faults) {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Until(began.Add(f.at))):
			}
			if err := c.inflict(ctx, f); err != nil {
				breaches = append(breaches, fmt.Sprintf("died: what was to be done, %q, failed: %v", f.kind, err))
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Until(began.Add(t.d))):
		}
		ops, err := answered(st.dir)
		if err != nil {
			return nil, err
		}
		if ops >= t.share(st.name) {
			break
		}
		began = time.Now()
	}
	breaches = append(breaches, c.end(ctx, t)...)
	if st.cluster != nil && st.name != "pooler" { // whose connections are its own
		// The server ends a process that was at work for somebody who was killed when it is done with that.
		n, err := st.connections(ctx)
		for began := time.Now(); (err != nil || n > 0) && time.Since(began) < time.Minute; n, err = st.connections(ctx) {
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil || n > 0 {
			breaches = append(breaches, fmt.Sprintf("leak: %d connections are open (%v)", n, err))
		}
	}
	v, err := judge(ctx, st.direct, st.dir, c.version)
	if err != nil {
		return nil, err
	}
	v.Breaches, v.Faults, v.Calm = append(v.Breaches, breaches...), c.done, c.deeds
	return v, nil
}

// pace is what a set-up answers beside the others, more or less: each is at it for about as long.
var pace = map[string]int{"sqlite": 10, "postgres": 2, "pooler": 1}

// share is how many of the operations are a set-up's.
func (t terms) share(name string) int {
	all := 0
	for _, n := range pace {
		all += n
	}
	return t.ops * pace[name] / all
}

// end waits for all processes to be over, and says which of them were not as they should be. Those who serve work in calm
// weather before.
func (c *company) end(ctx context.Context, t terms) (breaches []string) {
	for _, p := range c.migrating {
		select {
		case <-p.done:
		case <-time.After(migrationLimit + leakLimit + t.late + 20*time.Second):
			p.kill()
			breaches = append(breaches, "hung: a fleet migration did not end")
		}
		breaches = append(breaches, p.died()...)
		c.counted(p)
	}
	breaches = append(breaches, c.calmWeather(ctx)...)
	for _, p := range c.serving {
		if err := p.stop(patience + leakLimit + t.late + 20*time.Second); err != nil {
			breaches = append(breaches, err.Error())
		}
	}
	c.serving = nil
	return append(breaches, c.died...)
}
