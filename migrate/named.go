package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

// What is under the names that a run is given: a run, a dry run, and who refuses a run beforehand all go by it.

// named returns the rows of the ledger that are about the stores of those names, and what stands for a store of which there is
// none. A name that nothing has fails, and so does a store that the ledger does not have and that is somebody else's to enter:
// the caller's if filled.
func (m *Migrator) named(ctx context.Context, stores []backend.Store, filled bool) (found []entry, failed []*StoreError, err error) {
	exists, err := m.openLedger(ctx)
	if err != nil {
		return nil, nil, err
	}
	stores = slices.Clone(stores)
	slices.SortFunc(stores, compareStores)
	for chunk := range slices.Chunk(slices.Compact(stores), pageSize) {
		known := make(map[backend.Store]entry, len(chunk))
		if exists {
			page, err := m.ledger.named(ctx, chunk)
			if err != nil {
				return nil, nil, err
			}
			for _, e := range page {
				known[e.store] = e
			}
		}
		owners, err := m.owners(ctx, chunk)
		if err != nil {
			return nil, nil, err
		}
		for _, s := range chunk {
			e, entered := known[s]
			owner, there := owners[s]
			switch {
			case entered && there && e.owner == owner:
				found = append(found, e)
			case there: // a row, if there is one, is about an earlier store of the name
				e, err := m.unentered(ctx, s, owner, filled)
				switch {
				case err != nil:
					return nil, nil, err
				case e == nil:
					failed = append(failed, &StoreError{Store: s, Err: fmt.Errorf("%w: it is being filled, or is no tenant's yet", ErrUnentered)})
				default:
					found = append(found, *e)
				}
			case entered:
				e.gone = true
				found = append(found, e)
			default:
				failed = append(failed, &StoreError{Store: s, Err: &backend.Error{Op: "stat", Store: s, Err: backend.ErrStoreMissing}})
			}
		}
	}
	return found, failed, nil
}

// foretold is named for those who say what a run will do: a store of which the ledger does not know what it has is asked, as
// the run will ask it.
func (m *Migrator) foretold(ctx context.Context, stores []backend.Store) (found []entry, failed []*StoreError, err error) {
	list, failed, err := m.named(ctx, stores, false)
	if err != nil {
		return nil, nil, err
	}
	free, err := m.slot(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer free()
	for _, e := range list {
		err := m.ask(ctx, &e)
		switch {
		case err == nil:
			found = append(found, e)
		case context.Cause(ctx) != nil:
			return nil, nil, context.Cause(ctx)
		default:
			failure := storeFailure(err)
			failure.Store = e.store
			failed = append(failed, failure)
		}
	}
	return found, failed, nil
}

// ask has an entry say what its store has, when it does not.
func (m *Migrator) ask(ctx context.Context, e *entry) error {
	if e.state != nil || e.gone {
		return nil
	}
	db := m.be.Maintenance(e.route())
	defer func() { _ = db.Close() }()
	have, err := m.readState(ctx, m.tenant, db, nil)
	if errors.Is(err, backend.ErrStoreMissing) {
		e.gone = true
		return nil
	}
	if err == nil {
		e.state, e.fingerprint = have, have.fingerprint()
	}
	return err
}

// unentered stands for a store of which the ledger has no row, or an earlier one's: it is made, or made its own, when the store
// is visited. It is nil for a store that is left alone.
func (m *Migrator) unentered(ctx context.Context, s backend.Store, owner string, filled bool) (*entry, error) {
	if !filled {
		alone, err := m.leftAlone(ctx, backend.StoreInfo{Store: s, Owner: owner, Bytes: -1})
		if err != nil || alone {
			return nil, err
		}
	}
	return &entry{store: s, owner: owner}, nil
}

// leftAlone reports whether a store that the ledger does not have is somebody else's to enter.
func (m *Migrator) leftAlone(ctx context.Context, info backend.StoreInfo) (bool, error) {
	if m.cfg.Ahead == nil {
		return false, nil
	}
	return m.cfg.Ahead(ctx, info)
}

func compareStores(a, b backend.Store) int { return strings.Compare(a.String(), b.String()) }
