package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/tenement-go/tenement/examples/polls/polls"
	"github.com/tenement-go/tenement/examples/polls/site"
	"github.com/tenement-go/tenement/tenancy"
)

// founding is what a new tenant's store is to be filled with. It travels in the context from whoever calls Create to the
// hook, so that a tenant is never served without its superuser.
type founding struct {
	superuser, password string
	polls               []polls.DemoPoll
}

type foundingKey struct{}

// fill is the OnCreate hook. It runs inside the new tenant; tenants made on the command line start out empty.
func fill(store *polls.Store) func(context.Context, tenancy.Tenant, tenancy.Seed) error {
	return func(ctx context.Context, _ tenancy.Tenant, _ tenancy.Seed) error {
		f, ok := ctx.Value(foundingKey{}).(founding)
		if !ok {
			return nil
		}
		return polls.SeedDemo(ctx, store, polls.Demo{Superuser: f.superuser, Password: f.password, Polls: f.polls})
	}
}

// demo fills an empty registry with two tenants. One that was interrupted on the way is finished.
func demo(ctx context.Context, app *tenancy.App, stdout io.Writer) error {
	for t, err := range app.Tenants(ctx, tenancy.Filter{}) {
		if err != nil {
			return err
		}
		if t.Status != tenancy.Provisioning && t.Status != tenancy.Failed {
			return nil
		}
	}
	given := os.Getenv("POLLS_ADMIN_PASSWORD")
	password := cmp.Or(given, rand.Text())
	if wrong := polls.CheckPassword("admin", password); wrong != "" {
		return fmt.Errorf("POLLS_ADMIN_PASSWORD: %s", wrong)
	}
	for _, d := range []struct{ slug, name string }{{"thor", "Thor"}, {"potter", "Potter"}} {
		ctx := context.WithValue(ctx, foundingKey{}, founding{"admin", password, polls.DemoPolls(d.slug)})
		_, err := app.Create(ctx, tenancy.Spec{Slug: d.slug, Name: d.name, Domains: []string{d.slug + "." + base}})
		// Another process that was started at the same moment may have been first.
		if err != nil && !errors.Is(err, tenancy.ErrConflict) {
			return err
		}
	}
	if given == "" {
		fmt.Fprintf(stdout, "made the tenants thor and potter; the user admin has the password %s in both (shown only now)\n", password)
	} else {
		fmt.Fprintln(stdout, "made the tenants thor and potter; the user admin has the password of POLLS_ADMIN_PASSWORD in both")
	}
	return nil
}

// list is the public site's view of the tenants.
func list(ctx context.Context, app *tenancy.App, listen net.Addr) ([]site.Tenant, error) {
	const shown = 100
	var tenants []site.Tenant
	for t, err := range app.Tenants(ctx, tenancy.Filter{Status: []tenancy.Status{tenancy.Active}}) {
		if err != nil {
			return nil, err
		}
		tenants = append(tenants, site.Tenant{Slug: t.Slug, Name: t.Name, URL: address(t.Slug, listen) + "/polls/"})
		if len(tenants) == shown {
			break
		}
	}
	return tenants, nil
}

// signUp makes the tenant that somebody asked for on the public site, and says where it is.
func signUp(ctx context.Context, app *tenancy.App, listen net.Addr, s site.Signup) (string, error) {
	ctx = context.WithValue(ctx, foundingKey{}, founding{s.Username, s.Password, polls.DemoPolls(s.Slug)})
	_, err := app.Create(ctx, tenancy.Spec{
		Slug: s.Slug, Name: s.Name, Domains: []string{s.Slug + "." + base},
		Meta: map[string]string{"plan": s.Plan},
	})
	var (
		conflict *tenancy.ConflictError
		field    *tenancy.FieldError
	)
	switch {
	case errors.As(err, &conflict):
		return "", polls.Invalid{{Field: "slug", Message: "This name is taken."}}
	case errors.As(err, &field):
		return "", polls.Invalid{{Field: "slug", Message: "This name cannot be used: " + field.Rule + "."}}
	case err != nil:
		return "", err
	}
	return address(s.Slug, listen) + "/admin/", nil
}
