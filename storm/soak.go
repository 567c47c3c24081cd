package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tenement-go/tenement/internal/chart"
	"github.com/tenement-go/tenement/internal/machine"
	"github.com/tenement-go/tenement/tenancy"
)

// arm is one of the processes of a soak, and what was seen of it.
type arm struct {
	name, url string
	app       string // application_name on Postgres
	warmed    bool   // it is told when it grows after the first third of the run

	samples []sample
	conns   []connSample // on Postgres
}

// sample is what a process says of itself.
type sample struct {
	At         float64 // seconds since it began
	Ops        int64
	Memory     float64 // anonymous, in bytes
	Goroutines int
	Files      int
	Retired    int64 // connections, so far
}

// connSample is what there is to see of the server's processes behind an arm.
type connSample struct {
	at, mean, most float64 // seconds, bytes of anonymous memory
}

// soak has three processes serve the same number of tenants for a while: SQLite, Postgres, and Postgres with connections that are never
// retired. Then it asks what a great many tenants cost of which few are active.
func soak(ctx context.Context, t terms, w io.Writer) (results string, ok bool, err error) {
	type outcome struct {
		text string
		ok   bool
	}
	o, err := onStage(ctx, "postgres", func(pg *stage) (outcome, error) {
		return onStage(ctx, "sqlite", func(lite *stage) (o outcome, err error) {
			o.text, o.ok, err = soakOver(ctx, t, w, lite, pg)
			return o, err
		})
	})
	if err != nil {
		return "", false, err
	}
	if t.crowd > 0 {
		text, err := onStage(ctx, "sqlite", func(st *stage) (string, error) { return crowd(ctx, t, w, st) })
		if err != nil {
			return "", false, err
		}
		o.text += text
	}
	return o.text, o.ok, nil
}

func soakOver(ctx context.Context, t terms, w io.Writer, lite, pg *stage) (string, bool, error) {
	for _, st := range []*stage{lite, pg} {
		began := time.Now()
		if err := populate(ctx, st.direct, t.tenants, soakTables); err != nil {
			return "", false, fmt.Errorf("%s: %w", st.name, err)
		}
		fmt.Fprintf(w, "%s: %d tenants of %d tables in %v\n", st.what, t.tenants, soakTables, time.Since(began).Round(time.Second))
	}
	own := pg.direct + "&pool_max_conns=8"
	arms := []*arm{
		{name: "SQLite", url: lite.direct, warmed: true},
		{name: "Postgres", url: own + "&application_name=soak_own", app: "soak_own", warmed: true},
		{name: "Postgres, connections kept", url: own + "&application_name=soak_kept&first_sights=1000000000", app: "soak_kept"},
	}
	group, inside := errgroup.WithContext(ctx)
	for i, a := range arms {
		group.Go(func() error {
			return a.run(inside, &company{st: pg, incarnation: i, order: order{Seed: t.seed, Tenants: t.tenants}}, t.d)
		})
	}
	watched, stop := context.WithCancel(inside)
	defer stop()
	observed := make(chan error, 1)
	go func() { observed <- observe(watched, pg.admin, arms[1:]) }()
	err := group.Wait()
	stop()
	if err = errors.Join(err, <-observed); err != nil {
		return "", false, err
	}
	text, ok := tellSoak(t, arms, pg.what)
	fmt.Fprint(w, text)
	return text, ok, drawSoak(t.output, arms)
}

// run starts the process, and reads what it says.
func (a *arm) run(ctx context.Context, c *company, d time.Duration) error {
	p, err := c.start(func(o *order) { o.URL, o.Soak = a.url, d })
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	lines := bufio.NewScanner(p.out)
	for lines.Scan() {
		var s sample
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		a.samples = append(a.samples, s)
	}
	if <-p.done; p.err != nil || len(a.samples) == 0 {
		return fmt.Errorf("%s: the process ended after %d samples: %w", a.name, len(a.samples), p.err)
	}
	return nil
}

