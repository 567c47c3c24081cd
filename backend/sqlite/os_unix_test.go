//go:build unix

package sqlite_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func inodeOf(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return fmt.Sprint(info.Sys().(*syscall.Stat_t).Ino)
}

// limitDescriptors bounds how many files this process may have open from here on.
func limitDescriptors(n int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = min(limit.Max, uint64(n))
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// getStuck is somebody who may write to the store at path and has written one of the two copies of the header of its log's
// index (wal.c, walIndexWriteHdr), until the input ends. It is no user of SQLite's, only of its locks and its file.
func getStuck(path string) error {
	const (
		writeLock = 120 // the byte that a writer has locked
		second    = 48  // where the second copy is
		change    = second + 8
	)
	f, err := os.OpenFile(path+"-shm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: writeLock, Len: 1}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLKW, &lock); err != nil {
		return err
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], change); err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte{b[0] + 1}, change); err != nil {
		return err
	}
	fmt.Println("stuck")
	_, err = io.Copy(io.Discard, os.Stdin)
	_, werr := f.WriteAt(b[:], change)
	return errors.Join(err, werr)
}
