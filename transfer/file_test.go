package transfer_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// Of several that write to one path one has it, and what that one wrote stays.
func TestExportsToOnePath(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.SQLite, files("00001_a.sql", "CREATE TABLE a (x TEXT);"))
	var tenants []tenancy.Tenant
	for i := range 4 {
		tenants = append(tenants, a.create(t, fmt.Sprintf("t%d", i)))
	}
	for range 20 {
		path := filepath.Join(t.TempDir(), "tenant.db")
		faults := make([]error, len(tenants))
		var exports, written sync.WaitGroup
		written.Add(len(tenants))
		for i, tenant := range tenants {
			exports.Go(func() {
				_, faults[i] = transfer.Export(t.Context(), a.App, tenant.ID, path, transfer.ExportOptions{OnTable: func(transfer.Progress) {
					written.Done()
					written.Wait()
				}})
			})
		}
		exports.Wait()
		var made []string
		for i, err := range faults {
			if err == nil {
				made = append(made, tenants[i].Slug)
				continue
			}
			var fault *transfer.FileError
			require.ErrorAs(t, err, &fault)
			require.ErrorIs(t, err, fs.ErrExist)
		}
		require.Len(t, made, 1)
		f, err := transfer.Open(t.Context(), path)
		require.NoError(t, err)
		assert.Equal(t, made[0], f.Manifest.Tenant.Slug)
		require.NoError(t, f.Check(t.Context()))
		require.NoError(t, f.Close())
		entries, err := os.ReadDir(filepath.Dir(path))
		require.NoError(t, err)
		assert.Len(t, entries, 1)
	}
}
