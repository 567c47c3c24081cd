package tenancy

import (
	"context"
	"time"
)

// OperationKind says what an operation does to its tenant.
type OperationKind string

// The kinds of operations.
const (
	OpCreate OperationKind = "create"
	OpRename OperationKind = "rename"
	OpPurge  OperationKind = "purge"
)

// Operation is something of several steps that is being done to a tenant. It is kept in the registry, with the step that
// it reached: whoever runs an App over it goes on with an operation that nobody is at work on, so that one whose
// process died is over within seconds.
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
}

// Operations lists the operations under way or stopped, in the order in which they were begun.
func (a *App) Operations(ctx context.Context) ([]Operation, error) {
	return nil, nil
}

// FinishOperations goes on with the operations that nobody is at work on and that have not stopped, and returns when
// they are over. An App does so by itself every PollInterval; a program that runs one command and ends does it before
// that. Errors are joined; they are kept in the registry too.
func (a *App) FinishOperations(ctx context.Context) error {
	return nil
}
