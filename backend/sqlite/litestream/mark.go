package litestream

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// mark is what can be seen of a store without opening it. Whoever writes to it changes its mark.
type mark struct {
	Main, WAL stamp
	At        time.Time // when it was looked at
}

// stamp is what a file was like; zero when it was not there.
type stamp struct {
	Size     int64
	Modified time.Time
}

// settling is for how long two writes may leave the same time on a file: clocks of file systems are that coarse.
const settling = time.Second

// look returns the mark of the store at path, and its file.
func look(path string) (m mark, main os.FileInfo, err error) {
	m.At = time.Now()
	if main, err = os.Lstat(path); err != nil {
		return mark{}, nil, err
	}
	m.Main = stamp{main.Size(), main.ModTime()}
	wal, err := os.Lstat(path + "-wal")
	switch {
	case err == nil:
		m.WAL = stamp{wal.Size(), wal.ModTime()}
	case !errors.Is(err, fs.ErrNotExist):
		return mark{}, nil, err
	}
	return m, main, nil
}

// covers reports whether all that is in a store that looks like now was there when it looked like m.
func (m mark) covers(now mark) bool {
	return m.Main.equal(now.Main) && m.WAL.equal(now.WAL) && m.At.Sub(m.written()) > settling
}

// written is when something was last written to the store; with a -wal, to that: the rest is checkpoints.
func (m mark) written() time.Time {
	if m.WAL.Modified.IsZero() {
		return m.Main.Modified
	}
	return m.WAL.Modified
}

func (s stamp) equal(o stamp) bool { return s.Size == o.Size && s.Modified.Equal(o.Modified) }

// note is the mark of a store that is closed and of which the target has everything, kept for the next process.
type note struct {
	Target string
	Mark   mark
}

const noteName = "closed.json"

// readNote returns the mark that was kept for this target, or a zero one.
func readNote(dir, target string) mark {
	text, err := os.ReadFile(filepath.Join(dir, noteName))
	var n note
	if err != nil || json.Unmarshal(text, &n) != nil || n.Target != target {
		return mark{}
	}
	return n.Mark
}

func writeNote(dir, target string, m mark) error {
	text, err := json.Marshal(note{target, m})
	if err != nil {
		return err
	}
	temp := filepath.Join(dir, noteName+".tmp")
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(dir, noteName))
}

func removeNote(dir string) error {
	if err := os.Remove(filepath.Join(dir, noteName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
