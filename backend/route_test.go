package backend_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tenement-go/tenement/backend"
)

type tenant struct{ name, id string }

func (t *tenant) Route() backend.Route {
	return backend.Route{Store: backend.MustParseStore(t.name), Owner: t.id}
}

func TestRouteInContext(t *testing.T) {
	t.Parallel()
	a := backend.Route{Store: backend.MustParseStore("a"), Owner: "1"}
	b := backend.Route{Store: backend.MustParseStore("b")}
	type other struct{}
	none := context.WithValue(t.Context(), other{}, "x")
	inA := backend.WithRoute(none, a)
	for name, tt := range map[string]struct {
		ctx  context.Context
		want backend.Route
	}{
		"none":                   {none, backend.Route{}},
		"route":                  {inA, a},
		"below another value":    {context.WithValue(inA, other{}, "y"), a},
		"replaced":               {backend.WithRoute(inA, b), b},
		"by store alone":         {backend.WithStore(inA, b.Store), b},
		"taken away":             {backend.WithoutRoute(inA), backend.Route{}},
		"taken away and back":    {backend.WithRoute(backend.WithoutRoute(inA), b), b},
		"zero":                   {backend.WithRoute(inA, backend.Route{}), backend.Route{}},
		"an owner alone":         {backend.WithRoute(inA, backend.Route{Owner: "1"}), backend.Route{}},
		"router":                 {backend.WithRouter(none, &tenant{"a", "1"}), a},
		"router over a route":    {backend.WithRouter(backend.WithRoute(none, b), &tenant{"a", "1"}), a},
		"route over a router":    {backend.WithRoute(backend.WithRouter(none, &tenant{"a", "1"}), b), b},
		"router taken away":      {backend.WithoutRoute(backend.WithRouter(none, &tenant{"a", "1"})), backend.Route{}},
		"nil router":             {backend.WithRouter(inA, nil), backend.Route{}},
		"something else there":   {context.WithValue(inA, backend.RouteKey{}, "a"), backend.Route{}},
		"survives WithoutCancel": {context.WithoutCancel(inA), a},
	} {
		got, ok := backend.RouteFrom(tt.ctx)
		assert.Equal(t, tt.want, got, name)
		assert.Equal(t, !tt.want.IsZero(), ok, name)
	}
}

func TestRouteFromDoesNotAllocate(t *testing.T) {
	ctx := backend.WithRoute(t.Context(), backend.Route{Store: backend.MustParseStore("a"), Owner: "1"})
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = backend.RouteFrom(ctx) }))
}
