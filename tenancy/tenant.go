package tenancy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/tenement-go/tenement/backend"
)

// ID identifies a tenant for ever: a UUID v7 as text, never given to another tenant.
type ID string

// ParseID returns the ID that text stands for, or a [*FieldError].
func ParseID(text string) (ID, error) {
	if id, err := uuid.Parse(text); err == nil && id.String() == text {
		return ID(text), nil
	}
	return "", &FieldError{Field: "id", Value: text, Rule: "it must be a UUID in its canonical spelling"}
}

func newID() (ID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("tenement: make a tenant's ID: %w", err)
	}
	return ID(id.String()), nil
}

// Status is where a tenant stands in its life. See [App] for the ways from one to another. A purged tenant is gone.
type Status string

// The statuses. Only Active and ReadOnly tenants are served.
const (
	// Provisioning: its slug and domains are claimed, its store is being made. Creating it again resumes what was
	// interrupted.
	Provisioning Status = "provisioning"
	// Active: served.
	Active Status = "active"
	// ReadOnly: served, by decision of an operator, but for what would change its store: that fails with ErrReadOnly.
	ReadOnly Status = "read-only"
	// Suspended: not served, by decision of an operator, until resumed. Nothing of it is lost.
	Suspended Status = "suspended"
	// Deleted: a tombstone. Not served; its store, slug and domains are kept until it is restored or purged.
	Deleted Status = "deleted"
	// Failed: making its store failed; Reason says why. Creating it again tries again.
	Failed Status = "failed"
)

// Served reports whether a tenant of that status is in service.
func (s Status) Served() bool { return s == Active || s == ReadOnly }

func (s Status) valid() bool {
	return slices.Contains([]Status{Provisioning, Active, ReadOnly, Suspended, Deleted, Failed}, s)
}

// Domain is a host that leads to a tenant.
type Domain struct {
	Host    string `json:"host"` // as NormalizeHost spells it
	Primary bool   `json:"primary"`
}

// Meta is an application's own data about a tenant: a JSON object, "{}" when there is none. See [MetaAs].
type Meta = json.RawMessage

// Tenant is what the registry knows about a customer, as of when it was read. It is a value: copying it is cheap,
// changing it changes nothing but the copy. Domains and Meta are shared between copies and must not be written to.
type Tenant struct {
	ID      ID            // never changes, never reused
	Slug    string        // short name, unique: a DNS label in lower case
	Name    string        // for people
	Status  Status        //
	Reason  string        // why it is suspended, read-only or failed
	Store   backend.Store // where its tables are
	Domains []Domain      // in order of host
	Meta    Meta          // the application's own
	Created time.Time     // UTC
	Updated time.Time     // UTC; when the registry's entry last changed
	Version int64         // grows with every change of this tenant; see [Patch]

	live *live // what this process knows about the tenant beyond this copy; nil for a tenant made by hand
}

var _ backend.Router = (*Tenant)(nil)

// String returns the slug: in a template, a log line or a message that is what is meant, and not all that is known.
func (t Tenant) String() string { return t.Slug }

// Route says where the tenant's units of work go; see [backend.Route]. It follows the tenant: of a copy that is older
// than a rename it is the route after it, once this process has heard of that.
func (t *Tenant) Route() backend.Route {
	if t == nil {
		return backend.Route{}
	}
	now := t.latest()
	rt := now.route()
	rt.ReadOnly = now.Status == ReadOnly
	return rt
}

// route is where this copy of the tenant says that its store is, for work that is not the tenant's own.
func (t *Tenant) route() backend.Route {
	return backend.Route{Store: t.Store, Owner: string(t.ID)}
}

// latest returns what this process knows of the tenant by now, or t itself when it knows no more.
func (t *Tenant) latest() *Tenant {
	if t.live != nil {
		if cur := t.live.cur.Load(); cur != nil {
			return cur
		}
	}
	return t
}

// after reports whether t is what became of old. A tenant that was adopted under the ID of one that was purged begins its
// versions anew.
func (t *Tenant) after(old *Tenant) bool {
	return cmp.Or(t.Created.Compare(old.Created), cmp.Compare(t.Version, old.Version)) > 0
}

