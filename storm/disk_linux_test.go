package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A disk is full also when others write, and give room back, while it is filled.
func TestFullDiskRefusesThoseWhoWrite(t *testing.T) {
	dir := t.TempDir()
	if err := mountSmall(dir, 16<<20); err != nil {
		t.Skip("needs to mount a file system: ", err)
	}
	t.Cleanup(func() { require.NoError(t, unmount(dir)) })

	var refused atomic.Int64
	var over atomic.Bool
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			name := filepath.Join(dir, strconv.Itoa(i))
			for !over.Load() {
				err := os.WriteFile(name, make([]byte, 16<<10), 0o600)
				if errors.Is(err, syscall.ENOSPC) {
					refused.Add(1)
				} else {
					assert.NoError(t, err)
				}
				assert.NoError(t, os.Remove(name))
			}
		})
	}
	for range 5 {
		before := refused.Load()
		assert.NoError(t, fillDisk(dir, 50*time.Millisecond))
		assert.Greater(t, refused.Load(), before)
	}
	over.Store(true)
	all.Wait()
	assert.NoError(t, os.WriteFile(filepath.Join(dir, "after"), make([]byte, 8<<20), 0o600), "the room is given back")
}
