package pgtest

import (
	"os"
	"path/filepath"
	"runtime"
)

// unpackedRoot is where scripts/debian.sh puts programs of a newer Debian, in the ignored folder bin/ of the repository
// that this file is part of.
func unpackedRoot() string {
	_, file, _, _ := runtime.Caller(0) // no path with -trimpath: then nothing is found
	return filepath.Join(filepath.Dir(file), "..", "..", "bin", "debian-13")
}

// lend returns the path of a program for the user that servers run as. A repository may be where that user may not go:
// then all that was unpacked is copied to dir, which is the server's.
func lend(dir, program string) (string, error) {
	root := unpackedRoot()
	inside, err := filepath.Rel(root, program)
	if err != nil || !filepath.IsLocal(inside) || reachable(root) {
		return program, nil //nolint:nilerr // it is not one of those
	}
	into := filepath.Join(dir, "unpacked")
	if err := os.CopyFS(into, os.DirFS(root)); err != nil {
		return "", err
	}
	return filepath.Join(into, inside), nil
}

// reachable reports whether any user may enter a folder.
func reachable(path string) bool {
	for ; ; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		if err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if path == filepath.Dir(path) {
			return true
		}
	}
}
