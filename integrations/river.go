package integrations

import (
	"context"
	"database/sql"
	"encoding/json"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/tenancy/outbox"
)

// Acquired is a job for River: the library of a tenant has a new book. Tenant and message make it one job, however
// often the message is delivered.
type Acquired struct {
	Tenant  tenancy.Ref `json:"tenant"  river:"unique"`
	Message int64       `json:"message" river:"unique"`
	Title   string      `json:"title"`
}

// Kind implements [river.JobArgs].
func (Acquired) Kind() string { return "acquired" }

// InsertOpts implements [river.JobArgsWithInsertOpts].
func (Acquired) InsertOpts() river.InsertOpts {
	return river.InsertOpts{UniqueOpts: river.UniqueOpts{ByArgs: true}}
}

// River's queue is in the shared store: one table of jobs for all tenants.
func riverDriver(app *tenancy.App) riverdriver.Driver[*sql.Tx] {
	if onPostgres(app) {
		return riverdatabasesql.New(app.Shared())
	}
	return riversqlite.New(app.Shared())
}

// MigrateRiver makes River's tables.
func MigrateRiver(ctx context.Context, app *tenancy.App) error {
	migrator, err := rivermigrate.New(riverDriver(app), nil)
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

// acquiring works on Acquired in its tenant.
type acquiring struct {
	river.WorkerDefaults[Acquired]
	app *tenancy.App
	do  func(ctx context.Context, t *tenancy.Tenant, title string) error
}

// Work implements [river.Worker].
func (w acquiring) Work(ctx context.Context, job *river.Job[Acquired]) error {
	return w.app.Run(ctx, job.Args.Tenant, tenancy.Policy{}, func(ctx context.Context, t *tenancy.Tenant) error {
		return w.do(ctx, t, job.Args.Title)
	})
}

// Enqueue takes messages out of the tenants' outboxes and makes jobs of them; it is for [outbox.Box.Run].
func Enqueue(client *river.Client[*sql.Tx]) outbox.Deliver {
	return func(ctx context.Context, t tenancy.Tenant, m outbox.Message) error {
		args := Acquired{Tenant: t.Ref(), Message: m.ID}
		if err := json.Unmarshal(m.Payload, &args.Title); err != nil {
			return err
		}
		_, err := client.Insert(ctx, args, nil)
		return err
	}
}
