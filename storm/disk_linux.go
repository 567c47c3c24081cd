package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// mountSmall makes dir a file system of its own of so many bytes, that can be filled.
func mountSmall(dir string, size int64) error {
	return syscall.Mount("storm", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size))
}

func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }

const (
	largestPiece = 64 << 20 // that a ballast asks for at once
	diskPage     = 4 << 10
	refillEvery  = 10 * time.Millisecond // what others give back is taken
)

// fillDisk fills dir's file system and keeps it full for a while. It returns nil only if somebody who wrote was refused.
func fillDisk(dir string, d time.Duration) (err error) {
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	b := &ballast{f: f}
	if err := b.fill(); err != nil {
		return err
	}
	for full := time.Now(); time.Since(full) < d; {
		time.Sleep(refillEvery)
		if err := b.fill(); err != nil {
			return err
		}
	}
	return nil
}

// ballast is a file that grows until its file system is full.
type ballast struct {
	f    *os.File
	size int64
}

// fill takes the room there is in pieces, each of which is had wholly or not at all, and then writes, until that is refused.
func (b *ballast) fill() error {
	for piece := int64(largestPiece); piece >= diskPage; {
		err := syscall.Fallocate(int(b.f.Fd()), 0, b.size, piece)
		switch {
		case err == nil:
			b.size += piece
		case errors.Is(err, syscall.ENOSPC): // others write meanwhile
			piece /= 2
		case !errors.Is(err, syscall.EINTR):
			return err
		}
	}
	page := make([]byte, diskPage)
	for {
		n, err := b.f.WriteAt(page, b.size)
		b.size += int64(n)
		if errors.Is(err, syscall.ENOSPC) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
