package outbox

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
)

// ErrTooLate means that a message was not added, because its transaction began longer ago than [Config.Grace]. The
// transaction is still usable; run again from its beginning, it may add messages.
var ErrTooLate = errors.New("the transaction began too long ago to add a message")

//go:embed shared tenant
var files embed.FS

// Shared is what the application adds to its shared set: the table that says who has work.
func Shared() migrate.Source { return source("shared") }

// Tenant is what the application adds to its tenant set: the table of messages.
func Tenant() migrate.Source { return source("tenant") }

func source(dir string) migrate.Source {
	sub, err := fs.Sub(files, dir)
	if err != nil {
		panic(err) // the pattern above has it
	}
	return migrate.Source{Name: "outbox", FS: sub, Table: "goose_outbox"}
}

// Config adjusts an outbox. The zero value of each field means its default.
type Config struct {
	// Grace is how long after its beginning a transaction may add messages, at most. All processes must have the same.
	// Clocks of several database servers may differ by as much. Defaults to a minute.
	Grace time.Duration
	// Poll is how often [Box.Run] looks who has work. Defaults to a second.
	Poll time.Duration
	// Batch is how many messages of a tenant are delivered before the next one's turn. Defaults to 100.
	Batch int
	// Lease is for how long a dispatcher has a tenant to itself; what is not delivered by then may be delivered by another
	// one too. Defaults to a minute.
	Lease time.Duration
	// Logger gets what [Box.Run] could not deliver. Defaults to discarding it.
	Logger *slog.Logger
}

// Message is what was added, in the order of IDs within one tenant.
type Message struct {
	ID      int64
	Kind    string
	Payload json.RawMessage
}

// Box is the outboxes of all tenants of an App. It is safe for concurrent use, and there is nothing to close.
type Box struct {
	app *tenancy.App
	cfg Config
	now string // the database's clock, in milliseconds

	mu     sync.Mutex
	marked map[tenancy.ID]mark
}

// mark is what this process knows of a tenant's.
type mark struct {
	at     int64     // the database's clock
	seenAt time.Time // ours
}

// New returns the outboxes of an App. The App stays the caller's.
func New(app *tenancy.App, cfg Config) *Box {
	cfg.Grace = cmp.Or(cfg.Grace, time.Minute)
	cfg.Poll = cmp.Or(cfg.Poll, time.Second)
	cfg.Batch = cmp.Or(cfg.Batch, 100)
	cfg.Lease = cmp.Or(cfg.Lease, time.Minute)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	now := "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
	if app.Backend().Dialect() == backend.SQLite {
		now = "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
	}
	return &Box{app: app, cfg: cfg, now: now, marked: map[tenancy.ID]mark{}}
}

// Tx is a transaction in a tenant's store that may add messages.
type Tx struct {
	*sql.Tx
	box     *Box
	expires int64
}

// Tx runs fn in a transaction of the tenant that ctx is in, and commits it when fn returns nil. It returns ErrNoTenant
// when ctx is in no tenant.
func (b *Box) Tx(ctx context.Context, opts *sql.TxOptions, fn func(tx *Tx) error) error {
	t, ok := tenancy.From(ctx)
	if !ok {
		return fmt.Errorf("tenement: outbox: %w", tenancy.ErrNoTenant)
	}
	at, err := b.mark(ctx, t.ID)
	if err != nil {
		return fmt.Errorf("tenement: outbox: mark tenant %s: %w", t.Slug, err)
	}
	tx, err := b.app.DB().BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	if err := fn(&Tx{tx, b, at + b.cfg.Grace.Milliseconds()}); err != nil {
		return err
	}
	return tx.Commit()
}

// Add adds a message to the transaction; payload is encoded as JSON. It returns [ErrTooLate] when the transaction began
// too long ago.
func (tx *Tx) Add(ctx context.Context, kind string, payload any) error {
	text, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("tenement: outbox: add %s: %w", kind, err)
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO outbox_messages (kind, payload)
		SELECT CAST($1 AS TEXT), CAST($2 AS TEXT) WHERE `+tx.box.now+` < CAST($3 AS BIGINT)`, kind, string(text), tx.expires)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return fmt.Errorf("tenement: outbox: add %s: %w", kind, ErrTooLate)
	}
	return nil
}

// mark says in the shared store that the tenant may have work, unless this process has done so lately, and returns when
// that was, by the database's clock.
func (b *Box) mark(ctx context.Context, id tenancy.ID) (at int64, err error) {
	b.mu.Lock()
	known, ok := b.marked[id]
	b.mu.Unlock()
	if ok && time.Since(known.seenAt) < b.cfg.Grace/2 {
		return known.at, nil
	}
	seen := time.Now()
	err = b.app.Shared().QueryRowContext(tenancy.Leave(ctx), `INSERT INTO tenement_outbox_work (tenant, marked) VALUES ($1, `+b.now+`)
		ON CONFLICT (tenant) DO UPDATE SET marked = CASE WHEN excluded.marked > tenement_outbox_work.marked
			THEN excluded.marked ELSE tenement_outbox_work.marked END
		RETURNING marked`, string(id)).Scan(&at)
	if err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for other, m := range b.marked { // what is of no more use; few are left after each half of the grace
		if time.Since(m.seenAt) >= b.cfg.Grace/2 {
			delete(b.marked, other)
		}
	}
	b.marked[id] = mark{at, seen}
	return at, nil
}
