package manage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/manage"
	"github.com/tenement-go/tenement/tenancy"
)

// S70: a bar on a terminal, with nothing of it left at the end.
func TestBarOnATerminal(t *testing.T) {
	t.Parallel()
	p := newPlace(t, backend.SQLite)
	for i := range 5 {
		p.mustOld(t, "tenant", "create", fmt.Sprintf("t%d", i))
	}
	p.mustOld(t, "exec", "t3", "--", "ask", "Hammer?", "Hammer?")
	c := p.run(t, &call{args: []string{"migrate"}, terminal: true})
	assert.Equal(t, manage.ExitFailed, c.status)
	assert.Equal(t, "shared store: migrated\ntenants' stores: 4 migrated, 1 failed\n", c.stdout.String())
	bar, report, found := strings.Cut(c.stderr.String(), "STORE ")
	require.True(t, found)
	assert.Contains(t, bar, "/5)")
	assert.NotContains(t, bar, "stores to do", "lines are for elsewhere")
	last := bar[strings.LastIndexByte(strings.TrimRight(bar, "\r"), '\r')+1:]
	assert.Empty(t, strings.TrimSpace(last), "the bar is taken away")
	assert.Contains(t, report, "t3")
}

// S70: JSON has one object a line, whatever happens, and nothing else is on the standard output.
func TestJSONLines(t *testing.T) {
	t.Parallel()
	p := newPlace(t, backend.SQLite)
	for i := range 5 {
		p.mustOld(t, "tenant", "create", fmt.Sprintf("t%d", i))
	}
	c := p.run(t, &call{args: []string{"migrate", "--json"}, terminal: true})
	require.Zero(t, c.status)
	assert.Empty(t, c.stderr.String())
	kinds := map[string]int{}
	for line := range strings.Lines(c.stdout.String()) {
		var event struct{ Event, Set string }
		require.NoError(t, json.Unmarshal([]byte(line), &event), line)
		kinds[event.Set+" "+event.Event]++
	}
	assert.Equal(t, 5, kinds["tenant applied"])
	assert.Equal(t, 1, kinds["tenant result"])
	assert.Equal(t, 1, kinds["shared result"])
}

// A line that could not be written is lost, and the command does not say that all is well.
func TestJSONLineLost(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		p.mustOld(t, "tenant", "create", "thor")
		c := &call{args: []string{"migrate", "--json"}}
		full := errors.New("no space left on device")
		c.stdout.failNext = full
		p.run(t, c)
		assert.Equal(t, manage.ExitFailed, c.status)
		assert.Equal(t, 1, strings.Count(c.stderr.String(), full.Error()), c.stderr.String())
		assert.Contains(t, c.stdout.String(), `"event":"result"`, "what can be written is")
		p.must(t, "status", "--check")
	})
}

// An interrupt ends a run cleanly: what is left is told, and the same command goes on with it.
func TestInterruptedMigration(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		for i := range 3 {
			p.mustOld(t, "tenant", "create", fmt.Sprintf("t%d", i))
		}
		p.must(t, "migrate", "--shared")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		// The interrupt comes with the first word about the run.
		c := &call{args: []string{"migrate", "--parallel", "1"}, ctx: ctx}
		c.stderr.onWrite = cancel
		p.run(t, c)
		assert.Equal(t, manage.ExitFailed, c.status)
		assert.Contains(t, c.stderr.String(), "interrupted")
		assert.Contains(t, c.stderr.String(), "left: app migrate goes on with them")
		p.must(t, "migrate")
		p.must(t, "status", "--check")
	})
}

// An interrupt ends exec --all: the commands see it, and the tenants it did not come to are named.
func TestInterruptedExec(t *testing.T) {
	t.Parallel()
	p := newPlace(t, backend.SQLite)
	for i := range 3 {
		p.must(t, "tenant", "create", fmt.Sprintf("t%d", i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := p.run(t, &call{
		ctx: ctx, args: []string{"exec", "--all", "--parallel", "1", "--", "wait"},
		options: []manage.Option{manage.WithCommand(manage.Command{Name: "wait", Run: func(ctx context.Context, _ *tenancy.App, _ []string, _ manage.IO) error {
			cancel()
			<-ctx.Done()
			return context.Cause(ctx)
		}})},
	})
	assert.Equal(t, manage.ExitFailed, c.status)
	assert.Contains(t, c.stderr.String(), "wait was interrupted; 2 tenants are left: t1, t2")
}

// An interrupt ends the wait for an answer.
func TestInterruptedQuestion(t *testing.T) {
	t.Parallel()
	p := newPlace(t, backend.SQLite)
	p.must(t, "tenant", "create", "thor")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	never := make(chan struct{})
	defer close(never)
	c := &call{args: []string{"tenant", "delete", "thor"}, ctx: ctx, terminal: true, in: silent(never)}
	c.stderr.onWrite = cancel
	p.run(t, c)
	assert.Equal(t, manage.ExitFailed, c.status)
	assert.Contains(t, c.stderr.String(), "nothing was changed")
	assert.Contains(t, p.must(t, "tenant", "list"), "active")
}

// silent is a terminal at which nobody types.
type silent <-chan struct{}

func (s silent) Read([]byte) (int, error) {
	<-s
	return 0, context.Canceled
}
