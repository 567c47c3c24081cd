package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
)

// Tenants' work is done by a role without a log-in of its own that the log-in is a member of: one for all tenants, or
// one for each. It owns what is in their schemas, but not the schemas, and may read and refer to the shared tables. So
// the server itself keeps tenants' requests and migrations from changing what is shared, and from dropping or renaming
// stores. Roles belong to the whole cluster, so the database's name is part of theirs.

// roleMode says whose role does tenants' work.
type roleMode uint8

const (
	rolesOff  roleMode = iota // none: the log-in does it
	rolesOne                  // one for all tenants
	rolesEach                 // the tenant's own
)

// roles is what a backend knows of them. All but names and kept are set while it is opened.
type roles struct {
	mode     roleMode
	one      string // the role of all tenants
	database string
	version  int  // the server's, as server_version_num
	pooled   bool // connections are not ours to keep a role on: they are lent, or a pooler's
	advice   []string
	logsIn   bool // Citus: the nodes' sessions are the role's own

	kept  atomic.Pointer[string] // the role that connections take when they are made; nil: none
	names sync.Map               // backend.Store → string
}

// maxRoleName is how long an identifier may be.
const maxRoleName = 63

// roleName returns prefix and name, or a hash where that would be too long.
func roleName(prefix, name string) string {
	if full := prefix + name; len(full) <= maxRoleName {
		return full
	}
	sum := sha256.Sum256([]byte(prefix + name))
	return prefix + "#" + hex.EncodeToString(sum[:20])
}

// name returns the role that works for a store.
func (r *roles) name(s backend.Store) string {
	if r.mode == rolesOne {
		return r.one
	}
	if name, ok := r.names.Load(s); ok {
		return name.(string)
	}
	// A store's name has no dot or '#', so that no two pairs make the same name.
	name := "tn_" + r.database + "." + s.String()
	if len(name) > maxRoleName {
		name = roleName("tn", "#"+name)
	}
	r.names.Store(s, name)
	return name
}

// reader returns the role that has the rights on what is shared: the one role, or, with a role for each tenant, one that
// those are all members of. (It keeps the tables' access lists short, which the server reads from end to end.)
func (r *roles) reader() string {
	if r.mode == rolesOne {
		return r.one
	}
	return roleName("tn:", r.database)
}

// beforeConnect has a new connection take the role with its start-up message. That costs no round trip, and RESET brings
// the role back; a pooler that does not know the parameter refuses it rather than pass it on to others.
func (r *roles) beforeConnect(_ context.Context, cc *pgx.ConnConfig) error {
	if role := r.kept.Load(); role != nil {
		cc.RuntimeParams["role"] = *role
	}
	return nil
}

// assume returns how a unit of work gets its rights, and from which role.
func (r *roles) assume(rt backend.Route, access driver.Access, lost bool) (roleKind, string) {
	switch {
	case r.mode == rolesOff:
		return roleNone, ""
	case access == driver.AccessShared:
		return roleSet, "none"
	case r.mode == rolesEach || r.pooled || lost:
		return roleSet, r.name(rt.Store)
	}
	return roleVerified, r.one
}

// setting returns the [Config.TenantRole] by which another server's backend has tenants' work done with the same rights.
func (r *roles) setting() string {
	switch r.mode {
	case rolesOne:
		return r.one
	case rolesEach:
		return roleEach
	}
	return roleOff
}

// deniedShared reports whether a statement of a tenant was refused because of its role's rights: it would have changed
// something that is not the tenant's, which is the shared store's. The server's text is not looked at, it may be in any
// language; the function of its source that complains is the same everywhere: aclcheck_error (aclchk.c), or one of two
// for sequences (sequence.c).
func (be *Backend) deniedShared(access driver.Access, pe *pgconn.PgError) bool {
	if be.roles.mode == rolesOff || access == driver.AccessShared || pe.Code != "42501" {
		return false
	}
	return strings.HasPrefix(pe.Routine, "aclcheck_error") || pe.Routine == "nextval_internal" || pe.Routine == "do_setval"
}

// readOnlyFault dresses what deniedShared says yes to.
func readOnlyFault(op string, s backend.Store, err error) error {
	return &backend.Error{Op: op, Store: s, Err: fmt.Errorf("%w: %w", backend.ErrReadOnlyShared, err)}
}

// errNotOurs: the store was made while roles were off, or others.
var errNotOurs = errors.New("the store is not yet given to the role that does tenants' work; run EnsureRoles once after turning tenant roles on")

// roleFault says what is wrong when the prefix could not assume the role; nil when that is not what it failed with.
func (c *conn) roleFault(pe *pgconn.PgError) error {
	u := &c.unit
	if u.role == roleNone {
		return nil
	}
	var says string
	switch pe.Code {
	case codeNotOurs:
		says = errNotOurs.Error()
	case "22023", "42704": // no such role; it went while the connection had it
		says = "the role that does tenants' work is missing; run EnsureRoles once after turning tenant roles on"
	case "42501":
		says = "the log-in may not become the role that does tenants' work; GRANT it to the log-in"
	default:
		return nil
	}
	return &backend.Error{Op: "use", Store: u.rt.Store, Err: fmt.Errorf("%s: %w", says, pe)}
}
