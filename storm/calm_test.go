package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/tenancy"
)

// In calm weather a process serves everybody who is in service, and hears by itself of who that is. What fails is a breach.
func TestCalmWeather(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	for name, c := range map[string]struct {
		// harm is done when all have come to rest, instead of activating a tenant that was suspended.
		harm func(ctx context.Context, app *tenancy.App, id tenancy.ID) error
		says string
	}{
		"nothing": {},
		"a column that is gone": {
			harm: func(ctx context.Context, app *tenancy.App, id tenancy.ID) error {
				if _, err := app.Activate(ctx, id); err != nil {
					return err
				}
				return app.Run(ctx, id, tenancy.Policy{}, func(ctx context.Context, _ *tenancy.Tenant) error {
					_, err := app.DB().ExecContext(ctx, `ALTER TABLE entries RENAME COLUMN mark TO gone`)
					return err
				})
			},
			says: "column",
		},
		"a change that is not heard of": {
			harm: func(ctx context.Context, app *tenancy.App, id tenancy.ID) error {
				_, err := app.Shared().ExecContext(ctx, `UPDATE tenement_tenants SET status = 'active' WHERE id = $1`, string(id))
				return err
			},
			says: "is suspended",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := onStage(t.Context(), "sqlite", func(st *stage) (none struct{}, _ error) {
				testWeather(t, st, c.harm, c.says)
				return none, nil
			})
			require.NoError(t, err)
		})
	}
}

func testWeather(t *testing.T, st *stage, harm func(ctx context.Context, app *tenancy.App, id tenancy.ID) error, says string) {
	const tenants, processes = 3, 2
	app, closeAll, err := open(t.Context(), st.direct, 1)
	require.NoError(t, err)
	defer func() { require.NoError(t, closeAll()) }()
	var id tenancy.ID
	for i := range tenants {
		made, err := app.Create(t.Context(), tenancy.Spec{Slug: fmt.Sprintf("t%d", i)})
		require.NoError(t, err)
		id = made.ID
	}
	_, err = app.Suspend(t.Context(), id, "test")
	require.NoError(t, err)

	c := &company{st: st, order: order{URL: st.url, Journal: st.dir, Actors: 3, Tenants: tenants, Late: time.Minute}}
	defer func() {
		for _, p := range c.serving {
			p.kill()
		}
	}()
	for i := range processes {
		require.NoError(t, c.serve())
		journal := filepath.Join(st.dir, fmt.Sprintf("%04d.journal", i+1))
		require.Eventually(t, func() bool { n, err := lastCount(journal); return err == nil && n > 0 }, time.Minute, 10*time.Millisecond)
	}
	if harm == nil {
		assert.Empty(t, c.calmWeather(t.Context()))
	} else {
		assert.Empty(t, c.next("come to rest"))
		require.NoError(t, harm(t.Context(), app, id))
		assert.Empty(t, c.next("work"))
	}
	for _, p := range c.serving {
		assert.NoError(t, p.stop(time.Minute))
	}

	r, err := readJournals(st.dir)
	require.NoError(t, err)
	whole := 0
	for _, d := range deeds {
		if d.calm {
			whole += processes * tenants
		}
	}
	if harm == nil {
		assert.Empty(t, r.breaches)
		assert.Equal(t, whole, c.deeds)
		return
	}
	assert.Less(t, c.deeds, whole)
	assert.NotEmpty(t, r.breaches)
	for _, b := range r.breaches {
		assert.Regexp(t, "^lost: in calm weather: .*"+string(id)+".*"+says, b)
	}
}

// The end of what the company says ends each phase, also where it has said nothing yet.
func TestPhases(t *testing.T) {
	for said := range 4 {
		in, out := io.Pipe()
		p := phasesOf(in)
		all := []context.Context{p.storm, p.rest, p.calm}
		for i := range said {
			_, err := out.Write([]byte{'\n'})
			require.NoError(t, err)
			<-all[min(i, 1)].Done()
		}
		for _, ctx := range all[min(said, 2):] {
			assert.NoError(t, ctx.Err())
		}
		require.NoError(t, out.Close())
		for _, ctx := range all {
			<-ctx.Done()
		}
	}
}
