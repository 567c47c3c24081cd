package tenancy

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
)

// OperationKind says what an operation does to its tenant.
type OperationKind string

// The kinds of operations.
const (
	OpCreate  OperationKind = "create"
	OpImport  OperationKind = "import"  // see [App.CreateBy]
	OpReplace OperationKind = "replace" // see [App.Replace]
	OpRename  OperationKind = "rename"
	OpPurge   OperationKind = "purge"
	OpFreeze  OperationKind = "freeze" // see [App.Freeze]
)

// Operation is something of several steps that is being done to a tenant. It is kept in the registry, with the step that
// it reached: whoever runs an App over it goes on with an operation that nobody is at work on, so that one whose
// process died is over within seconds.
//
// The same goes for one whose connection to the registry was lost: the call ends with an error for which errors.Is(err,
// [backend.ErrLockLost]) holds, whatever it was at, and the operation is finished all the same. Ask [App.Operations] whether it is.
type Operation struct {
	ID      int64         `json:"id"`
	Tenant  ID            `json:"tenant"`
	Kind    OperationKind `json:"kind"`
	Step    string        `json:"step"`            // the next step to be done
	Started time.Time     `json:"started"`         // UTC, by the database's clock
	Error   string        `json:"error,omitempty"` // why it did not get further when it was last tried
	// Stopped: it is not tried again by itself. A creation stops when OnCreate or a migration fails; creating the
	// tenant again, repairing it or deleting it goes on.
	Stopped bool `json:"stopped,omitempty"`

	args  opArgs
	fence int64 // grows each time that somebody takes the operation up
}

// opArgs is what an operation was told.
type opArgs struct {
	Seed json.RawMessage `json:"seed,omitempty"` // create: what OnCreate is to know
	Hook bool            `json:"hook,omitempty"` // create: there is an OnCreate to be called

	Domains []string `json:"domains,omitempty"` // create: those that are pending, the first of them to be primary

	Slug  string `json:"slug,omitempty"`  // rename: the new one
	Store string `json:"store,omitempty"` // rename: where the store is to be; replace: where the new one is made
	Aside string `json:"aside,omitempty"` // replace: where the old one is to be

	Apart bool   `json:"apart,omitempty"` // replace: the old one is set aside before the new one is made of it
	Place string `json:"place,omitempty"` // create, import, where one was named: where the store is to be made

	Reason string `json:"reason,omitempty"` // freeze, replace while frozen: by which its read-only status is told from an operator's
}

// step is a part of an operation. It may be done again after it was done, in part or in whole.
type step struct {
	name string
	// do is what is done outside of the registry.
	do func(ctx context.Context, r *run) error
	// commit is what the registry says once it is done, written together with the next step.
	commit func(ctx context.Context, tx *registryTx, r *run) ([]*Tenant, error)
	// atOnce, unless it is nil, does that in one message where it can, and otherwise nothing.
	atOnce func(ctx context.Context, r *run) (done bool, err error)
}

// steps are what each kind of operation consists of.
func steps(kind OperationKind) []step {
	switch kind {
	case OpCreate:
		return createSteps
	case OpImport:
		return importSteps
	case OpReplace:
		return replaceSteps
	case OpRename:
		return renameSteps
	case OpPurge:
		return purgeSteps
	case OpFreeze:
		return freezeSteps
	}
	return nil // of a newer version
}

// run is an operation that this process is at work on, holding the tenant's lock.
type run struct {
	a       *App
	op      *Operation
	t       *Tenant // as the registry had it last
	known   bool    // t is what this run has just written; who changed it since is noticed by its version
	lock    *held
	resumed bool // somebody was at work on the operation before
	left    bool // the time for what is done about a failure is over

	made      *migrate.Unentered // create: the store, unless the ledger has it
	approved  []string           // create: the pending domains that the hook approves of
	fillStore Filler             // import: what makes the store; nil in a process that only knows that it was begun

	// replace: the same
	replaceStore func(ctx context.Context, t Tenant, rt backend.Route) error
}

