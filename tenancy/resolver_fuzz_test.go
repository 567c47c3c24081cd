package tenancy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// registryModel is what the registry should say.
type registryModel struct {
	tenants map[string]*modelTenant // by slug
}

type modelTenant struct {
	id           ID
	slug         string
	status, back Status // back: what a restore leads to
	hosts        map[string]bool
}

var (
	modelSlugs = []string{"thor", "loki", "odin", "freya"}
	modelHosts = []string{"a.example", "b.example", "c.example", "d.example"}
)

// byHost is the tenant that a host leads to, or nil.
func (m *registryModel) byHost(host string) *modelTenant {
	for _, t := range m.tenants {
		if t.hosts[host] {
			return t
		}
	}
	return nil
}

// chosen is the nth tenant in order of slug, or nil.
func (m *registryModel) chosen(n int) *modelTenant {
	if len(m.tenants) == 0 {
		return nil
	}
	return m.tenants[slices.Sorted(maps.Keys(m.tenants))[n%len(m.tenants)]]
}

// answers are what all lookups should say, by what is looked up.
func (m *registryModel) answers() map[string]string {
	all := map[string]string{}
	for _, host := range modelHosts {
		all["host "+host] = m.byHost(host).String()
	}
	for _, slug := range modelSlugs {
		all["slug "+slug] = m.tenants[slug].String()
	}
	return all
}

func (t *modelTenant) String() string {
	if t == nil {
		return ""
	}
	return fmt.Sprintf("%s %s %s", t.id, t.slug, t.status)
}

// keys are what a tenant is found by.
func (t *modelTenant) keys() (keys []string) {
	if t == nil {
		return nil
	}
	for host := range t.hosts {
		keys = append(keys, "host "+host)
	}
	return append(keys, "slug "+t.slug)
}

// observer is an App, and what it may say: by what is looked up, all that was true since it last asked for changes.
type observer struct {
	*App
	may map[string]map[string]bool
}

func (o *observer) lookup(t *testing.T, key string) string {
	find, name := o.Resolve, key[len("host "):]
	if key[:len("slug")] == "slug" {
		find = o.ResolveSlug
	}
	got, err := find(t.Context(), name)
	if errors.Is(err, ErrNotFound) {
		return ""
	}
	require.NoError(t, err)
	return fmt.Sprintf("%s %s %s", got.ID, got.Slug, got.Status)
}

// learn adds what is true now; what is in settled is all that may be said from now on.
func (o *observer) learn(now map[string]string, settled ...string) {
	for _, key := range settled {
		o.may[key] = map[string]bool{}
	}
	for key, answer := range now {
		if o.may[key] == nil {
			o.may[key] = map[string]bool{}
		}
		o.may[key][answer] = true
	}
}

func (o *observer) check(t *testing.T, step string) {
	for key, may := range o.may {
		require.Contains(t, may, o.lookup(t, key), "%s: %s", step, key)
	}
}

// transition is one step of the machine: what is done, and by the model, what comes of it.
type transition struct {
	name string
	do   transitionFunc
}

type transitionFunc func(t *testing.T, a *App, m *registryModel, who *modelTenant, slug, host string) (want, got error)

func serving(do func(a *App, ctx context.Context, id ID, reason string) (Tenant, error), to Status) transitionFunc {
	return func(t *testing.T, a *App, _ *registryModel, who *modelTenant, _, _ string) (want, got error) {
		_, err := do(a, t.Context(), who.id, "")
		if who.status == Deleted {
			return ErrStatus, err
		}
		who.status = to
		return nil, err
	}
}

