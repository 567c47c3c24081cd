package transfer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// envVictim makes the test binary do one thing and die in the middle of it.
const envVictim = "TENEMENT_TRANSFER_VICTIM"

// errand is what a victim is sent for.
type errand struct {
	From, To string                 // URLs
	Path     string                 // the file to import, into To; empty for a move
	Kind     transfer.MoveEventKind // the event to die at
	Slug     string                 // of this tenant
	Table    string                 // or at this table of an import
	Resume   bool
}

// victim is the main function of the process that is to die.
func victim() int {
	var e errand
	err := json.Unmarshal([]byte(os.Getenv(envVictim)), &e)
	if err == nil {
		err = e.run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return 0
}

// killed is SIGKILL: nothing is cleaned up.
func killed() {
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		_ = self.Kill()
	}
	select {}
}

func (e errand) run(ctx context.Context) error {
	to, err := backend.Open(ctx, e.To)
	if err != nil {
		return err
	}
	cfg := tenancy.Config{Tenant: []migrate.Source{{Name: "app", FS: blog}}}
	if e.Path == "" {
		withPlans(&cfg)
	}
	b, err := tenancy.Open(ctx, to, cfg)
	if err != nil {
		return err
	}
	if e.Path != "" {
		_, err := transfer.Import(ctx, b, e.Path, transfer.ImportOptions{OnTable: func(p transfer.Progress) {
			if p.Table == e.Table {
				killed()
			}
		}})
		return err
	}
	from, err := backend.Open(ctx, e.From)
	if err != nil {
		return err
	}
	a, err := tenancy.Open(ctx, from, cfg)
	if err != nil {
		return err
	}
	_, err = transfer.Move(ctx, a, b, transfer.MoveOptions{Resume: e.Resume, Parallel: 1, OnEvent: func(v transfer.MoveEvent) {
		if v.Kind == e.Kind && (e.Slug == "" || v.Tenant.Slug == e.Slug) {
			killed()
		}
	}})
	return err
}

// send runs the errand in a process of its own, which is killed.
func (e errand) send(t *testing.T) {
	text, err := json.Marshal(e)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), envVictim+"="+string(text))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%+v: %s", e, out)
	require.Equal(t, -1, exit.ExitCode(), "%+v: %s", e, out)
}

// Killed at any step, what can be written to is the source, all of it as soon as anybody looks; and the same command
// finishes.
func TestKilledMove(t *testing.T) { // S84
	if testing.Short() {
		t.Skip("starts many processes")
	}
	pairs(t, func(t *testing.T, from, to backend.Dialect) {
		a := newPlace(t, from, blog, withPlans)
		was := a.populate(t)
		e := errand{From: a.url, To: placeURL(t, to)}
		for _, at := range []errand{
			{Kind: transfer.MoveStarted},
			{Kind: transfer.MoveTable, Slug: ""}, // of the shared tables
			{Kind: transfer.MoveShared},
			{Kind: transfer.MoveMade, Slug: "thor"},
			{Kind: transfer.MoveTable, Slug: "thor"}, // within the load
			{Kind: transfer.MoveLoaded, Slug: "odin"},
			{Kind: transfer.MoveVerified, Slug: "loki"},
			{Kind: transfer.MoveLoaded, Slug: "baldur"},
			{Kind: transfer.MoveSame, Slug: "baldur"}, // all are there
		} {
			e.Kind, e.Slug = at.Kind, at.Slug
			e.send(t)
			e.Resume = true
			require.NoError(t, a.FinishOperations(t.Context()))
			for _, w := range was {
				now, err := a.ByID(t.Context(), w.ID)
				require.NoError(t, err)
				require.Equal(t, w.Status, now.Status, at)
			}
			a.exec(t, was[0], `UPDATE authors SET name = 'Ann' WHERE id = 1`)
			b := a.elsewhere(t, e.To, to)
			for tenant, err := range b.Tenants(t.Context(), tenancy.Filter{}) {
				require.NoError(t, err)
				require.Fail(t, "it is in service there already: "+tenant.Slug, at)
			}
		}
		e.Kind, e.Slug = transfer.MoveEnrolled, ""
		e.send(t)
		b := a.elsewhere(t, e.To, to)
		res, err := transfer.Move(t.Context(), a.App, b.App, transfer.MoveOptions{Resume: true})
		require.NoError(t, err)
		assert.Empty(t, res.Tenants)
		requireMoved(t, a, b, was)
	})
}

// Killed within the load, an import leaves a tenant that nobody is served from, and that is gone as soon as another process
// looks.
func TestKilledImport(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	pairs(t, func(t *testing.T, from, to backend.Dialect) {
		a := newPlace(t, from, blog)
		path, _ := a.export(t, a.create(t, "thor", blogRows...))
		for _, table := range []string{"authors", "posts", "settings"} {
			e := errand{To: placeURL(t, to), Path: path, Table: table}
			e.send(t)
			b := openPlace(t, e.To, to, blog)
			requireUndone(t, b, path)
		}
	})
}
