package migrate

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"time"
)

// fileSet is a file system of files held in memory, all at its root.
type fileSet map[string][]byte

var (
	_ fs.ReadDirFS  = fileSet(nil)
	_ fs.ReadFileFS = fileSet(nil)
)

// Open implements fs.FS.
func (f fileSet) Open(name string) (fs.File, error) {
	if name == "." {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
	}
	text, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memoryFile{Reader: bytes.NewReader(text), info: fileInfo{name: name, size: int64(len(text))}}, nil
}

// ReadFile implements fs.ReadFileFS.
func (f fileSet) ReadFile(name string) ([]byte, error) {
	text, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return slices.Clone(text), nil
}

// ReadDir implements fs.ReadDirFS.
func (f fileSet) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	entries := make([]fs.DirEntry, 0, len(f))
	for _, name := range slices.Sorted(maps.Keys(f)) {
		entries = append(entries, fs.FileInfoToDirEntry(fileInfo{name: name, size: int64(len(f[name]))}))
	}
	return entries, nil
}

// Stat implements fs.StatFS.
func (f fileSet) Stat(name string) (fs.FileInfo, error) {
	text, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return fileInfo{name: name, size: int64(len(text))}, nil
}

type memoryFile struct {
	io.Reader
	info fileInfo
}

func (f *memoryFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *memoryFile) Close() error               { return nil }

type fileInfo struct {
	name string
	size int64
}

func (i fileInfo) Name() string     { return i.name }
func (i fileInfo) Size() int64      { return i.size }
func (fileInfo) Mode() fs.FileMode  { return 0o444 }
func (fileInfo) ModTime() time.Time { return time.Time{} }
func (fileInfo) IsDir() bool        { return false }
func (fileInfo) Sys() any           { return nil }