var transitions = []transition{
	{"create", func(t *testing.T, a *App, m *registryModel, _ *modelTenant, slug, host string) (want, got error) {
		tenant, err := a.Create(t.Context(), Spec{Slug: slug, Domains: []string{host}})
		switch {
		case m.tenants[slug] != nil:
			return ErrSlugTaken, err
		case m.byHost(host) != nil:
			return ErrDomainTaken, err
		}
		m.tenants[slug] = &modelTenant{id: tenant.ID, slug: slug, status: Active, hosts: map[string]bool{host: true}}
		return nil, err
	}},
	{"rename", func(t *testing.T, a *App, m *registryModel, who *modelTenant, slug, _ string) (want, got error) {
		_, err := a.Rename(t.Context(), who.id, slug)
		switch {
		case who.status == Deleted:
			return ErrStatus, err
		case m.tenants[slug] != nil && m.tenants[slug] != who:
			return ErrSlugTaken, err
		}
		delete(m.tenants, who.slug)
		who.slug, m.tenants[slug] = slug, who
		return nil, err
	}},
	{"suspend", serving((*App).Suspend, Suspended)},
	{"set read-only", serving((*App).SetReadOnly, ReadOnly)},
	{"activate", serving(func(a *App, ctx context.Context, id ID, _ string) (Tenant, error) { return a.Activate(ctx, id) }, Active)},
	{"delete", func(t *testing.T, a *App, _ *registryModel, who *modelTenant, _, _ string) (want, got error) {
		if who.status != Deleted {
			who.back, who.status = who.status, Deleted
		}
		_, err := a.Delete(t.Context(), who.id)
		return nil, err
	}},
	{"restore", func(t *testing.T, a *App, _ *registryModel, who *modelTenant, _, _ string) (want, got error) {
		if who.status == Deleted {
			who.status = who.back
		}
		_, err := a.Restore(t.Context(), who.id)
		return nil, err
	}},
	{"purge", func(t *testing.T, a *App, m *registryModel, who *modelTenant, _, _ string) (want, got error) {
		err := a.Purge(t.Context(), who.id)
		if who.status != Deleted {
			return ErrStatus, err
		}
		delete(m.tenants, who.slug)
		return nil, err
	}},
	{"add domain", func(t *testing.T, a *App, m *registryModel, who *modelTenant, _, host string) (want, got error) {
		_, err := a.AddDomain(t.Context(), who.id, host)
		if has := m.byHost(host); has != nil && has != who {
			return ErrDomainTaken, err
		}
		who.hosts[host] = true
		return nil, err
	}},
	{"remove domain", func(t *testing.T, a *App, _ *registryModel, who *modelTenant, _, host string) (want, got error) {
		_, err := a.RemoveDomain(t.Context(), who.id, host)
		if !who.hosts[host] {
			return ErrUnknownHost, err
		}
		delete(who.hosts, host)
		return nil, err
	}},
	{"move domain", func(t *testing.T, a *App, m *registryModel, who *modelTenant, _, host string) (want, got error) {
		_, err := a.MoveDomain(t.Context(), host, who.id)
		has := m.byHost(host)
		if has == nil {
			return ErrUnknownHost, err
		}
		delete(has.hosts, host)
		who.hosts[host] = true
		return nil, err
	}},
}

// The resolver as a state machine: two processes change the tenants of one registry in any order, and look all names up
// after each step. Who changed something sees that at once; the other goes on saying what was true when it last asked for
// changes, or since, and nothing else; who has asked says what is true. S45
func FuzzResolver(f *testing.F) {
	for _, steps := range []string{
		"\x00\x00\x0b\x80\x01\x10\x8b\x80", "\x00\x00\x05\x00\x06\x00\x07\x00\x05\x00\x07\x00\x00\x04", "\x00\x00\x00\x05\x8b\x00\x0a\x04\x8a\x08\x09\x00\x8b\x00",
		"\x00\x00\x8b\x00\x81\x02\x01\x01\x80\x05\x82\x00\x83\x00\x84\x01\x0b\x00", "\x00\x00\x80\x00\x80\x05\x01\x01\x08\x08\x88\x09\x89\x05\x85\x00\x87\x00\x80\x00",
	} {
		f.Add([]byte(steps))
	}
	f.Fuzz(func(t *testing.T, steps []byte) {
		p := newPlace(t, "sqlite:"+t.TempDir()+"?synchronous=off")
		m := &registryModel{tenants: map[string]*modelTenant{}}
		observers := []*observer{{App: open(t, p.be)}, {App: open(t, p.backend(t))}}
		for _, o := range observers {
			o.may = map[string]map[string]bool{}
			o.learn(m.answers())
		}
		for steps = steps[:min(len(steps), 60)]; len(steps) >= 2; steps = steps[2:] {
			what, args := steps[0], int(steps[1])
			actor, quiet, kind := observers[what>>7], what&0x40 != 0, int(what&0x3f)%(len(transitions)+1)
			if kind == len(transitions) {
				require.NoError(t, actor.Refresh(t.Context()))
				actor.may = map[string]map[string]bool{}
				actor.learn(m.answers())
				actor.check(t, "refresh")
				continue
			}
			do, who, slug, host := transitions[kind], m.chosen(args>>4), modelSlugs[args%4], modelHosts[args>>2%4]
			if who == nil && do.name != "create" {
				continue
			}
			step := fmt.Sprintf("%s of %v, %s, %s", do.name, who, slug, host)
			before, keys := m.answers(), who.keys()
			want, err := do.do(t, actor.App, m, who, slug, host)
			if want == nil {
				require.NoError(t, err, step)
			} else {
				require.ErrorIs(t, err, want, step)
			}
			now := m.answers()
			if do.name == "create" {
				who, keys = m.tenants[slug], nil
			}
			for _, o := range observers {
				if o == actor && !maps.Equal(before, now) {
					o.learn(now, append(keys, who.keys()...)...)
				} else {
					o.learn(now)
				}
				if !quiet {
					o.check(t, step)
				}
			}
		}
		for _, o := range observers {
			require.NoError(t, o.Refresh(t.Context()))
			o.may = map[string]map[string]bool{}
			o.learn(m.answers())
			o.check(t, "at the end")
		}
		listed := map[string]string{}
		for tenant, err := range observers[0].Tenants(t.Context(), Filter{}) {
			require.NoError(t, err)
			listed[tenant.Slug] = fmt.Sprintf("%s %s %s", tenant.ID, tenant.Slug, tenant.Status)
		}
		for slug, tenant := range m.tenants {
			require.Equal(t, tenant.String(), listed[slug])
		}
		require.Len(t, listed, len(m.tenants))
		requireHealthy(t, observers[1].App)
	})
}
