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

// hinder keeps others from the store at path until the input ends. It is no user of SQLite's, only of its locks and its
// file. alone: it has the file locked for itself, as the last one does who closes it. Else it may write and has written one
// of the two copies of the header of the log's index (wal.c, walIndexWriteHdr).
func hinder(path string, alone bool) (err error) {
	const (
		sharedFirst, sharedSize = 0x40000002, 510 // what a file's readers have locked
		writeLock               = 120             // of the index, what a writer has locked
		second                  = 48              // where the second copy is
		change                  = second + 8
	)
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: sharedFirst, Len: sharedSize}
	if !alone {
		path += "-shm"
		lock.Start, lock.Len = writeLock, 1
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLKW, &lock); err != nil {
		return err
	}
	if !alone {
		var b [1]byte
		if _, err := f.ReadAt(b[:], change); err != nil {
			return err
		}
		if _, err := f.WriteAt([]byte{b[0] + 1}, change); err != nil {
			return err
		}
		defer func() {
			_, werr := f.WriteAt(b[:], change)
			err = errors.Join(err, werr)
		}()
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
