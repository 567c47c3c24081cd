package tenancy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tenement-go/tenement/migrate"
)

// Config says how an application's tenants are kept. It is copied by [Open]. The zero value of a field is its default.
type Config struct {
	// Shared and Tenant are the two sets of migrations; see [migrate.Config]. The registry's own tables are not among
	// them: the App keeps those itself.
	Shared, Tenant []migrate.Source

	// Behind says what becomes of a request for a tenant whose store is behind the migrations of this binary. Defaults
	// to [migrate.Refuse].
	Behind migrate.Policy

	// BehindWait bounds how long a request waits for the migration of its tenant's store under [migrate.Migrate]; the
	// migration itself goes on. Defaults to 10 seconds.
	BehindWait time.Duration

	// LockTimeout bounds how long a migration waits for a lock, and so how long a tenant's own statements queue behind
	// it. Defaults to 2 seconds.
	LockTimeout time.Duration

	// AllowOutOfOrder applies migrations with a lower version than one that the store has; see [migrate.Config].
	AllowOutOfOrder bool

	// Hooks are called as tenants come and go.
	Hooks Hooks

	// ReservedSlugs are the slugs that no tenant may be given, unless its Spec says otherwise. Nil means those of
	// [DefaultReservedSlugs]; an empty list reserves none.
	ReservedSlugs []string

	// CacheSize is the greatest number of hosts, of slugs and of IDs whose tenants are kept in memory, and of those
	// that are known to lead to none. Defaults to 10,000.
	CacheSize int

	// PollInterval is how often the registry is asked for changes that other processes made, and for operations that
	// nobody is finishing. Defaults to 1 second.
	PollInterval time.Duration

	// UnknownTTL is how long a host that leads to no tenant is remembered as such when no change is heard of. Defaults
	// to 1 minute.
	UnknownTTL time.Duration

	// LookupTimeout bounds one question to the registry on behalf of a request. Defaults to 5 seconds.
	LookupTimeout time.Duration

	// IgnoreWWW makes "www.a.example" the same host as "a.example", when registered and when looked up;
	// "www.www.a.example" is none that can be registered. Switching it
	// on over tenants that have both of them makes [Open] fail with a [*HostRulesError]. While some processes have it on
	// and others do not, those that were opened last say how hosts are spelled: the others register none.
	IgnoreWWW bool

	// FilesDir is the directory in which each tenant gets one of its own for its files; see [App.Dir]. Empty means
	// that there are none. It is made when it is not there.
	FilesDir string

	// Spares is how many stores are kept made and migrated ahead, so that [App.Create] has to claim one and no more. It is
	// used for a Spec that names neither store nor place. A tenant that was made of a spare has a store that is named
	// after its ID, and a rename of its slug leaves that as it is. All processes over one registry should have the same
	// number; where it is 0 none is used, and nobody but [App.FillSpares] looks after them. Several places are not
	// supported with it. Defaults to 0.
	Spares int

	// Logger gets what is not worth an error: polls that failed, hooks that did. Defaults to discarding it.
	Logger *slog.Logger
}

// withDefaults checks the configuration and fills it in.
func (c Config) withDefaults() (Config, error) {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"CacheSize", int64(c.CacheSize)},
		{"BehindWait", int64(c.BehindWait)},
		{"LockTimeout", int64(c.LockTimeout)},
		{"LookupTimeout", int64(c.LookupTimeout)},
		{"PollInterval", int64(c.PollInterval)},
		{"Spares", int64(c.Spares)},
		{"UnknownTTL", int64(c.UnknownTTL)},
	} {
		if f.value < 0 {
			return c, fmt.Errorf("tenement: open: %s is negative; leave it 0 for the default", f.name)
		}
	}
	if c.Behind > migrate.Serve {
		return c, errors.New("tenement: open: Behind is none of migrate.Refuse, migrate.Migrate and migrate.Serve")
	}
	c.CacheSize = cmp.Or(c.CacheSize, 10_000)
	c.PollInterval = cmp.Or(c.PollInterval, time.Second)
	c.UnknownTTL = cmp.Or(c.UnknownTTL, time.Minute)
	c.LookupTimeout = cmp.Or(c.LookupTimeout, 5*time.Second)
	if c.ReservedSlugs == nil {
		c.ReservedSlugs = DefaultReservedSlugs()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Hooks are an application's part in the life of its tenants. A panic in one of them is logged, with its stack, and is
// the error of that hook: it does not end the process. That of OnChange, which returns none, is only logged.
type Hooks struct {
	// OnCreate fills a new tenant's store, in the tenant's context, before the tenant is served for the first time.
	// seed is what [Spec.Seed] was, nil when there was none. An error makes Create fail; creating the tenant again
	// starts over with an empty store. It may create other tenants, from a context that it left by [Leave].
	//
	// It may be called by another process than the one that was asked to create the tenant, if that one died or lost the
	// tenant's lock. What the first one still does in its context after that, in any tenant's store, fails with
	// backend.ErrLockLost; so does what goes on after a creation has failed, and not what goes on after one that succeeded.
	OnCreate func(ctx context.Context, t Tenant, seed Seed) error

	// OnChange is told of every change of a tenant after it was made, by this process (before the call that made it
	// returns) or, within the bound on staleness, by another (one at a time, in their order: while it takes long, those
	// that follow wait in memory). It may be told of a change twice. The context is in no tenant. It may enter tenants and
	// change them.
	OnChange func(ctx context.Context, e Event)

	// ApproveDomain decides whether host, a normalised name, may lead to t: when the tenant is created with it and
	// when [App.AddDomain] is called. An error leaves the domain pending; see [PendingDomain]. d.Token is what its
	// owner can prove ownership with. Defaults to nil: every domain is approved at once. [DNSChallenge] is a ready one.
	ApproveDomain func(ctx context.Context, t Tenant, d PendingDomain) error
}

// EventKind says what happened to a tenant.
type EventKind string

// The kinds of events.
const (
	EventClaimed   EventKind = "claimed"   // its slug and domains were taken, its store is about to be made
	EventCreated   EventKind = "created"   // it is active for the first time
	EventFailed    EventKind = "failed"    // making it failed
	EventUpdated   EventKind = "updated"   // name or metadata
	EventRenamed   EventKind = "renamed"   // slug or store
	EventSuspended EventKind = "suspended" // it is not served
	EventReadOnly  EventKind = "read-only" // it is served, and may not be written to
	EventActivated EventKind = "activated" // it is served again in full
	EventDeleted   EventKind = "deleted"   // it became a tombstone
	EventRestored  EventKind = "restored"  // the tombstone became a tenant again
	EventPurging   EventKind = "purging"   // its purge has begun; it cannot be restored any more
	EventPurged    EventKind = "purged"    // it is gone
	EventDomains   EventKind = "domains"   // a host was added, removed, moved, made primary, or is pending
	EventAdopted   EventKind = "adopted"   // a store that was there became a tenant's
	EventReplaced  EventKind = "replaced"  // it has another store, of the same name
	EventEnrolled  EventKind = "enrolled"  // it came from another registry, as it was there
)

// Event is a change of a tenant.
type Event struct {
	Kind EventKind
	// Tenant is the tenant after the change. Of one that was purged by another process only the ID is certain.
	Tenant Tenant
	// Actor is who made the change, as [WithActor] named them; empty when nobody was named.
	Actor string
	// Remote: another process made the change.
	Remote bool
}
