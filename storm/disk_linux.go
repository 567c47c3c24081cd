package main

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// mountSmall makes dir a file system of its own, that can be filled.
func mountSmall(dir string) error {
	return syscall.Mount("storm", dir, "tmpfs", 0, "size=3g,mode=0700")
}

func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }

// fillDisk leaves no room on dir's file system for a while.
func fillDisk(dir string, d time.Duration) error {
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { time.Sleep(d); _ = os.Remove(name) }()
	defer f.Close()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return err
	}
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, int64(fs.Bfree)*fs.Bsize); err != nil && !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	return nil
}
