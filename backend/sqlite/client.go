package sqlite

import (
	"context"
	"strconv"

	"github.com/tenement-go/tenement/backend"
)

var _ backend.ClientCommander = (*Backend)(nil)

// ClientCommand implements [backend.ClientCommander] with sqlite3. The client knows nothing of this package: a store
// that is dropped while it is open there takes along what is written to it, and nothing refuses a further ATTACH.
func (b *Backend) ClientCommand(ctx context.Context, rt backend.Route) (backend.ClientCommand, error) {
	info, err := b.Stat(ctx, rt.Store)
	if err == nil && rt.Owner != "" && info.Owner != rt.Owner {
		err = &backend.Error{Op: "client", Store: rt.Store, Err: backend.ErrStoreMissing}
	}
	if err != nil {
		return backend.ClientCommand{}, err
	}
	return backend.ClientCommand{
		Name: "sqlite3",
		Args: []string{
			"-cmd", ".timeout " + strconv.FormatInt(b.cfg.BusyTimeout.Milliseconds(), 10),
			"-cmd", "PRAGMA foreign_keys=ON",
			"-cmd", b.attach, // read-only
			"-cmd", ".prompt '" + rt.Store.String() + "> ' '   ...> '",
			uri(b.path(rt.Store), "rw"), // not made when it is gone by now
		},
	}, nil
}
