package tenancy

import (
	"context"
	"fmt"
)

// Ref refers to a tenant in what outlives a context: a job, a message, a row of the application's own. It survives the
// tenant's being renamed, and leads nowhere once the tenant was purged. It marshals as text, which is the tenant's ID.
//
// A reference is no credential: it holds no secret and proves nothing. Whoever can write into the queue can name any
// tenant.
type Ref struct{ ID ID }

// ParseRef returns the reference that text, the result of [Ref.String], stands for, or a [*FieldError].
func ParseRef(text string) (Ref, error) {
	id, err := ParseID(text)
	return Ref{id}, err
}

// RefFrom returns a reference to the tenant that ctx is in. It returns ErrNoTenant when ctx is in none.
func RefFrom(ctx context.Context) (Ref, error) {
	t, ok := From(ctx)
	if !ok {
		return Ref{}, fmt.Errorf("tenement: refer to tenant: %w", ErrNoTenant)
	}
	return Ref{t.ID}, nil
}

// String returns the text that [ParseRef] takes.
func (r Ref) String() string { return string(r.ID) }

// MarshalText returns what String does.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.ID), nil }

// UnmarshalText is [ParseRef].
func (r *Ref) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRef(string(text))
	return err
}

// Ref returns r, so that a reference can be given to [App.Enter].
func (r Ref) Ref() Ref { return r }

// Ref returns a reference to the tenant of that ID.
func (id ID) Ref() Ref { return Ref{id} }

// Ref returns a reference to the tenant.
func (t Tenant) Ref() Ref { return Ref{t.ID} }

// Referrer is whatever says which tenant is meant: a [Tenant] or *Tenant, a [Ref], an [ID].
type Referrer interface{ Ref() Ref }

var (
	_ Referrer = Tenant{}
	_ Referrer = (*Tenant)(nil)
	_ Referrer = Ref{}
	_ Referrer = ID("")
)
