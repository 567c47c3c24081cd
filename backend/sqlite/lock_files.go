package sqlite

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// fileLocks locks a file for each key. It is removed by whoever unlocks it, so it is looked at again whether what was locked
// still is the file of that name.
type fileLocks struct{}

func (fileLocks) try(dir, key string, retry func(func() error) error) (unlock func(), err error) {
	sum := sha256.Sum256([]byte(key))
	path := filepath.Join(dir, hex.EncodeToString(sum[:16])+".lock")
	for {
		var f *os.File
		err := retry(func() (err error) {
			f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("lock file: %w", err)
		}
		if err = tryLockFile(f); err != nil {
			_ = f.Close()
			return nil, err
		}
		if sameFile(f, path) {
			return func() { unlockFile(f, path) }, nil
		}
		_ = f.Close()
	}
}

func sameFile(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(path)
	return err == nil && os.SameFile(have, named)
}
