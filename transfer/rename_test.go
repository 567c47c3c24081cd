package transfer

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Of several files that are to have one name one gets it, whether the file system has links or not.
func TestOneFileHasTheName(t *testing.T) {
	t.Parallel()
	for name, rename := range map[string]func(w *fileWriter) error{"with links": (*fileWriter).rename, "without links": (*fileWriter).renameReserved} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 50 {
				dir := t.TempDir()
				faults := make([]error, 8)
				var all sync.WaitGroup
				for i := range faults {
					w := &fileWriter{path: filepath.Join(dir, "tenant.db"), temp: filepath.Join(dir, fmt.Sprint(i, ".partial"))}
					require.NoError(t, os.WriteFile(w.temp, fmt.Append(nil, i), 0o600))
					all.Go(func() { faults[i] = rename(w) })
				}
				all.Wait()
				text, err := os.ReadFile(filepath.Join(dir, "tenant.db"))
				require.NoError(t, err)
				for i, err := range faults {
					if string(text) == fmt.Sprint(i) {
						assert.NoError(t, err)
						assert.NoFileExists(t, filepath.Join(dir, fmt.Sprint(i, ".partial")))
						continue
					}
					var fault *FileError
					require.ErrorAs(t, err, &fault)
					require.ErrorIs(t, err, fs.ErrExist)
				}
			}
		})
	}
}
