//go:build unix

package main

import (
	"os"
	"syscall"
)

var signals = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}