// PrimaryDomain returns the host to build the tenant's URLs with, or "" when it has no domain.
func (t *Tenant) PrimaryDomain() string {
	for _, d := range t.Domains {
		if d.Primary {
			return d.Host
		}
	}
	return ""
}

func (t *Tenant) hasDomain(host string) bool {
	return slices.ContainsFunc(t.Domains, func(d Domain) bool { return d.Host == host })
}

// MarshalJSON writes the tenant for people and programs to read.
func (t Tenant) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		ID      ID        `json:"id"`
		Slug    string    `json:"slug"`
		Name    string    `json:"name"`
		Status  Status    `json:"status"`
		Reason  string    `json:"reason,omitempty"`
		Store   string    `json:"store"`
		Domains []Domain  `json:"domains"`
		Meta    Meta      `json:"meta,omitempty"`
		Created time.Time `json:"created"`
		Updated time.Time `json:"updated"`
	}{t.ID, t.Slug, t.Name, t.Status, t.Reason, t.Store.String(), append([]Domain{}, t.Domains...), t.Meta, t.Created, t.Updated})
}

// MetaAs returns the tenant's metadata as a T. Fields that T does not have are left out, and those that the metadata
// does not have stay zero.
func MetaAs[T any](t Tenant) (T, error) {
	var v T
	if len(t.Meta) == 0 {
		return v, nil
	}
	if err := json.Unmarshal(t.Meta, &v); err != nil {
		return v, fmt.Errorf("tenement: metadata of tenant %s as %T: %w", t.Slug, v, err)
	}
	return v, nil
}

// Spec describes a tenant to be made.
type Spec struct {
	Slug    string   // required: 1 to 63 of a-z, 0-9 and inner hyphens
	Name    string   // for people; defaults to the slug
	Domains []string // hosts that lead to it, the first of them primary; may be empty
	Store   string   // name of its store; defaults to the slug
	Meta    any      // encoded as a JSON object; may be nil
	// Place is where its store is to be made, where the backend has several places (see [backend.Placer]); empty means
	// that the backend chooses.
	Place string

	// Seed is what [Hooks.OnCreate] is to know: any value that can be encoded as JSON, such as the founder's name and
	// address. It is kept until the tenant is active, so that whoever finishes the creation knows it, and then
	// forgotten. Do not put a password into it that is not hashed.
	Seed any
	// Reserved allows a slug that is reserved.
	Reserved bool
}

// Seed is what [Spec.Seed] was, as JSON; nil when there was none.
type Seed json.RawMessage

// Decode decodes the seed into what v points to. It does nothing when there was none.
func (s Seed) Decode(v any) error {
	if len(s) == 0 {
		return nil
	}
	if err := json.Unmarshal(s, v); err != nil {
		return fmt.Errorf("tenement: seed as %T: %w", v, err)
	}
	return nil
}

// Patch is a change of what an application may edit freely. Fields left nil stay as they are.
type Patch struct {
	Name *string
	Meta any // replaces all of the metadata; [UpdateMeta] changes parts of it
	// IfVersion, unless it is 0, makes the change only while [Tenant.Version] is still that, and otherwise ErrChanged.
	IfVersion int64
}

const (
	maxNameLen = 200      // characters
	maxMetaLen = 64 << 10 // bytes
	maxReason  = 4 << 10  // bytes
	maxDomains = 1000     // per tenant
)

// ValidateSlug returns a [*FieldError] when slug cannot be a tenant's slug: it must be a store name and a DNS label,
// 1 to 63 of a-z, 0-9 and hyphens, neither first nor last a hyphen, and no reserved name.
func ValidateSlug(slug string) error {
	refuse := func(rule string) error { return &FieldError{Field: "slug", Value: slug, Rule: rule} }
	if lower := strings.ToLower(slug); lower != slug {
		if ValidateSlug(lower) == nil {
			return refuse(fmt.Sprintf("upper-case letters are not allowed; use %q", lower))
		}
		return refuse("upper-case letters are not allowed")
	}
	if _, err := backend.ParseStore(slug); err != nil {
		var name *backend.NameError
		errors.As(err, &name)
		return refuse(name.Reason)
	}
	switch {
	case strings.Contains(slug, "_"):
		return refuse("'_' is not allowed: a slug is part of host names; use '-'")
	case strings.HasSuffix(slug, "-"):
		return refuse("it must not end with a hyphen")
	case strings.HasPrefix(slug, "xn--"):
		return refuse("it must not begin with xn--, which marks encoded host names")
	}
	if _, err := uuid.Parse(slug); err == nil {
		return refuse("it must not look like a tenant's ID")
	}
	return nil
}