// errSuperseded: the lock was lost, and somebody else took the operation up.
var errSuperseded = fmt.Errorf("%w: somebody else goes on with the operation", backend.ErrLockLost)

// abandon is the error of an operation that cannot be done and was undone: undo is what the registry says then. There is no
// cause where that is what was to be done.
type abandon struct {
	cause error
	undo  func(ctx context.Context, tx *registryTx, r *run) ([]*Tenant, error)
}

func (e *abandon) Error() string { return fmt.Sprint("undone: ", e.cause) }
func (e *abandon) Unwrap() error { return e.cause }

// finish does the steps that are left. It returns the tenant as it is then, also with an error.
func (r *run) finish(ctx context.Context) (*Tenant, error) {
	todo := steps(r.op.Kind)
	for len(todo) > 0 && todo[0].name != r.op.Step {
		todo = todo[1:]
	}
	if len(todo) == 0 {
		return r.t, fmt.Errorf("operation %s is at step %q, which this version does not know", r.op.Kind, r.op.Step)
	}
	for i, s := range todo {
		if err := r.one(ctx, s, todo[i+1:]); err != nil {
			return r.t, r.failed(ctx, err)
		}
	}
	if r.made != nil {
		r.made.Entered()
	}
	return r.t, nil
}

func (r *run) one(ctx context.Context, s step, rest []step) error {
	name := string(r.op.Kind) + ": " + s.name
	if s.do != nil {
		if err := s.do(ctx, r); err != nil {
			return err
		}
	}
	r.a.step(name + " done")
	next := ""
	if len(rest) > 0 {
		next = rest[0].name
	}
	done := false
	if s.atOnce != nil {
		var err error
		if done, err = s.atOnce(ctx, r); err != nil {
			return err
		}
	}
	if !done {
		if err := r.commit(ctx, next, s.commit); err != nil {
			return err
		}
	}
	r.a.step(name + " committed")
	return nil
}

// commit writes the step that was reached, or the end of the operation when next is empty, with what the registry says
// about it. It returns errSuperseded, having changed nothing, when somebody else took the operation up.
func (r *run) commit(ctx context.Context, next string, change func(context.Context, *registryTx, *run) ([]*Tenant, error)) error {
	var after []*Tenant
	err := r.a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		if err := tx.advance(ctx, r.op, next); err != nil {
			return nil, err
		}
		if change == nil {
			return nil, nil
		}
		if err := r.read(ctx, tx); err != nil {
			return nil, err
		}
		var err error
		after, err = change(ctx, tx, r)
		return after, err
	})
	if err == nil {
		r.op.Step = next
	}
	return err
}

// read has t be what the registry has, and the run's own.
func (r *run) read(ctx context.Context, tx *registryTx) (err error) {
	if r.known {
		r.known = false // tried again, it is read
		own := *r.t
		r.t = &own
		return nil
	}
	r.t, err = one(ctx, tx, selectByID, string(r.op.Tenant))
	return err
}

// advance is the fence of everything that an operation writes: the row is that of whoever took the operation up last.
func (tx *registryTx) advance(ctx context.Context, op *Operation, next string) error {
	query := `UPDATE tenement_operations SET step = $3, error = '' WHERE id = $1 AND fence = $2`
	args := []any{op.ID, op.fence, next}
	if next == "" {
		query, args = `DELETE FROM tenement_operations WHERE id = $1 AND fence = $2`, args[:2]
	}
	res, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return errSuperseded
	}
	return nil
}

const (
	// cleanupTimeout bounds what is done about a failure while the caller waits for it,
	cleanupTimeout = 10 * time.Second
	// and cleanupGrace what is done after his context has ended. A server that does not answer would keep him, and what is
	// left then is finished by those who finish operations, as if the process had died.
	cleanupGrace = 1500 * time.Millisecond
)

