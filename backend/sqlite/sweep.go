package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
)

var _ backend.Sweeper = (*Backend)(nil)

// templateAge is how long a template goes unused by any process before it counts as left over.
const templateAge = 24 * time.Hour

// leftover says what a file is, by its path within the directory, and which lock whoever is busy with it would hold.
func (b *Backend) leftover(rel string) (l backend.Leftover, key string, ok bool) {
	dir, name := filepath.Split(rel)
	base, side := name, ""
	for _, ext := range sideExts {
		if cut, found := strings.CutSuffix(base, ext); found {
			base, side = cut, ext
			break
		}
	}
	hidden, isHidden := strings.CutPrefix(base, ".")
	switch filepath.Clean(dir) {
	case "tenants":
		if isHidden {
			l, key, ok = hiddenLeftover(hidden)
		} else if side != "" {
			l, key, ok = b.sideLeftover(base)
		}
	case "templates":
		if isHidden {
			text, isTemp := strings.CutSuffix(hidden, tempExt)
			l, key, ok = backend.Leftover{
				Kind: "temporary file", Detail: "a template that was being built when the process ended; removing it loses nothing",
			}, templateKey(text), isTemp
		} else {
			l, key, ok = b.templateLeftover(rel, base)
		}
	case "moving":
		store, err := backend.ParseStore(base)
		l, key, ok = backend.Leftover{
			Kind: "marker", Detail: "of a rename that the process did not live to finish; removing it loses nothing", Store: store,
		}, storeKey(store), err == nil && side == ""
	}
	l.Name = rel
	return l, key, ok
}

// hiddenLeftover is leftover for .STORE.RANDOM.tmp and .dropped, given without the dot.
func hiddenLeftover(hidden string) (l backend.Leftover, key string, ok bool) {
	text, _, _ := strings.Cut(hidden, ".")
	store, err := backend.ParseStore(text)
	if err != nil {
		return l, "", false
	}
	l.Store = store
	switch filepath.Ext(hidden) {
	case tempExt:
		l.Kind, l.Detail = "temporary file", "a store that was being made when the process ended; removing it loses nothing"
	case tombstoneExt:
		l.Kind, l.Detail = "tombstone", "what store "+text+" held when it was dropped; removing it frees the space"
	default:
		return l, "", false
	}
	return l, storeKey(store), true
}

// sideLeftover is leftover for a side file of the file called base.
func (b *Backend) sideLeftover(base string) (l backend.Leftover, key string, ok bool) {
	text, isStore := strings.CutSuffix(base, storeExt)
	store, err := backend.ParseStore(text)
	if !isStore || err != nil || absent(b.path(store)) != nil {
		return l, "", false
	}
	return backend.Leftover{
		Kind: "side file", Detail: "SQLite's, of a store that is no more; removing it loses nothing", Store: store,
	}, storeKey(store), true
}

// templateLeftover is leftover for a template that nobody has used for long.
func (b *Backend) templateLeftover(rel, base string) (l backend.Leftover, key string, ok bool) {
	text, isTemplate := strings.CutSuffix(base, storeExt)
	path := filepath.Join(b.dir, rel)
	if !isTemplate || b.templates.uses(path) {
		return l, "", false
	}
	info, err := os.Lstat(path)
	if err != nil || time.Since(info.ModTime()) < templateAge {
		return l, "", false
	}
	return backend.Leftover{Kind: "template", Detail: "made for new stores and unused since " +
		info.ModTime().UTC().Format(time.DateTime) + " UTC; it is built again when it is needed"}, templateKey(text), true
}

func (t *templates) uses(path string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tpl := range t.m {
		if tpl.path == path {
			return true
		}
	}
	return false
}

// Leftovers implements [backend.Sweeper]. The names are paths within the directory, in order.
func (b *Backend) Leftovers(ctx context.Context) ([]backend.Leftover, error) {
	var all []backend.Leftover
	for _, dir := range []string{"tenants", "templates", "moving"} {
		entries, err := os.ReadDir(filepath.Join(b.dir, dir))
		if err != nil {
			return nil, &backend.Error{Op: "list leftovers", Err: err}
		}
		for _, e := range entries {
			l, key, ok := b.leftover(filepath.Join(dir, e.Name()))
			if !ok {
				continue
			}
			err := b.unused(ctx, key, func() error {
				// Looked at again now that nobody is busy with it: what was under way may have ended well.
				if l, _, ok = b.leftover(l.Name); ok && exists(filepath.Join(b.dir, l.Name)) {
					all = append(all, l)
				}
				return nil
			})
			if err != nil && !errors.Is(err, errLocked) {
				return nil, &backend.Error{Op: "list leftovers", Err: err}
			}
		}
	}
	slices.SortFunc(all, func(x, y backend.Leftover) int { return strings.Compare(x.Name, y.Name) })
	return all, nil
}

// Sweep implements [backend.Sweeper].
func (b *Backend) Sweep(ctx context.Context, l backend.Leftover) error {
	err := b.sweep(ctx, l.Name)
	if err != nil {
		return &backend.Error{Op: "sweep", Err: fmt.Errorf("%s: %w", l.Name, err)}
	}
	return nil
}

func (b *Backend) sweep(ctx context.Context, rel string) error {
	if b.isClosed() {
		return backend.ErrClosed
	}
	path := filepath.Join(b.dir, rel)
	if !filepath.IsLocal(rel) || filepath.Clean(rel) != rel {
		return errors.New("it is not a path within the directory; give one that Leftovers listed")
	}
	_, key, ok := b.leftover(rel)
	if !ok {
		if !exists(path) {
			return nil
		}
		return errors.New("it is no leftover (any more); nothing was removed")
	}
	return b.unused(ctx, key, func() error {
		if _, _, ok := b.leftover(rel); !ok && exists(path) {
			return errors.New("it is no leftover any more; nothing was removed")
		}
		return remove(path)
	})
}

// unused runs fn while nobody else is busy with what key stands for, or returns errLocked.
func (b *Backend) unused(ctx context.Context, key string, fn func() error) error {
	unlock, err := b.tryLock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	return fn()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
