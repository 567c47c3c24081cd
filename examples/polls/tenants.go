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
	"time"

	"github.com/tenement-go/tenement/examples/polls/polls"
	"github.com/tenement-go/tenement/examples/polls/site"
	"github.com/tenement-go/tenement/tenancy"
)

// founding is what a new tenant's store is to begin with. It is the Seed of the tenant's Spec: the registry keeps it until
// the hook has run, so that a tenant is never served without its superuser, whoever dies on the way. That is also why the
// password in it is hashed.
type founding struct {
	Superuser    string `json:"superuser"`
	PasswordHash string `json:"password_hash"`
}

// fill is the OnCreate hook. It runs inside the new tenant; tenants made on the command line start out empty.
func fill(store *polls.Store) func(context.Context, tenancy.Tenant, tenancy.Seed) error {
	return func(ctx context.Context, t tenancy.Tenant, seed tenancy.Seed) error {
		if seed == nil {
			return nil
		}
		var f founding
		if err := seed.Decode(&f); err != nil {
			return err
		}
		return polls.SeedDemo(ctx, store, polls.Demo{Superuser: f.Superuser, PasswordHash: f.PasswordHash, Polls: polls.DemoPolls(t.Slug)})
	}
}

// demo fills an empty registry with two tenants. The password is told before anything is made: if this process dies on
// the way, the next one finishes what this one began, with that password.
func demo(ctx context.Context, p *program, stdout io.Writer) error {
	for _, err := range p.app.Tenants(ctx, tenancy.Filter{}) {
		return err // There is a tenant, or no telling.
	}
	given := os.Getenv("POLLS_ADMIN_PASSWORD")
	password := cmp.Or(given, rand.Text())
	hash, err := p.store.HashPassword(ctx, "admin", password)
	var invalid polls.Invalid
	switch {
	case errors.As(err, &invalid):
		return fmt.Errorf("POLLS_ADMIN_PASSWORD: %s", invalid[0].Message)
	case err != nil:
		return err
	case given == "":
		fmt.Fprintf(stdout, "making the tenants thor and potter; the user admin has the password %s in both (shown only now)\n", password)
	default:
		fmt.Fprintln(stdout, "making the tenants thor and potter; the user admin has the password of POLLS_ADMIN_PASSWORD in both")
	}
	for _, d := range []struct{ slug, name, plan string }{{"thor", "Thor", "team"}, {"potter", "Potter", "free"}} {
		_, err := p.app.Create(ctx, tenancy.Spec{
			Slug: d.slug, Name: d.name, Domains: []string{d.slug + "." + base},
			Meta: metadata{Plan: d.plan}, Seed: founding{"admin", hash},
		})
		switch {
		case errors.Is(err, tenancy.ErrConflict):
			fmt.Fprintf(stdout, "another process was first to make %s: it has told the password that counts\n", d.slug)
		case err != nil:
			return err
		}
	}
	return nil
}

// inService are the tenants that visitors find.
var inService = tenancy.Filter{Status: []tenancy.Status{tenancy.Active, tenancy.ReadOnly}}

// list is the public site's view of the tenants.
func list(ctx context.Context, app *tenancy.App, listen net.Addr) ([]site.Tenant, error) {
	const shown = 100
	var tenants []site.Tenant
	for t, err := range app.Tenants(ctx, inService) {
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
func signUp(ctx context.Context, p *program, listen net.Addr, s site.Signup) (string, error) {
	hash, err := p.store.HashPassword(ctx, s.Username, s.Password)
	if err != nil {
		return "", err
	}
	// Whoever leaves the page before it answers has asked for a tenant all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_, err = p.app.Create(ctx, tenancy.Spec{
		Slug: s.Slug, Name: s.Name, Domains: []string{s.Slug + "." + base},
		Meta: metadata{Plan: s.Plan}, Seed: founding{s.Username, hash},
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
