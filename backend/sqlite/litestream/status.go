package litestream

import (
	"context"
	"iter"
	"time"

	ls "github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"

	"github.com/tenement-go/tenement/backend/sqlite"
	"github.com/tenement-go/tenement/manage"
	"github.com/tenement-go/tenement/tenancy"
)

// levels are all levels that a history may have files of.
var levels = []int{0, 1, 2, 3, ls.SnapshotLevel}

// Status implements [manage.Backups]. The target itself is asked, with six requests a store, for one after the other.
func (b *Backups) Status(ctx context.Context, app *tenancy.App, tenants []tenancy.Tenant) iter.Seq2[manage.BackupStatus, error] {
	return func(yield func(manage.BackupStatus, error) bool) {
		be, err := directory(app)
		if err != nil {
			yield(manage.BackupStatus{}, err)
			return
		}
		for _, t := range tenants {
			st, err := b.status(ctx, be, t)
			if !yield(st, err) || err != nil {
				return
			}
		}
	}
}

// nameOf is the name of a tenant's history.
func nameOf(id tenancy.ID) string {
	if id == "" {
		return sharedName
	}
	return string(id)
}

func (b *Backups) status(ctx context.Context, be *sqlite.Backend, t tenancy.Tenant) (manage.BackupStatus, error) {
	st := manage.BackupStatus{Tenant: t}
	c, err := b.target.client(nameOf(t.ID))
	if err != nil {
		return st, err
	}
	var newest ltx.FileInfo
	for _, level := range levels {
		err := c.each(ctx, level, func(info *ltx.FileInfo) {
			st.Bytes += info.Size
			if level == 0 && info.MaxTXID > newest.MaxTXID {
				newest = *info
			}
		})
		if err != nil {
			return st, err
		}
	}
	if newest.MaxTXID == 0 {
		return st, nil
	}
	header, err := ls.FetchLTXHeader(ctx, c, &newest)
	if err != nil {
		return st, err
	}
	st.Position, st.At = newest.MaxTXID.String(), time.UnixMilli(header.Timestamp)
	now, _, err := look(be.Path(t.Store))
	if err != nil {
		return st, err
	}
	// The time in a file of a history is cut to milliseconds; that of the -wal is never later than the write.
	if now.written().Sub(st.At) > time.Millisecond {
		st.Lag = now.At.Sub(st.At)
	}
	return st, nil
}