func validateName(name string) error {
	refuse := func(rule string) error { return &FieldError{Field: "name", Value: name, Rule: rule} }
	switch {
	case !utf8.ValidString(name):
		return refuse("it must be UTF-8")
	case utf8.RuneCountInString(name) > maxNameLen:
		return refuse(fmt.Sprintf("it must have at most %d characters", maxNameLen))
	case strings.ContainsFunc(name, unicode.IsControl):
		return refuse("it must not hold control characters")
	case strings.TrimSpace(name) != name:
		return refuse("it must not begin or end with a space")
	}
	return nil
}

// encodeMeta returns v as a compact JSON object.
func encodeMeta(v any) (Meta, error) {
	refuse := func(rule string) (Meta, error) {
		return nil, &FieldError{Field: "meta", Value: fmt.Sprintf("%.100v", v), Rule: rule}
	}
	if v == nil {
		return Meta("{}"), nil
	}
	text, err := json.Marshal(v)
	switch {
	case err != nil:
		return refuse("it must be encodable as JSON: " + err.Error())
	case bytes.Equal(text, []byte("null")):
		return Meta("{}"), nil
	case len(text) == 0 || text[0] != '{':
		return refuse("it must be a JSON object")
	case len(text) > maxMetaLen:
		return refuse(fmt.Sprintf("it must have at most %d bytes as JSON", maxMetaLen))
	case bytes.Contains(text, []byte(`\u0000`)):
		// Postgres cannot keep it in a jsonb; both backends take the same data.
		return refuse("it must not hold the character U+0000")
	}
	return text, nil
}

// plan is a Spec that was found good.
type plan struct {
	slug, name string
	domains    []string
	store      backend.Store
	meta       Meta
	seed       json.RawMessage
	fill       Filler // of CreateBy; nil for Create
	place      string
	named      bool // the store, by the caller

	// What the tenant is when it is entered into the registry.
	status Status
	reason string
	event  EventKind
}

// tenant is what the registry gets. Its times are the database's.
func (p *plan) tenant(id ID) *Tenant {
	return &Tenant{
		ID: id, Slug: p.slug, Name: p.name, Status: p.status, Reason: p.reason, Store: p.store, Meta: p.meta, Version: 1,
	}
}

func (a *App) plan(s Spec) (plan, error) {
	p := plan{slug: s.Slug, name: s.Name, status: Provisioning, event: EventClaimed}
	check := a.CheckSlug
	if s.Reserved {
		check = ValidateSlug
	}
	if err := check(s.Slug); err != nil {
		return p, err
	}
	if p.name == "" {
		p.name = s.Slug
	}
	if err := validateName(p.name); err != nil {
		return p, err
	}
	storeName := s.Store
	p.named = storeName != ""
	if storeName == "" {
		storeName = s.Slug
	}
	var err error
	if p.store, err = backend.ParseStore(storeName); err != nil {
		var name *backend.NameError
		errors.As(err, &name)
		return p, &FieldError{Field: "store", Value: s.Store, Rule: name.Reason, err: err}
	}
	if isAside(p.store) {
		return p, &FieldError{Field: "store", Value: s.Store, Rule: "names that begin with " + asidePrefix + " are those of stores that were set aside"}
	}
	if len(s.Domains) > maxDomains {
		return p, &FieldError{Field: "domain", Value: s.Slug, Rule: fmt.Sprintf("a tenant has at most %d domains", maxDomains)}
	}
	for _, d := range s.Domains {
		host, err := a.domain(d)
		if err != nil {
			return p, err
		}
		if !slices.Contains(p.domains, host) {
			p.domains = append(p.domains, host)
		}
	}
	if p.meta, err = encodeMeta(s.Meta); err != nil {
		return p, err
	}
	if p.place, err = a.checkPlace(s.Place); err != nil {
		return p, err
	}
	p.seed, err = encodeSeed(s.Seed)
	return p, err
}
