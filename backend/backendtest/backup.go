package backendtest

import (
	"os"
	"path/filepath"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

var backupCases = []testCase{
	{
		id: "backup", name: "writes a new file or nothing",
		rule: "Backup writes a copy of one owner's store to a new file; where that cannot be, it says so, and changes and leaves nothing.",
		run: func(e *env) {
			backuper := able[backend.Backuper](e, e.be)
			a := e.tenant("a", "a1")
			dir := e.TempDir()
			first, taken := filepath.Join(dir, "first"), filepath.Join(dir, "taken")
			tx := e.tx(a) // it does not wait for those who write
			_, err := tx.Exec(insertNote, "a2")
			require.NoError(e, err)
			require.NoError(e, backuper.Backup(e.ctx, a, first))
			require.NoError(e, tx.Commit())
			e.holds(a, "a1", "a2")
			info, err := os.Stat(first)
			require.NoError(e, err)
			require.NotZero(e, info.Size())

			require.NoError(e, os.WriteFile(taken, []byte("mine"), 0o600))
			require.Error(e, backuper.Backup(e.ctx, a, taken))
			text, err := os.ReadFile(taken)
			require.NoError(e, err)
			require.Equal(e, "mine", string(text))
			for _, rt := range []backend.Route{route("ghost"), {Store: a.Store, Owner: "somebody else"}} {
				require.ErrorIs(e, backuper.Backup(e.ctx, rt, filepath.Join(dir, "none")), backend.ErrStoreMissing)
			}
			entries, err := os.ReadDir(dir)
			require.NoError(e, err)
			require.Len(e, entries, 2)
		},
	},
}
