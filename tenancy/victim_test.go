package tenancy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// envVictim makes the test binary do one thing and die in the middle of it.
const envVictim = "TENEMENT_TENANCY_VICTIM"

// errand is what a victim is sent for.
type errand struct {
	URL, Files string
	Op, Slug   string
	Step       string        // the step to die at
	After      time.Duration // or the time to be killed after
}

func isVictim() bool { return os.Getenv(envVictim) != "" }

// victim is the main function of the process that is to die.
func victim() int {
	var e errand
	if err := json.Unmarshal([]byte(os.Getenv(envVictim)), &e); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx := context.Background()
	be, err := backend.Open(ctx, e.URL)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	a, err := Open(ctx, be, errandConfig(e))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	fill := fillOnCreate(a)
	a.cfg.Hooks.OnCreate = func(ctx context.Context, t Tenant, seed Seed) error {
		a.step("create: unfilled")
		return fill(ctx, t, seed)
	}
	a.step = func(name string) {
		if name == e.Step {
			killed()
		}
	}
	if e.After > 0 {
		time.AfterFunc(e.After, killed)
	}
	if err := e.run(ctx, a); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
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

func errandConfig(e errand) Config {
	cfg := config()
	cfg.FilesDir = e.Files
	if e.Op == "migrate" {
		cfg.Tenant = []migrate.Source{longerPolls()}
	}
	return cfg
}

// fillOnCreate fails when it is run twice in one store, and needs what Create was told.
func fillOnCreate(a *App) func(context.Context, Tenant, Seed) error {
	return func(ctx context.Context, t Tenant, seed Seed) error {
		var founder string
		if err := seed.Decode(&founder); err != nil {
			return err
		}
		for _, q := range []string{"Welcome to " + string(t.ID), "Who is " + founder + "?"} {
			if _, err := a.DB().ExecContext(ctx, "INSERT INTO polls (question) VALUES ($1)", q); err != nil {
				return err
			}
			a.step("create: half filled")
		}
		return nil
	}
}

func (e errand) run(ctx context.Context, a *App) error {
	switch e.Op {
	case "create":
		_, err := a.Create(ctx, e.spec())
		return err
	case "import":
		_, err := a.CreateBy(ctx, e.spec(), fillBy(a))
		return err
	case "replace":
		_, err := a.Replace(ctx, e.id(ctx, a), renewed(a))
		return err
	case "move":
		_, err := a.ReplaceFrozen(ctx, e.id(ctx, a), "it is being moved", there(a, "eu"))
		return err
	case "freeze":
		return a.Freeze(ctx, e.id(ctx, a), "it is copied", func(context.Context, Tenant) error { a.step("freeze: inside"); return nil })
	case "rename":
		_, err := a.Rename(ctx, e.id(ctx, a), e.Slug+"-renamed")
		return err
	case "migrate":
		_, err := a.Migrator().Up(ctx, migrate.UpOptions{Fleet: migrate.Fleet{Parallel: 1, OnEvent: func(e migrate.Event) {
			if e.Set == migrate.SetTenant && e.Kind == migrate.EventStarted {
				killed()
			}
		}}})
		return err
	default:
		return a.Purge(ctx, e.id(ctx, a))
	}
}

// id is that of the errand's tenant, also when its rename has begun.
func (e errand) id(ctx context.Context, a *App) ID {
	t, err := a.BySlug(ctx, e.Slug)
	if errors.Is(err, ErrNotFound) && e.Op == "rename" {
		t, _ = a.BySlug(ctx, e.Slug+"-renamed")
	}
	return t.ID
}

func (e errand) spec() Spec {
	return Spec{Slug: e.Slug, Domains: []string{e.Slug + ".example"}, Seed: "Odin"}
}

// send runs the errand in a process of its own and reports whether that was killed.
func (e errand) send(t *testing.T) bool {
	text, err := json.Marshal(e)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), envVictim+"="+string(text))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err == nil {
		return false
	}
	require.ErrorAs(t, err, &exit)
	require.Equal(t, -1, exit.ExitCode(), "it should have been killed: %s", out)
	return true
}

