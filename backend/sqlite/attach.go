package sqlite

import (
	"context"
	"errors"
	"io"
)

// attach attaches the shared store: also to itself, so that public.x means the same everywhere. The caller holds c.mu.
func (c *conn) attach(ctx context.Context) error {
	if c.attached {
		return nil
	}
	err := c.st.b.withDescriptors(ctx, func() error { return c.run(ctx, c.st.b.attach) })
	c.attached = err == nil
	return err
}

// detachSelf is called before a transaction of the shared store. BEGIN IMMEDIATE begins one in whatever is attached: having
// locked the log of its own file for writing, it would then read that file as somebody else would, who may have to wait
// for that very lock, when the index of the log was left half written (see patience.go). The caller holds c.mu.
func (c *conn) detachSelf(ctx context.Context) error {
	if c.tenant || !c.attached || len(c.open) > 0 { // it cannot be while rows of it are read
		return nil
	}
	c.forgetShared()
	err := c.run(ctx, "DETACH "+sharedSchema)
	c.attached = err != nil
	return err
}

// schemaProbe makes SQLite compare the schema it has in memory with the file's, which it does for the files that a
// statement reads only.
const (
	schemaVersion = "PRAGMA main.schema_version"
	schemaProbe   = "SELECT 1 FROM main.sqlite_schema LIMIT 0"
)

// schemaChanged reports whether the tenant's schema is another than when it was last asked, and has SQLite read it
// again if so.
func (c *conn) schemaChanged(ctx context.Context) (bool, error) {
	version, err := c.number(ctx, schemaVersion)
	if err != nil || version == c.schema {
		return false, err
	}
	if _, err := c.number(ctx, schemaProbe); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	c.schema = version
	return true, nil
}

// checkSchema forgets the statements that read shared tables when the tenant's schema changed.
func (c *conn) checkSchema(ctx context.Context) error {
	changed, err := c.schemaChanged(ctx)
	if err == nil && changed {
		c.forgetShared()
	}
	return err
}

// forgetShared forgets the statements that read shared tables.
func (c *conn) forgetShared() {
	for _, query := range c.stmts.Keys() {
		if st, ok := c.stmts.Peek(query); ok && st.effects&sharedRead != 0 && st.rows.in == nil {
			c.stmts.Remove(query)
		}
	}
}
