package migrate

import (
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

func testSource(name string, versions ...string) Source {
	files := fstest.MapFS{}
	for _, v := range versions {
		files[v+"_x.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\nSELECT " + v + ";\n")}
	}
	return Source{Name: name, FS: files}
}

// testSets are the sets of a migrator without a backend.
func testSets(t *testing.T, shared, tenant []Source) *Migrator {
	t.Helper()
	d, err := dialectOf(backend.Postgres, time.Second)
	require.NoError(t, err)
	m := &Migrator{dialect: d}
	m.shared, m.tenant, err = newSets(d, shared, tenant, nil)
	require.NoError(t, err)
	return m
}

func has(versions ...int64) []applied {
	list := []applied{}
	for _, v := range versions {
		list = append(list, applied{Version: v})
	}
	return list
}

func TestPlan(t *testing.T) {
	t.Parallel()
	s := testSets(t, nil, []Source{testSource("a", "1", "2", "3"), testSource("b", "1", "5")}).tenant
	for name, c := range map[string]struct {
		have state
		lim  limit
		todo []string
		late bool
	}{
		"nothing is there":     {have: state{}, todo: []string{"a1", "a2", "a3", "b1", "b5"}},
		"all is there":         {have: state{"a": has(1, 2, 3), "b": has(1, 5)}},
		"newer":                {have: state{"a": has(1, 2, 3, 4), "b": has(1, 5)}},
		"a source is new":      {have: state{"a": has(1, 2, 3)}, todo: []string{"b1", "b5"}},
		"the table is empty":   {have: state{"a": has(), "b": has(1, 5)}, todo: []string{"a1", "a2", "a3"}},
		"one is missing":       {have: state{"a": has(1, 3), "b": has(1, 5)}, todo: []string{"a2"}, late: true},
		"one source":           {have: state{}, lim: limit{source: "b"}, todo: []string{"b1", "b5"}},
		"up to a version":      {have: state{}, lim: limit{source: "a", to: 2}, todo: []string{"a1", "a2"}},
		"it is beyond it":      {have: state{"a": has(1, 2, 3)}, lim: limit{source: "a", to: 2}},
		"a version is strange": {have: state{"a": has(1, 2, 3), "b": has(1, 5), "c": has(1)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := s.plan(c.have, c.lim)
			var todo []string
			for _, mig := range p.todo {
				todo = append(todo, mig.source.name+string(rune('0'+mig.version)))
			}
			assert.Equal(t, c.todo, todo)
			assert.Equal(t, c.late, p.late != nil)
			assert.Equal(t, len(c.todo) > 0, p.behind())
			assert.Empty(t, s.plan(p.next, c.lim).todo, "once it is done nothing is left")
			assert.False(t, c.have.without(p.next))
		})
	}
	assert.True(t, s.plan(nil, limit{}).behind(), "what is not known is looked up")
}

func TestLimits(t *testing.T) {
	t.Parallel()
	a, b := testSource("a", "1", "2"), testSource("b", "1")
	both := testSets(t, []Source{a, b}, []Source{b})
	apart := testSets(t, []Source{a}, []Source{b})
	alone := testSets(t, nil, []Source{a})
	for name, c := range map[string]struct {
		m              *Migrator
		scope          Scope
		source         string
		to             int64
		shared, tenant *limit
		fails          bool
	}{
		"everything":                      {m: apart, shared: &limit{}, tenant: &limit{}},
		"one set is empty":                {m: alone, tenant: &limit{}},
		"an empty set, by name":           {m: alone, scope: SharedOnly, shared: &limit{}},
		"shared only":                     {m: apart, scope: SharedOnly, shared: &limit{}},
		"a source of one set":             {m: apart, source: "a", shared: &limit{source: "a"}},
		"a source of the other":           {m: apart, source: "b", tenant: &limit{source: "b"}},
		"a source of both":                {m: both, source: "b", shared: &limit{source: "b"}, tenant: &limit{source: "b"}},
		"a source of both, in one":        {m: both, scope: TenantsOnly, source: "b", tenant: &limit{source: "b"}},
		"a source of none":                {m: apart, source: "c", fails: true},
		"a source of the set left out":    {m: apart, scope: TenantsOnly, source: "a", fails: true},
		"a version of the only source":    {m: alone, to: 2, tenant: &limit{source: "a", to: 2}},
		"a version of one of two sources": {m: apart, to: 1, fails: true},
		"a version within a scope":        {m: apart, scope: SharedOnly, to: 1, shared: &limit{source: "a", to: 1}},
		"a version that is not there":     {m: apart, source: "a", to: 7, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shared, tenant, err := c.m.limits(c.scope, c.source, c.to)
			if c.fails {
				require.ErrorIs(t, err, ErrUnknownSource)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.shared, shared)
			assert.Equal(t, c.tenant, tenant)
		})
	}
}