// stepsOf are the moments at which the processes die. After the last of them the operation is over.
var stepsOf = map[string][]string{
	"create": {
		"create: claimed", "create: provisioned", "create: unfilled", "create: half filled", "create: filled", "create: make done",
		"create: make committed",
	},
	"rename": {"rename: claimed", "rename: store moved", "rename: move done", "rename: move committed"},
	"purge": {
		"purge: claimed", "purge: drop done", "purge: drop committed", "purge: forget done", "purge: forget committed",
		"purge: files done", "purge: files committed", "purge: erase done", "purge: erase committed",
	},
}

// S23, S84: whoever runs goes on, without a call.
func TestKilledAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	onEach(t, func(t *testing.T, p place) {
		e := errand{URL: p.url, Files: t.TempDir()}
		over := make(chan Event, 100)
		a := open(t, p.be, func(c *Config) {
			c.FilesDir, c.PollInterval = e.Files, 20*time.Millisecond
			c.Hooks.OnChange = func(_ context.Context, e Event) {
				if e.Kind == EventCreated || e.Kind == EventRenamed || e.Kind == EventPurged {
					over <- e
				}
			}
			c.Hooks.OnCreate = fillOnCreate(&App{be: p.be, step: func(string) {}})
		})
		number := 0
		for _, op := range []string{"create", "rename", "purge"} {
			for _, step := range stepsOf[op] {
				number++
				e := e
				e.Op, e.Step, e.Slug = op, step, fmt.Sprintf("t%d", number)
				before := e.prepare(t, a)
				for len(over) > 0 {
					<-over
				}
				require.True(t, e.send(t), step)
				for ended, late := false, time.After(20*time.Second); !ended; {
					select {
					case event := <-over: // which may be one that was told before
						ended = e.ends(event, before)
					case <-late:
						ops, err := a.Operations(t.Context())
						require.NoError(t, err)
						require.Fail(t, "nobody goes on", "after %s: %+v", step, ops)
					}
				}
				requireHealthy(t, a)
				e.verify(t, a, before)
			}
		}
	})
}

// ends reports whether an event is the end of the errand.
func (e errand) ends(event Event, before Tenant) bool {
	switch e.Op {
	case "create":
		return event.Kind == EventCreated && event.Tenant.Slug == e.Slug
	case "rename":
		return event.Kind == EventRenamed && event.Tenant.ID == before.ID
	}
	return event.Kind == EventPurged && event.Tenant.ID == before.ID
}

// S65: a migration of the tenants whose process died is finished by whoever runs, without a call.
func TestKilledMigrationIsFinished(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		before := open(t, p.be)
		for i := range 3 {
			create(t, before, fmt.Sprintf("t%d", i))
		}
		a := open(t, p.be, func(c *Config) {
			c.Tenant, c.PollInterval = []migrate.Source{longerPolls()}, 20*time.Millisecond
		})
		require.True(t, errand{URL: p.url, Op: "migrate"}.send(t))
		require.Eventually(t, func() bool {
			st, err := a.Migrator().Status(t.Context())
			require.NoError(t, err)
			return st.Tenants.Current == 3
		}, time.Minute, time.Millisecond)
	})
}

// S23: a command goes on before it starts, and the same call is understood.
func TestKilledThenCommand(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	onEach(t, func(t *testing.T, p place) {
		e := errand{URL: p.url, Files: t.TempDir()}
		a := open(t, p.be, func(c *Config) { c.FilesDir = e.Files })
		a.cfg.Hooks.OnCreate = fillOnCreate(a)
		number := 0
		for _, op := range []string{"create", "rename", "purge"} {
			for i, step := range stepsOf[op][:len(stepsOf[op])-1] {
				number++
				e := e
				e.Op, e.Step, e.Slug = op, step, fmt.Sprintf("t%d", number)
				before := e.prepare(t, a)
				require.True(t, e.send(t), step)
				ops, err := a.Operations(t.Context())
				require.NoError(t, err)
				require.Len(t, ops, 1, step)
				require.Equal(t, OperationKind(op), ops[0].Kind)
				findings, err := a.Doctor(t.Context())
				require.NoError(t, err)
				require.Len(t, findings, 1, step)
				require.Equal(t, FindingUnfinished, findings[0].Code)
				switch i % 3 {
				case 0:
					require.NoError(t, a.FinishOperations(t.Context()), step)
				case 1:
					require.NoError(t, a.Repair(t.Context(), findings[0]), step)
				default:
					require.NoError(t, e.run(t.Context(), a), step)
				}
				requireHealthy(t, a)
				e.verify(t, a, before)
			}
		}
	})
}

