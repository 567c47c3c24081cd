package transfer

import (
	"context"

	"github.com/tenement-go/tenement/tenancy"
)

// CloneAfter is [Clone] with something that happens after it has looked at the tenant.
func CloneAfter(ctx context.Context, app *tenancy.App, t tenancy.Tenant, opt CloneOptions, between func()) error {
	c := &cloning{app: app, t: t, opt: opt}
	if err := c.look(ctx); err != nil {
		return err
	}
	between()
	_, err := app.CreateBy(ctx, opt.Spec, c.fill)
	return err
}
