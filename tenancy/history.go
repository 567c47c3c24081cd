package tenancy

import (
	"context"
	"math"
	"time"
)

// Change is an entry in a tenant's history.
type Change struct {
	Revision int64     `json:"revision"` // grows from change to change, over all tenants
	Kind     EventKind `json:"kind"`
	At       time.Time `json:"at"`               // UTC, by the database's clock
	Actor    string    `json:"actor,omitempty"`  // as WithActor named them
	Detail   string    `json:"detail,omitempty"` // "thor → donar", a host, a reason
}

// History lists a tenant's changes, the latest first; at most limit of them, or all that are kept when limit is 0: the
// last 200 of each tenant at least. It lists those of a tenant that was purged too, and none for an ID that never was.
func (a *App) History(ctx context.Context, id ID, limit int) ([]Change, error) {
	if limit <= 0 {
		limit = math.MaxInt32
	}
	rows, err := a.reg.db.QueryContext(Leave(ctx), `SELECT revision, kind, at, actor, detail FROM tenement_changes
		WHERE tenant_id = $1 ORDER BY revision DESC LIMIT $2`, string(id), limit)
	if err != nil {
		return nil, opError("read the history of", string(id), err)
	}
	defer rows.Close()
	var changes []Change
	for rows.Next() {
		var c Change
		var at string
		if err := rows.Scan(&c.Revision, &c.Kind, &at, &c.Actor, &c.Detail); err != nil {
			return nil, opError("read the history of", string(id), err)
		}
		if at != "" { // those of the first version have no time
			if c.At, err = time.Parse(timeFormat, at); err != nil {
				return nil, opError("read the history of", string(id), err)
			}
		}
		changes = append(changes, c)
	}
	return changes, opError("read the history of", string(id), rows.Err())
}
