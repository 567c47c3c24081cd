package sqlite

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// keyLocks locks a byte of one file for each key, at a place that the key's hash says: nothing is made or removed, of
// which the disk would have to hear with the next file that is synced. The locks belong to the open file (fcntl(2), "Open
// file description locks"): two Backends of one process exclude each other, and no descriptor that is closed elsewhere
// drops them.
type keyLocks struct {
	files fileLocks // where the system has no such locks

	mu     sync.Mutex
	file   *rangeFile
	lacks  bool
	closed bool
}

// rangeFile is an open file with locks in it.
type rangeFile struct {
	f    *os.File
	held int
}

const rangeName = "keys.lock"

func (l *keyLocks) try(dir, key string, retry func(func() error) error) (unlock func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lacks {
		return l.files.try(dir, key, retry)
	}
	path := filepath.Join(dir, rangeName)
	if l.file == nil || !sameFile(l.file.f, path) { // somebody removed it: others lock in the new one
		var f *os.File
		err := retry(func() (err error) {
			f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			return err
		})
		if err != nil {
			return nil, err
		}
		old := l.file
		l.file = &rangeFile{f: f}
		l.letGo(old)
	}
	file, sum := l.file, sha256.Sum256([]byte(key))
	at := int64(binary.BigEndian.Uint64(sum[:]) >> 2)
	err = file.set(at, unix.F_WRLCK)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return nil, errLocked
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		if file.held > 0 {
			return nil, err
		}
		l.lacks = true
		return l.files.try(dir, key, retry)
	case err != nil:
		return nil, err
	}
	file.held++
	return func() { l.unlock(file, at) }, nil
}

func (l *keyLocks) unlock(file *rangeFile, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = file.set(at, unix.F_UNLCK)
	file.held--
	l.letGo(file)
}

// letGo closes a file that nobody wants any more. The caller holds l.mu.
func (l *keyLocks) letGo(file *rangeFile) {
	if file == nil || file.held > 0 || file == l.file && !l.closed {
		return
	}
	_ = file.f.Close()
	if file == l.file {
		l.file = nil
	}
}

// close closes the file as soon as nothing in it is locked.
func (l *keyLocks) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.letGo(l.file)
}

func (r *rangeFile) set(at int64, kind int16) error {
	for {
		err := unix.FcntlFlock(r.f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Whence: 0, Start: at, Len: 1})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
