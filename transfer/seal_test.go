package transfer_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/transfer"
)

// A file in which any byte is another one is refused, wherever that byte is: of a free page, of the header, of the seal.
func TestEveryByteCounts(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.SQLite, blog, withFiles(t))
	thor := a.create(t, "thor", blogRows...)
	a.write(t, thor, "logo.png", "a picture")
	whole, _ := a.export(t, thor)
	content, err := os.ReadFile(whole)
	require.NoError(t, err)
	b := newPlace(t, backend.SQLite, blog, withFiles(t))
	path := filepath.Join(t.TempDir(), "bad.db")
	random := rand.New(rand.NewPCG(1, 2))
	at := make([]int, 0, 300)
	for i := range 100 {
		at = append(at, i) // the header
	}
	for range 200 {
		at = append(at, random.IntN(len(content)))
	}
	for _, i := range at {
		changed := append([]byte{}, content...)
		changed[i] ^= byte(1 << random.IntN(8))
		require.NoError(t, os.WriteFile(path, changed, 0o600))
		_, err := transfer.Import(t.Context(), b.App, path, transfer.ImportOptions{})
		var fault *transfer.FileError
		require.ErrorAs(t, err, &fault, "byte %d", i)
		require.True(t, errors.Is(err, transfer.ErrDamaged) || errors.Is(err, transfer.ErrNotTransferFile) || errors.Is(err, transfer.ErrFormat), "byte %d: %v", i, err)
	}
	b.requireNothing(t)
	b.bring(t, whole)
}
