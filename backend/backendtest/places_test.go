package backendtest

import (
	"context"
	"database/sql"
	"iter"
	"log/slog"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/backend/placed"
)

// What a backend with several places could do wrong.
const (
	placeIgnored   fault = "stores are made at home, whatever the context says"
	placeForgotten fault = "every store is believed to be at home"
	settlesNothing fault = "what was settled is not held to"
	namesPerPlace  fault = "a name is taken in its own place only"
	renamesOneSide fault = "the directory does not hear of a rename"
	listsHome      fault = "only home's stores are listed"
	listsUnordered fault = "stores are listed place by place"
	viewListsAll   fault = "a place lists all stores"
	scriptsAtHome  fault = "all scripts run at home"
	scriptsMixedUp fault = "errors of scripts come place by place"
	sharedIsHomes  fault = "the shared store of every place is home's"
)

// modelPlaces is the backend over several places, of two models, right but for its faults.
type modelPlaces struct {
	*placed.Backend
	faults map[fault]bool
	at     map[string]*model
}

// Source has a model be a place.
func (m *model) Source() driver.Source { return m }

func placesConfig(faults ...fault) Config {
	return Config{
		SharedReadOnly: true,
		StoresApart:    true,
		New: func(t testing.TB) func(int) backend.Backend {
			var models []func(int) backend.Backend
			for range 2 {
				models = append(models, modelConfig().New(t))
			}
			return func(maxConns int) backend.Backend {
				b := &modelPlaces{faults: map[fault]bool{}, at: map[string]*model{}}
				for _, f := range faults {
					b.faults[f] = true
				}
				cfg := placed.Config{Logger: slog.New(slog.DiscardHandler)}
				for i, name := range []string{"home", "there"} {
					b.at[name] = models[i](maxConns).(*model)
					cfg.Places = append(cfg.Places, placed.Place{Name: name, Backend: b.at[name]})
				}
				be, err := placed.Open(t.Context(), cfg)
				require.NoError(t, err)
				t.Cleanup(func() { _ = be.Close() })
				b.Backend = be
				return b
			}
		},
	}
}

func (b *modelPlaces) Create(ctx context.Context, rt backend.Route) error {
	if at := b.at[backend.PlaceFrom(ctx)]; at != nil && b.faults[namesPerPlace] {
		if _, err := b.Stat(ctx, rt.Store); err == nil {
			return at.Create(ctx, rt)
		}
	}
	if b.faults[placeIgnored] {
		ctx = backend.WithPlace(ctx, "home")
	}
	return b.Backend.Create(ctx, rt)
}

func (b *modelPlaces) PlaceOf(ctx context.Context, s backend.Store) (string, error) {
	if b.faults[placeForgotten] {
		return "home", nil
	}
	return b.Backend.PlaceOf(ctx, s)
}

func (b *modelPlaces) Settle(ctx context.Context, s backend.Store) (string, error) {
	if place := backend.PlaceFrom(ctx); place != "" && b.faults[settlesNothing] {
		return place, nil
	}
	return b.Backend.Settle(ctx, s)
}

func (b *modelPlaces) Rename(ctx context.Context, rt backend.Route, to backend.Store) error {
	if b.faults[renamesOneSide] {
		at, err := b.Backend.PlaceOf(ctx, rt.Store)
		if err != nil {
			return err
		}
		return b.at[at].Rename(ctx, rt, to)
	}
	return b.Backend.Rename(ctx, rt, to)
}

func (b *modelPlaces) Stores(ctx context.Context) iter.Seq2[backend.StoreInfo, error] {
	switch {
	case b.faults[listsHome]:
		return b.Backend.In("home").Stores(ctx)
	case b.faults[listsUnordered]:
		return func(yield func(backend.StoreInfo, error) bool) {
			for _, place := range b.Places() {
				for info, err := range b.Backend.In(place).Stores(ctx) {
					if !yield(info, err) {
						return
					}
				}
			}
		}
	}
	return b.Backend.Stores(ctx)
}

func (b *modelPlaces) RunScripts(ctx context.Context, scripts []backend.Script, opt backend.ScriptOptions) []error {
	if b.faults[scriptsAtHome] {
		return b.at["home"].RunScripts(ctx, scripts, opt)
	}
	errs := b.Backend.RunScripts(ctx, scripts, opt)
	if b.faults[scriptsMixedUp] {
		slices.Reverse(errs)
	}
	return errs
}

func (b *modelPlaces) In(place string) backend.Backend {
	in := b.Backend.In(place)
	if in == nil {
		return nil
	}
	return &modelView{in, b}
}

// modelView is the backend as it is in one place.
type modelView struct {
	backend.Backend
	b *modelPlaces
}

func (v *modelView) Shared() *sql.DB {
	if v.b.faults[sharedIsHomes] {
		return v.b.Shared()
	}
	return v.Backend.Shared()
}

func (v *modelView) Stores(ctx context.Context) iter.Seq2[backend.StoreInfo, error] {
	if v.b.faults[viewListsAll] {
		return v.b.Backend.Stores(ctx)
	}
	return v.Backend.Stores(ctx)
}
