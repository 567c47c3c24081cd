//go:build !linux

package main

import (
	"errors"
	"time"
)

func mountSmall(string, int64) error { return errors.ErrUnsupported }

func unmount(string) error { return nil }

func fillDisk(string, time.Duration) error { return errors.ErrUnsupported }
