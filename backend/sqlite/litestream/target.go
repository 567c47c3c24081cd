package litestream

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"sync/atomic"

	ls "github.com/benbjohnson/litestream"
	_ "github.com/benbjohnson/litestream/file" // file:
	_ "github.com/benbjohnson/litestream/s3"   // s3:
	"github.com/superfly/ltx"
)

// target is where histories are kept, each under the name of its store.
type target struct{ url url.URL }

func parseTarget(text string) (target, error) {
	u, err := url.Parse(text)
	if err != nil {
		return target{}, fmt.Errorf("%w: %w", ErrTarget, err)
	}
	switch {
	case u.Scheme == "file" && (u.Host != "" || !path.IsAbs(u.Path) || u.RawQuery != "" || u.Fragment != ""):
		return target{}, fmt.Errorf("%w: %q: use file:///DIR", ErrTarget, text)
	case u.Scheme == "s3" && u.Host == "":
		return target{}, fmt.Errorf("%w: %q: use s3://BUCKET/PREFIX", ErrTarget, u.Redacted())
	case u.Scheme != "file" && u.Scheme != "s3":
		return target{}, fmt.Errorf("%w: %q: use file:///DIR or s3://BUCKET/PREFIX", ErrTarget, u.Redacted())
	}
	t := target{*u}
	if _, err := t.client(sharedName); err != nil {
		return target{}, fmt.Errorf("%w: %w", ErrTarget, err)
	}
	return t, nil
}

// quiet is the log of Litestream: what it cannot do is returned.
var quiet = slog.New(slog.DiscardHandler)

// client returns the way to the history of a store.
func (t target) client(name string) (*client, error) {
	u := t.url
	u.Path = path.Join(u.Path, name)
	under, err := ls.NewReplicaClientFromURL(u.String())
	if err != nil {
		return nil, err
	}
	under.SetLogger(quiet)
	return &client{ReplicaClient: under}, nil
}

// client is Litestream's, with an answer that is known already while a store is opened: then nobody waits for the target
// who waits for the store.
type client struct {
	ls.ReplicaClient
	known atomic.Pointer[ltx.FileInfo] // the newest of level 0
}

func (c *client) LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error) {
	if info := c.known.Load(); info != nil && level == 0 && seek == 0 && !useMetadata {
		var list []*ltx.FileInfo
		if info.MaxTXID > 0 {
			list = append(list, info)
		}
		return ltx.NewFileInfoSliceIterator(list), nil
	}
	return c.ReplicaClient.LTXFiles(ctx, level, seek, useMetadata)
}

// newest returns the newest file of level 0, the last change that arrived; zero when there is none.
func (c *client) newest(ctx context.Context) (newest ltx.FileInfo, err error) {
	err = c.each(ctx, 0, func(info *ltx.FileInfo) {
		if info.MaxTXID > newest.MaxTXID {
			newest = *info
		}
	})
	return newest, err
}

// each calls fn for each file of a level.
func (c *client) each(ctx context.Context, level int, fn func(*ltx.FileInfo)) error {
	files, err := c.LTXFiles(ctx, level, 0, false)
	if err != nil {
		return err
	}
	for files.Next() {
		fn(files.Item())
	}
	return files.Close()
}
