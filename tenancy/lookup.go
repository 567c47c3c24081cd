package tenancy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

// read asks the registry itself, not the cache.
func (a *App) read(ctx context.Context, query, key string) (Tenant, error) {
	for attempt := 0; ; attempt++ {
		gen := a.gen.Load()
		t, err := one(Leave(ctx), a.reg.db, query, key)
		if err != nil {
			return Tenant{}, err
		}
		latest := a.lives.learn(t)
		changed := a.gen.Load() != gen
		if !changed && latest != t && (latest == nil || latest.after(t)) {
			// What was read is older than what is known, and nothing was learned meanwhile: the registry went back in
			// time. The next look at its changes tells.
			if err := a.Refresh(ctx); err != nil {
				return Tenant{}, err
			}
			changed = true
		}
		if changed && attempt < 3 {
			continue
		}
		if latest == nil {
			return Tenant{}, ErrNotFound
		}
		return *latest, nil
	}
}

// BySlug reads the tenant of a slug from the registry. It returns ErrNotFound when there is none. A slug is for people, who
// type it: it may be another tenant's by the time that something is done with it, so what changes a tenant takes its
// ID. For requests there is [App.ResolveSlug], which answers from the cache.
func (a *App) BySlug(ctx context.Context, slug string) (Tenant, error) {
	t, err := a.read(ctx, selectBySlug, slug)
	return t, opError("read", slug, err)
}

// ByID reads the tenant of an ID from the registry. It returns ErrNotFound when there is none. [App.ResolveID] answers
// from the cache.
func (a *App) ByID(ctx context.Context, id ID) (Tenant, error) {
	t, err := a.read(ctx, selectByID, string(id))
	return t, opError("read", string(id), err)
}

// ByDomain reads the tenant of a host from the registry. It returns ErrUnknownHost when there is none and
// ErrMalformedHost when there cannot be. [App.Resolve] answers from the cache.
func (a *App) ByDomain(ctx context.Context, host string) (Tenant, error) {
	name, err := NormalizeHost(host)
	if err != nil {
		return Tenant{}, err
	}
	if a.cfg.IgnoreWWW {
		name = stripWWW(name)
	}
	t, err := a.read(ctx, selectByHost, name)
	if errors.Is(err, ErrNotFound) {
		err = ErrUnknownHost
	}
	return t, opError("read", name, err)
}

// pageSize is how many tenants are read at a time.
const pageSize = 200

// Tenants lists tenants in the order of their creation, reading them as they are asked for. It ends with the first
// error.
func (a *App) Tenants(ctx context.Context, f Filter) iter.Seq2[Tenant, error] {
	return func(yield func(Tenant, error) bool) {
		if err := f.check(); err != nil {
			yield(Tenant{}, err)
			return
		}
		for after := ID(""); ; {
			gen := a.gen.Load()
			tenants, err := page(Leave(ctx), a.reg.db, a.be.Dialect(), f, after, pageSize)
			if err != nil {
				yield(Tenant{}, fmt.Errorf("tenement: list tenants: %w", err))
				return
			}
			for _, t := range tenants {
				after = t.ID
				if a.gen.Load() == gen {
					a.lives.learn(t)
				}
				if !yield(*t, nil) {
					return
				}
			}
			if len(tenants) < pageSize {
				return
			}
		}
	}
}

// Filter chooses tenants. The zero Filter chooses all.
type Filter struct {
	Status     []Status // any of these; empty means any
	SlugPrefix string
	Store      string // the tenant of this store
	// Meta chooses the tenants whose metadata has all of these members, at its top level, with these values: strings,
	// booleans and numbers.
	Meta map[string]any
}

func (f Filter) check() error {
	for _, s := range f.Status {
		if !s.valid() {
			return &FieldError{Field: "status", Value: string(s), Rule: "it must be provisioning, active, read-only, suspended, deleted or failed"}
		}
	}
	for key, v := range f.Meta {
		switch v.(type) {
		case string, bool, int, int32, int64, float64:
		default:
			return &FieldError{Field: "meta", Value: key, Rule: "tenants are found by strings, booleans and numbers"}
		}
	}
	return nil
}

// page returns up to limit tenants with an ID after the given one, in order of ID, which is that of creation.
func page(ctx context.Context, q querier, d backend.Dialect, f Filter, after ID, limit int) ([]*Tenant, error) {
	where := []string{"id > $1"}
	args := []any{string(after)}
	if len(f.Status) > 0 {
		where = append(where, "status IN ("+placeholders(len(args)+1, len(f.Status))+")")
		for _, s := range f.Status {
			args = append(args, string(s))
		}
	}
	if f.SlugPrefix != "" {
		// Slugs are ASCII below '~': a range asks the index, and needs no escaping as LIKE does.
		where = append(where, fmt.Sprintf("slug >= $%d AND slug < $%d", len(args)+1, len(args)+2))
		args = append(args, f.SlugPrefix, f.SlugPrefix+"~")
	}
	if f.Store != "" {
		where = append(where, fmt.Sprintf("store = $%d", len(args)+1))
		args = append(args, f.Store)
	}
	for _, key := range slices.Sorted(maps.Keys(f.Meta)) {
		condition, more, err := metaIs(d, key, f.Meta[key], len(args)+1)
		if err != nil {
			return nil, err
		}
		where = append(where, condition)
		args = append(args, more...)
	}
	rows, err := q.QueryContext(ctx, `SELECT `+tenantColumns+` FROM (SELECT * FROM tenement_tenants WHERE `+
		strings.Join(where, " AND ")+fmt.Sprintf(` ORDER BY id LIMIT %d`, limit)+
		`) t LEFT JOIN tenement_domains d ON d.tenant_id = t.id ORDER BY t.id, d.host`, args...)
	if err != nil {
		return nil, err
	}
	tenants := make([]*Tenant, 0, limit)
	for t, err := range scanTenants(rows) {
		if err != nil {
			return nil, err
		}
		tenants = append(tenants, t)
	}
	return tenants, nil
}

// metaIs is the condition that a member of the metadata has that value. Its parameters are numbered from first on.
func metaIs(d backend.Dialect, key string, value any, first int) (condition string, args []any, err error) {
	if d == backend.Postgres {
		object, err := json.Marshal(map[string]any{key: value})
		return fmt.Sprintf("meta @> CAST($%d AS JSONB)", first), []any{string(object)}, err
	}
	// json_each takes the key as it is; a path would have to be quoted. A boolean is a number to json_each's value.
	condition = fmt.Sprintf("EXISTS (SELECT 1 FROM json_each(meta) WHERE key = $%d AND value = $%d AND type IN (", first, first+1)
	switch v := value.(type) {
	case string:
		condition += "'text'"
	case bool:
		condition, value = condition+"'true', 'false'", map[bool]int{false: 0, true: 1}[v]
	default:
		condition += "'integer', 'real'"
	}
	return condition + "))", []any{key, value}, nil
}
