// Package machine says what figures were measured on, as far as the system shows it.
package machine

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

// Describe returns a line about the machine: cores, processor, kernel.
func Describe() string {
	model, kernel := runtime.GOARCH, runtime.GOOS
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`(?m)^model name\s*:\s*(.+)$`).FindSubmatch(text); m != nil {
			model = string(m[1])
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = "Linux " + strings.TrimSpace(string(text))
	}
	return fmt.Sprintf("%d cores, %s, %s", runtime.NumCPU(), model, kernel)
}

// Versions returns those of Go, of this module and of the drivers and peers that the program is built with.
func Versions() []string {
	out := []string{runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return out
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			out = append(out, "tenement "+s.Value[:min(12, len(s.Value))])
		}
	}
	names := map[string]string{
		"github.com/jackc/pgx/v5": "pgx", "modernc.org/sqlite": "modernc.org/sqlite", "github.com/pressly/goose/v3": "goose",
	}
	for _, dep := range info.Deps {
		if name := names[dep.Path]; name != "" {
			out = append(out, name+" "+dep.Version)
		}
	}
	return out
}

// Anonymous returns the bytes of a process's memory that are no file's and shared with nobody's buffers. It fails where
// there is no /proc, and for a process that has ended.
func Anonymous(pid int) (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "Anonymous:"); ok {
			kB, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 64)
			return kB * 1024, err
		}
	}
	return 0, fmt.Errorf("%s says nothing of anonymous memory", f.Name())
}
