package transfer_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// A file's name is what the system takes for one, bytes that are no UTF-8 among them, and so is a directory's.
func TestFilesOfAnyName(t *testing.T) {
	onEach(t, func(t *testing.T, d backend.Dialect) {
		a := newPlace(t, d, blog, withFiles(t))
		thor := a.create(t, "thor")
		names := []string{"caf\xe9.txt", "d\xe9p\xf4t/caf\xe9.txt", `a\b: c?`}
		for _, name := range names {
			a.write(t, thor, name, name)
		}
		path, _ := a.export(t, thor)
		b := newPlace(t, d, blog, withFiles(t))
		moved := b.bring(t, path)
		for _, name := range names {
			assert.Equal(t, name, b.read(t, moved, name))
		}
		clone, err := transfer.Clone(t.Context(), a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "copy"}})
		require.NoError(t, err)
		for _, name := range names {
			assert.Equal(t, name, a.read(t, clone, name))
		}
	})
}

// What is neither a file nor a directory is not left out without a word.
func TestLinksAreRefused(t *testing.T) {
	onEach(t, func(t *testing.T, d backend.Dialect) {
		a := newPlace(t, d, blog, withFiles(t))
		thor := a.create(t, "thor")
		a.write(t, thor, "logo.png", "a picture")
		root, err := a.Dir(backend.WithRouter(t.Context(), &thor))
		require.NoError(t, err)
		require.NoError(t, root.Symlink("logo.png", "link.png"))
		require.NoError(t, root.Close())
		_, err = transfer.Export(t.Context(), a.App, thor.ID, filepath.Join(t.TempDir(), "thor.db"), transfer.ExportOptions{})
		require.ErrorContains(t, err, "link.png is neither")
		_, err = transfer.Clone(t.Context(), a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "copy"}})
		require.ErrorContains(t, err, "link.png is neither")
		_, err = a.BySlug(t.Context(), "copy")
		require.ErrorIs(t, err, tenancy.ErrNotFound)
		_, err = transfer.Clone(t.Context(), a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "copy"}, NoFiles: true})
		require.NoError(t, err)
	})
}
