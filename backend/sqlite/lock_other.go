//go:build !linux

package sqlite

// keyLocks has locks that go with an open file on Linux alone.
type keyLocks = fileLocks

func (fileLocks) close() {}