// afterwards returns the context of what is done about a failure.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(cleanupGrace, cancel) })
	return own, func() { stop(); cancel() }
}

// failed notes why an operation did not get further, and returns the error for the caller.
func (r *run) failed(ctx context.Context, cause error) error {
	if errors.Is(cause, backend.ErrLockLost) || r.a.ctx.Err() != nil || r.left {
		return cause // somebody else's now, or soon
	}
	ctx, cancel := afterwards(ctx)
	defer cancel()
	var undone *abandon
	if errors.As(cause, &undone) {
		return errors.Join(undone.cause, r.commit(ctx, "", undone.undo))
	}
	reason := cutReason(cause)
	stop := r.op.Kind == OpCreate
	err := r.a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		if err := tx.advance(ctx, r.op, r.op.Step); err != nil {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE tenement_operations SET error = $2, stopped = $3 WHERE id = $1`, r.op.ID, reason, stop); err != nil {
			return nil, err
		}
		if !stop {
			return nil, nil
		}
		t, err := one(ctx, tx, selectByID, string(r.op.Tenant))
		if err != nil {
			return nil, err
		}
		if err := tx.update(ctx, t, EventFailed, reason, `status = $3, reason = $4`, string(Failed), reason); err != nil {
			return nil, err
		}
		t.Status, t.Reason = Failed, reason
		r.t = t
		return []*Tenant{t}, nil
	})
	return errors.Join(cause, err)
}

const operationColumns = `id, tenant, kind, step, args, fence, stopped, started_at, error`

func scanOperations(rows *sql.Rows) (found []*Operation, err error) {
	defer rows.Close()
	for rows.Next() {
		var op Operation
		var args, started string
		if err := rows.Scan(&op.ID, &op.Tenant, &op.Kind, &op.Step, &args, &op.fence, &op.Stopped, &started, &op.Error); err != nil {
			return nil, err
		}
		if op.Started, err = time.Parse(timeFormat, started); err == nil {
			err = json.Unmarshal([]byte(args), &op.args)
		}
		if err != nil {
			return nil, fmt.Errorf("operation %d: %w", op.ID, err)
		}
		found = append(found, &op)
	}
	return found, rows.Err()
}

// operation returns the operation of a tenant, or nil.
func operation(ctx context.Context, q querier, id ID) (*Operation, error) {
	rows, err := q.QueryContext(ctx, `SELECT `+operationColumns+` FROM tenement_operations WHERE tenant = $1`, string(id))
	if err != nil {
		return nil, err
	}
	found, err := scanOperations(rows)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

func newOperation(id ID, kind OperationKind, args opArgs) *Operation {
	return &Operation{Tenant: id, Kind: kind, Step: steps(kind)[0].name, args: args, fence: 1}
}

func (op *Operation) encodeArgs() (string, error) {
	text, err := json.Marshal(op.args)
	return string(text), err
}

// begin enters an operation. The caller holds the tenant's lock. slug is one that the tenant is to have, "" for none.
func (tx *registryTx) begin(ctx context.Context, id ID, kind OperationKind, slug string, args opArgs) (*Operation, error) {
	op := newOperation(id, kind, args)
	text, err := op.encodeArgs()
	if err != nil {
		return nil, err
	}
	var started string
	err = tx.QueryRowContext(ctx, `INSERT INTO tenement_operations (tenant, kind, step, args, slug, started_at)
		VALUES ($1, $2, $3, $4, NULLIF($5, ''), `+tx.reg.now()+`) ON CONFLICT DO NOTHING RETURNING id, started_at`,
		string(id), string(kind), op.Step, text, slug).Scan(&op.ID, &started)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, tx.notBegun(ctx, id)
	case err != nil:
		return nil, err
	}
	op.Started, err = time.Parse(timeFormat, started)
	return op, err
}

// errOpen is what [registryTx.begin] returns, to [App.begin], where the tenant has an operation that is to be finished.
var errOpen = fmt.Errorf("%w: an operation is not over", ErrChanged)

// notBegun says why nothing was entered: errOpen, or errRetry where another tenant is to have the slug, which is found the
// next time.
func (tx *registryTx) notBegun(ctx context.Context, id ID) error {
	switch op, err := operation(ctx, tx, id); {
	case err != nil:
		return err
	case op != nil && !op.Stopped:
		return errOpen
	default:
		return errRetry
	}
}

// begin calls claim, which enters an operation, once none of the tenant's is open. One may come to light only then: whoever
// began it died, and lost the lock, while the server was committing that.
func (a *App) begin(ctx context.Context, h *held, claim func() error) error {
	for {
		if _, err := a.goOn(ctx, h, false); err != nil {
			return err
		}
		if err := claim(); !errors.Is(err, errOpen) {
			return err
		}
	}
}

// take makes an operation that is there this process's own: whoever was at work on it changes nothing any more.
func (tx *registryTx) take(ctx context.Context, op *Operation) error {
	op.fence++
	op.Stopped = false
	res, err := tx.ExecContext(ctx, `UPDATE tenement_operations SET fence = $3, stopped = FALSE WHERE id = $1 AND fence = $2`,
		op.ID, op.fence-1, op.fence)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return errRetry
	}
	return nil
}

// goOn finishes the operation of a tenant, if there is one that has not stopped, or also one that has. The caller holds
// the lock. It returns the kind of the operation that is over now, or "" when there was nothing to do.
func (a *App) goOn(ctx context.Context, h *held, stoppedToo bool) (OperationKind, error) {
	var r *run
	err := a.write(ctx, func(ctx context.Context, tx *registryTx) ([]*Tenant, error) {
		r = nil
		op, err := operation(ctx, tx, h.id)
		if err != nil || op == nil || op.Stopped && !stoppedToo {
			return nil, err
		}
		if op.args.Hook && a.cfg.Hooks.OnCreate == nil {
			return nil, fmt.Errorf("operation %s needs an OnCreate hook, which this program has not got", op.Kind)
		}
		t, err := one(ctx, tx, selectByID, string(h.id))
		if err != nil {
			return nil, err
		}
		r = &run{a: a, op: op, t: t, lock: h, resumed: true}
		return nil, tx.take(ctx, op)
	})
	if err != nil || r == nil {
		return "", err
	}
	_, err = r.finish(ctx)
	return r.op.Kind, err
}

// Operations lists the operations under way or stopped, in the order in which they were begun.
func (a *App) Operations(ctx context.Context) ([]Operation, error) {
	rows, err := a.reg.db.QueryContext(Leave(ctx), `SELECT `+operationColumns+` FROM tenement_operations ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("tenement: list operations: %w", err)
	}
	found, err := scanOperations(rows)
	if err != nil {
		return nil, fmt.Errorf("tenement: list operations: %w", err)
	}
	ops := make([]Operation, len(found))
	for i, op := range found {
		ops[i] = *op
	}
	return ops, nil
}

// FinishOperations goes on with the operations that nobody is at work on and that have not stopped, and returns when
// they are over. An App does so by itself every PollInterval; a program that runs one command and ends does it before
// that. Errors are joined; they are kept in the registry too.
func (a *App) FinishOperations(ctx context.Context) error {
	ops, err := a.Operations(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, op := range ops {
		if op.Stopped {
			continue
		}
		if _, err := a.resume(Leave(ctx), op); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// resume goes on with one operation unless somebody is at work on it, which is what busy says.
func (a *App) resume(ctx context.Context, op Operation) (busy bool, err error) {
	busy, err = a.tryTenant(ctx, string(op.Kind), op.Tenant, func(ctx context.Context, h *held) error {
		_, err := a.goOn(ctx, h, false)
		return err
	})
	return busy, opError("finish to "+string(op.Kind), string(op.Tenant), err)
}
