package transfer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

// RelocateOptions are the terms of [Relocate].
type RelocateOptions struct {
	// TempDir is where the file is put that the tenant goes through. Defaults to that of [os.TempDir].
	TempDir string
	OnTable func(Progress) // is told of each table that is loaded; may be nil
}

// Relocate moves a tenant's store to another place of its backend (see [backend.Placer]). While it is copied nobody reaches the
// tenant's tables, which fails with backend.ErrStoreMissing (see [tenancy.App.ReplaceFrozen]): so what was acknowledged is in the
// copy. The old store is kept aside where it was until it is purged ([tenancy.App.PurgeAside]). A process that has not heard of it finds the store by itself. Tenant files stay as they are.
//
// It returns a [*tenancy.FieldError] for a place that there is not or that the tenant is in, an error for one that does not answer
// (backend.ErrUnreachable where it never was opened), and what [Restore] does; nothing has changed then. Killed at any step, it is undone, or finished, by whoever runs an App.
func Relocate(ctx context.Context, app *tenancy.App, id tenancy.ID, place string, opt RelocateOptions) (aside tenancy.AsideStore, err error) {
	t, err := app.ByID(ctx, id)
	if err != nil {
		return aside, err
	}
	if err := mayRelocate(ctx, app, t, place); err != nil {
		return aside, err
	}
	dir, err := os.MkdirTemp(opt.TempDir, "tenement-relocate-")
	if err != nil {
		return aside, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return app.ReplaceFrozen(ctx, id, "it is being moved to "+place, func(ctx context.Context, t tenancy.Tenant, rt backend.Route) (err error) {
		name := filepath.Join(dir, "tenant.db")
		if _, err := export(ctx, app, t, name, ExportOptions{NoFiles: true}, asItIs); err != nil {
			return err
		}
		f, err := Open(ctx, name)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		return f.fill(backend.WithPlace(ctx, place), app, rt, ImportOptions{NoFiles: true, OnTable: opt.OnTable})
	})
}

func mayRelocate(ctx context.Context, app *tenancy.App, t tenancy.Tenant, place string) error {
	now, err := app.PlaceOf(ctx, t)
	if err != nil {
		return err
	}
	refuse := func(rule string) error { return &tenancy.FieldError{Field: "place", Value: place, Rule: rule} }
	switch places := app.Places(); {
	case len(places) < 2:
		return refuse("the stores of this backend are all in one place")
	case !slices.Contains(places, place):
		return refuse(fmt.Sprintf("the places are %v", places))
	case place == now:
		return refuse("the tenant is there")
	}
	// Better now than once nobody reaches the tenant's tables.
	if err := app.Backend().(backend.Placer).In(place).Shared().PingContext(tenancy.Leave(ctx)); err != nil {
		return fmt.Errorf("tenement: move to %s: %w", place, err)
	}
	return nil
}
