// Package polls is a small, complete application: people sign up, ask questions, vote, and see the result as a chart. It
// has a JSON API, web pages that need no JavaScript, and an admin.
//
// It is written for one customer and one database. A [Store] holds a *sql.DB and passes every call the context that it was
// given: there is not a word about tenants here, and a test sees to it that none of the packages that know them is
// imported. Its SQL is plain: the same text runs on SQLite and on Postgres.
package polls

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"
)

// Errors that the methods of [Store] return, wrapped or bare. Input that breaks a rule is an [Invalid] instead.
var (
	// ErrNotFound: there is no such row, or it was deleted in the meantime.
	ErrNotFound = errors.New("polls: not found")
	// ErrUsernameTaken: another user has that name.
	ErrUsernameTaken = errors.New("polls: that username is taken")
	// ErrCredentials: no user has that name and that password. Which of the two is wrong is not told.
	ErrCredentials = errors.New("polls: wrong username or password")
	// ErrAlreadyVoted: the user has voted on this poll before. A vote cannot be changed.
	ErrAlreadyVoted = errors.New("polls: you have voted on this poll already")
	// ErrTooManyChoices: the poll has [MaxChoices] choices.
	ErrTooManyChoices = errors.New("polls: the poll has as many choices as a poll may have")
	// ErrPlanLimit: there are as many polls as the plan allows.
	ErrPlanLimit = errors.New("polls: there are as many polls as the plan allows")
	// ErrLastSuperuser: the change would leave nobody who can manage users.
	ErrLastSuperuser = errors.New("polls: there must be one superuser left")
	// ErrBusy: too many passwords are being checked at this moment. Try again in a few seconds.
	ErrBusy = errors.New("polls: too many sign-ins at once")
)

// Store reads and writes the tables of the application. It is safe for concurrent use. It keeps nothing of what it read:
// the database that a call's context leads to is the only state.
type Store struct {
	db     *sql.DB
	hasher hasher
	now    func() time.Time
	key    func(ctx context.Context, parts ...string) string
	plan   func(ctx context.Context) (id string, err error)
}

// An Option changes how a [Store] works.
type Option func(*Store)

// WithPasswordCost sets what hashing a password costs. Defaults to [DefaultPasswordCost]; tests want it lower. Hashes that
// were made at another cost stay valid.
func WithPasswordCost(cost PasswordCost) Option { return func(s *Store) { s.hasher.cost = cost } }

// WithHashLimit sets how many passwords are hashed at the same time; the others wait in line. Defaults to the number of
// processors, at most 4. Times the memory of [PasswordCost], it is what a flood of sign-ins can make the process take. For
// each key of [WithKey] it is one at a time: a flood at one customer's door slows down that customer's sign-ins.
func WithHashLimit(n int) Option {
	return func(s *Store) { s.hasher.slots = make(chan struct{}, max(1, n)) }
}

// WithKey sets the key under which something is remembered or bounded in memory: what one process does for several
// databases must not be counted together. Defaults to the parts, joined: there is one database.
func WithKey(key func(ctx context.Context, parts ...string) string) Option {
	return func(s *Store) { s.key = key }
}

// WithPlan sets where the ID of the plan is found that says how many polls there may be. Where it is "", and by default,
// there is no limit.
func WithPlan(plan func(ctx context.Context) (id string, err error)) Option {
	return func(s *Store) { s.plan = plan }
}

// WithClock sets where the time comes from: when something was made, whether a sign-in has expired, and when one that was
// refused too often may be tried again. Defaults to [time.Now].
func WithClock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

// NewStore returns a Store over db, which has the tables of the application's migrations. The database stays the caller's:
// the Store never closes it.
func NewStore(db *sql.DB, options ...Option) *Store {
	s := &Store{
		db:     db,
		hasher: hasher{cost: DefaultPasswordCost, patience: hashPatience, slots: make(chan struct{}, min(4, runtime.GOMAXPROCS(0)))},
		now:    time.Now,
		key:    func(_ context.Context, parts ...string) string { return strings.Join(parts, "\x00") },
		plan:   func(context.Context) (string, error) { return "", nil },
	}
	for _, option := range options {
		option(s)
	}
	s.hasher.key = func(ctx context.Context) string { return s.key(ctx, "hash") }
	return s
}

// A Plan is what a customer can subscribe to.
type Plan struct {
	ID, Name, Description string
	PriceCents            int64 // a month
	MaxPolls              int64
}

// Price is the price of a month as people write it: "€9" or "€9.50".
func (p Plan) Price() string {
	if p.PriceCents%100 == 0 {
		return fmt.Sprintf("€%d", p.PriceCents/100)
	}
	return fmt.Sprintf("€%d.%02d", p.PriceCents/100, p.PriceCents%100)
}

// Plans lists the plans, cheapest first.
func (s *Store) Plans(ctx context.Context) ([]Plan, error) {
	rows, err := s.db.QueryContext(ctx, `
		SELECT id, name, description, price_cents, max_polls FROM plans ORDER BY price_cents, id`)
	if err != nil {
		return nil, fmt.Errorf("polls: list plans: %w", err)
	}
	plans, err := collect(rows, func(rows *sql.Rows) (p Plan, err error) {
		return p, rows.Scan(&p.ID, &p.Name, &p.Description, &p.PriceCents, &p.MaxPolls)
	})
	if err != nil {
		return nil, fmt.Errorf("polls: list plans: %w", err)
	}
	return plans, nil
}

// querier is what *sql.DB and *sql.Tx have in common.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// inTx runs fn in a transaction. Its first statement should be one that writes: on SQLite a transaction that reads first
// and writes later can be refused in the middle because another one wrote in between.
func (s *Store) inTx(ctx context.Context, fn func(tx *sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // After Commit it does nothing.
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// insert runs an INSERT … RETURNING id and returns the ID, or sql.ErrNoRows when nothing was inserted. Unlike QueryRow it
// reads to the end, where a database reports what went wrong after the row.
func insert(ctx context.Context, q querier, query string, args ...any) (id int64, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	ids, err := collect(rows, func(rows *sql.Rows) (id int64, err error) { return id, rows.Scan(&id) })
	switch {
	case err != nil:
		return 0, err
	case len(ids) == 0:
		return 0, sql.ErrNoRows
	}
	return ids[0], nil
}

// collect reads all rows and closes them.
func collect[T any](rows *sql.Rows, scan func(*sql.Rows) (T, error)) (all []T, err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		row, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

// changed returns ErrNotFound when an UPDATE or DELETE met no row.
func changed(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

// millis is how times are stored: an integer reads the same from every database.
func millis(t time.Time) int64 { return t.UnixMilli() }

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