// prepare makes what the errand is about.
func (e errand) prepare(t *testing.T, a *App) Tenant {
	if e.Op == "create" {
		return Tenant{}
	}
	tenant, err := a.Create(t.Context(), e.spec())
	require.NoError(t, err)
	ctx := enter(t, tenant)
	ask(t, a, ctx, "Hammer?")
	dir, err := a.Dir(ctx)
	require.NoError(t, err)
	require.NoError(t, dir.WriteFile("logo", []byte("hammer"), 0o600))
	require.NoError(t, dir.Close())
	if e.Op == "purge" {
		tenant, err = a.Delete(t.Context(), e.id(ctx, a))
		require.NoError(t, err)
	}
	return tenant
}

// verify looks whether the errand was done, once.
func (e errand) verify(t *testing.T, a *App, before Tenant) {
	switch e.Op {
	case "create":
		tenant, err := a.BySlug(t.Context(), e.Slug)
		require.NoError(t, err)
		require.Equal(t, Active, tenant.Status)
		require.Equal(t, []string{"Welcome to " + string(tenant.ID), "Who is Odin?"}, questions(t, a, enter(t, tenant)))
		require.Equal(t, e.Slug+".example", tenant.PrimaryDomain())
	case "rename":
		tenant, err := a.BySlug(t.Context(), e.Slug+"-renamed")
		require.NoError(t, err)
		require.Equal(t, before.ID, tenant.ID)
		require.Equal(t, e.Slug+"-renamed", tenant.Store.String())
		require.Contains(t, questions(t, a, enter(t, tenant)), "Hammer?")
		require.Equal(t, before.Domains, tenant.Domains)
		if a.cfg.PollInterval < time.Minute { // or the next purge would wait for this App
			require.NoError(t, visit(a, t.Context(), tenant.Slug, func(context.Context) error { return nil }))
		}
	case "purge":
		_, err := a.ByID(t.Context(), before.ID)
		require.ErrorIs(t, err, ErrNotFound)
		_, err = a.be.Stat(t.Context(), before.Store)
		require.ErrorIs(t, err, backend.ErrStoreMissing)
		_, err = os.Stat(e.Files + "/" + string(before.ID))
		require.ErrorIs(t, err, os.ErrNotExist)
	}
}

// S23, where no step was foreseen.
func TestKilledAnywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	onEach(t, func(t *testing.T, p place) {
		e := errand{URL: p.url, Files: t.TempDir()}
		a := open(t, p.be, func(c *Config) { c.FilesDir = e.Files })
		a.cfg.Hooks.OnCreate = fillOnCreate(a)
		for i := range 12 {
			e := e
			e.Op = []string{"create", "rename", "purge"}[i%3]
			e.Slug, e.After = fmt.Sprintf("t%d", i), time.Duration(1+4*i)*time.Millisecond
			before := e.prepare(t, a)
			e.send(t)
			require.NoError(t, a.FinishOperations(t.Context()))
			err := e.run(t.Context(), a)
			if err != nil && !errors.Is(err, ErrSlugTaken) && !errors.Is(err, ErrNotFound) {
				require.NoError(t, err)
			}
			// What a process was building for everybody is nobody's operation.
			findings, err := a.Doctor(t.Context())
			require.NoError(t, err)
			for _, f := range findings {
				require.Equal(t, FindingLeftover, f.Code)
				require.NoError(t, a.Repair(t.Context(), f))
			}
			requireHealthy(t, a)
			e.verify(t, a, before)
		}
	})
}
