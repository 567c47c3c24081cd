package transfer_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/transfer"
)

func TestRestore(t *testing.T) {
	onEach(t, func(t *testing.T, d backend.Dialect) {
		a := newPlace(t, d, blog)
		thor := a.create(t, "thor", blogRows...)
		path, _ := a.export(t, thor)
		a.exec(t, thor, `DELETE FROM settings`, `UPDATE authors SET name = 'Zoe' WHERE id = 1`, `INSERT INTO authors (name) VALUES ('Gil')`)
		aside, err := transfer.Restore(t.Context(), a.App, thor.ID, path, transfer.RestoreOptions{})
		require.NoError(t, err)
		requireSame(t, transfer.InStore(a.App, thor.ID), transfer.InFile(path))
		a.exec(t, thor, `INSERT INTO authors (name) VALUES ('Ida')`)
		assert.Equal(t, []string{"Ann", "Bob", "Ida"}, a.query(t, thor, `SELECT name FROM authors ORDER BY id`))
		again, err := a.BySlug(t.Context(), "thor")
		require.NoError(t, err)
		assert.Equal(t, thor.ID, again.ID)
		assert.Equal(t, thor.Domains, again.Domains)
		require.NoError(t, a.Migrator().Ready(t.Context(), again.Route()))
		require.NoError(t, a.PurgeAside(t.Context(), aside.Store))

		change(t, path, "UPDATE settings SET value = 'changed'")
		_, err = transfer.Restore(t.Context(), a.App, thor.ID, path, transfer.RestoreOptions{})
		require.ErrorIs(t, err, transfer.ErrDamaged)
		assert.Equal(t, []string{"Ann", "Bob", "Ida"}, a.query(t, thor, `SELECT name FROM authors ORDER BY id`))
		stores, err := a.AsideStores(t.Context())
		require.NoError(t, err)
		assert.Empty(t, stores)
		findings, err := a.Doctor(t.Context())
		require.NoError(t, err)
		assert.Empty(t, findings)
	})
}