// observe looks at the server's processes of the arms, each second.
func observe(ctx context.Context, admin string, arms []*arm) error {
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for began := time.Now(); ; {
		for _, a := range arms {
			rows, _ := conn.Query(ctx, `SELECT pid FROM pg_stat_activity WHERE application_name = $1`, a.app)
			pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			s := connSample{at: time.Since(began).Seconds()}
			seen := 0.0
			for _, pid := range pids {
				if n, err := machine.Anonymous(pid); err == nil { // it may have ended meanwhile
					s.mean, s.most, seen = s.mean+n, max(s.most, n), seen+1
				}
			}
			if s.mean /= max(seen, 1); seen > 0 {
				a.conns = append(a.conns, s)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// populate makes tenants.
func populate(ctx context.Context, url string, n, tables int) (err error) {
	app, closeAll, err := openSoak(ctx, url, tables)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range n {
		group.Go(func() error {
			_, err := app.Create(ctx, tenancy.Spec{Slug: fmt.Sprintf("t%d", i)})
			return err
		})
	}
	return group.Wait()
}

// measure is one of the things that are to be flat.
type measure struct {
	name, title, unit string
	slack             float64 // of what moves by itself
	series            func(a *arm) (x, y []float64)
}

const megabyte = 1 << 20

var measures = []measure{
	{"memory", "Memory of the process", "MB", 8, ofSamples(func(s sample) float64 { return s.Memory / megabyte })},
	{"goroutines", "Goroutines", "", 8, ofSamples(func(s sample) float64 { return float64(s.Goroutines) })},
	{"files", "Open files", "", 16, ofSamples(func(s sample) float64 { return float64(s.Files) })},
	{"connections", "Memory of a Postgres connection, mean", "MB", 4, ofConns(func(s connSample) float64 { return s.mean / megabyte })},
	{"greatest", "Memory of a Postgres connection, the greatest", "MB", 8, ofConns(func(s connSample) float64 { return s.most / megabyte })},
}

func ofSamples(value func(s sample) float64) func(a *arm) (x, y []float64) {
	return func(a *arm) (x, y []float64) {
		for _, s := range a.samples {
			x, y = append(x, s.At), append(y, value(s))
		}
		return x, y
	}
}

func ofConns(value func(s connSample) float64) func(a *arm) (x, y []float64) {
	return func(a *arm) (x, y []float64) {
		for _, s := range a.conns {
			x, y = append(x, s.at), append(y, value(s))
		}
		return x, y
	}
}

// growth is the median of the second third of a run, and that of the last.
func growth(y []float64) (before, after float64) {
	third := len(y) / 3
	return median(y[third : 2*third]), median(y[2*third:])
}

func median(y []float64) float64 {
	if len(y) == 0 {
		return 0
	}
	y = slices.Clone(y)
	slices.SortFunc(y, cmp.Compare[float64])
	return y[len(y)/2]
}

// tellSoak says what there was in the second third of the run and in the last; ok unless something grew by a quarter.
func tellSoak(t terms, arms []*arm, server string) (string, bool) {
	var b strings.Builder
	fmt.Fprintf(&b, "%d tenants of %d tables, drawn by Zipf's law (%g), for %v; %s. Medians of the second third of the run, and of the last.\n\n",
		t.tenants, soakTables, zipf, t.d, server)
	b.WriteString("| process | operations | connections retired |")
	for _, m := range measures {
		b.WriteString(" " + strings.TrimSuffix(m.title+", "+m.unit, ", ") + " |")
	}
	b.WriteString(" |\n|---|--:|--:|" + strings.Repeat("--:|", len(measures)) + "---|\n")
	ok := true
	for _, a := range arms {
		last := a.samples[len(a.samples)-1]
		fmt.Fprintf(&b, "| %s | %d | %d |", a.name, last.Ops, last.Retired)
		var grew []string
		for _, m := range measures {
			_, y := m.series(a)
			if len(y) == 0 {
				b.WriteString(" |")
				continue
			}
			before, after := growth(y)
			fmt.Fprintf(&b, " %.1f → %.1f |", before, after)
			if after > 1.25*before+m.slack {
				grew = append(grew, m.name)
			}
		}
		verdict := "flat"
		if len(grew) > 0 {
			verdict = "grew: " + strings.Join(grew, ", ")
			ok = ok && !a.warmed
		}
		fmt.Fprintf(&b, " %s |\n", verdict)
	}
	b.WriteString("\n")
	for _, m := range measures {
		fmt.Fprintf(&b, "![%s](%s)\n", m.title, m.file())
	}
	return b.String(), ok
}

func (m measure) file() string { return "soak-" + m.name + ".svg" }

// drawSoak draws each measure of all processes into a file beside the results.
func drawSoak(output string, arms []*arm) error {
	if output == "" {
		return nil
	}
	for _, m := range measures {
		c := chart.Chart{Title: m.title, X: "seconds", Y: m.unit}
		for _, a := range arms {
			if x, y := m.series(a); len(x) > 0 {
				c.Lines = append(c.Lines, chart.Line{Name: a.name, X: x, Y: y})
			}
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(output), m.file()), []byte(c.SVG()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
