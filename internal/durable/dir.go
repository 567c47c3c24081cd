//go:build !windows

// Package durable has what it takes for the names of files to survive a loss of power.
package durable

import (
	"errors"
	"os"
	"syscall"
)

// SyncDir makes the entries of a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil // a file system, such as some of a network, that does it by itself or cannot
	}
	return err
}
