package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// server is a Postgres server whose processes run on this machine, as /proc shows them. The zero value is one that
// cannot be seen.
type server struct{ postmaster int }

// serverOf returns the server that a process serves for.
func serverOf(pid int) server {
	p, ok := readProcess(pid)
	if !ok || !strings.HasPrefix(p.name, "postgres") {
		return server{}
	}
	return server{postmaster: p.parent}
}

func (s server) here() bool { return s.postmaster != 0 }

// cpu returns the processor time of all processes that the server has and has had.
func (s server) cpu() (time.Duration, bool) {
	if !s.here() {
		return 0, false
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var sum time.Duration
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		p, ok := readProcess(pid)
		switch {
		case !ok: // ended meanwhile
		case pid == s.postmaster:
			sum += p.cpu + p.ended
		case p.parent == s.postmaster:
			sum += p.cpu
		}
	}
	return sum, true
}

// process is what /proc/PID/stat says.
type process struct {
	name   string
	parent int
	cpu    time.Duration
	ended  time.Duration // of its children that have ended
}

// tick is the unit of the times in /proc, 1/100 s on all of Linux' architectures.
const tick = 10 * time.Millisecond

func readProcess(pid int) (process, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	// The name is in parentheses, and may hold any character. What follows is the third field and on.
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return process{}, false
	}
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) < 15 {
		return process{}, false
	}
	field := func(number int) int {
		n, _ := strconv.Atoi(fields[number-3])
		return n
	}
	return process{
		name:   string(text[open+1 : end]),
		parent: field(4),
		cpu:    time.Duration(field(14)+field(15)) * tick,
		ended:  time.Duration(field(16)+field(17)) * tick,
	}, true
}
